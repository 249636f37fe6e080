"""timm's ConvNeXt."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from jax_mix.training.models.depth import ResidualBlock
from jax_mix.training.models.initializers import normal
from jax_mix.training.models.pooling import global_mean

if TYPE_CHECKING:
    from jaxtyping import Array, Float

_init = normal(0.02)
# Variance not as E[x^2] - E[x]^2, Flax's own way: trained networks have features far from 0, where that loses digits.
_norm = functools.partial(nnx.LayerNorm, epsilon=1e-6, use_fast_variance=False)


class ConvNeXt(nnx.Module):
    """A residual network in the form of a transformer: the stem divides the image's size by 4, each later stage by 2.

    Shapes, for images of `[batch, height, width, in_channels]`:
      stem, stages.0: `[batch, height/4, width/4, width]`; each later stage: half the size, twice the channels. Sizes
      are rounded down.

    Args:
      in_channels: channels of the images.
      num_classes: how many logits.
      image_size: `(height, width)` of the images, at least `patch_size`, doubled for each stage after the first.
      patch_size: by which the stem divides the image's size.
      blocks: how many blocks each stage has; the stages are stages.0, stages.1, ...
      width: channels of the first stage.
      rngs: for the parameters. Kernels start as normal numbers of deviation 0.02, as timm's.

    Raises:
      ValueError: the image is too small.

    Source: Liu et al., arXiv:2201.03545; `timm.models.convnext.ConvNeXt`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        image_size: tuple[int, int],
        patch_size: int = 4,
        blocks: Sequence[int] = (3, 3, 9, 3),
        width: int = 96,
        rngs: nnx.Rngs,
    ) -> None:
        smallest = patch_size * 2 ** (len(blocks) - 1)
        if min(image_size) < smallest:
            raise ValueError(f"image_size must be at least {smallest} x {smallest}, got {image_size}.")
        self.stem = nnx.Sequential(_patches(in_channels, width, patch_size, rngs=rngs), _norm(width, rngs=rngs))
        widths = [width * 2**k for k in range(len(blocks))]
        stages = zip(itertools.pairwise([width, *widths]), blocks, strict=True)
        self.stages = nnx.List([Stage(*sizes, depth, rngs=rngs) for sizes, depth in stages])
        self.norm = _norm(widths[-1], rngs=rngs)
        self.head = nnx.Linear(widths[-1], num_classes, kernel_init=_init, rngs=rngs)

    def __call__(self, image: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(global_mean(x)))


def convnext_tiny(
    in_channels: int, num_classes: int, *, image_size: tuple[int, int], width: int = 96, rngs: nnx.Rngs
) -> ConvNeXt:
    """timm's `convnext_tiny`, torchvision's too by other names: stages of 3, 3, 9 and 3 blocks. See `ConvNeXt`."""
    return ConvNeXt(in_channels, num_classes, image_size=image_size, blocks=(3, 3, 9, 3), width=width, rngs=rngs)


class Stage(nnx.Module):
    """LayerNorm and a convolution of 2 x 2 where channels double, then blocks: `[b, h, w, in]` to `[b, r, c, out]`."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, *, rngs: nnx.Rngs) -> None:
        self.downsample = None if in_channels == out_channels else _downsample(in_channels, out_channels, rngs=rngs)
        self.blocks = nnx.List([Block(out_channels, rngs=rngs) for _ in range(depth)])

    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch rows columns out"]:
        if self.downsample is not None:
            x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class Block(ResidualBlock):
    """A 7 x 7 convolution of each channel, LayerNorm and two linear layers with GELU, scaled, beside a shortcut."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(width, width, (7, 7), padding=3, feature_group_count=width, kernel_init=_init, rngs=rngs)
        self.norm = _norm(width, rngs=rngs)
        self.fc1 = nnx.Linear(width, 4 * width, kernel_init=_init, rngs=rngs)
        self.fc2 = nnx.Linear(4 * width, width, kernel_init=_init, rngs=rngs)
        self.gamma = nnx.Param(jnp.full(width, 1e-6, jnp.float32))  # the block starts as its shortcut, nearly

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        h = self.norm(self.conv(x))
        h = self.fc2(nnx.gelu(self.fc1(h), approximate=False))
        return x + self.branch(h * jnp.broadcast_to(self.gamma[...].astype(h.dtype), h.shape))


def _downsample(in_channels: int, out_channels: int, *, rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(_norm(in_channels, rngs=rngs), _patches(in_channels, out_channels, 2, rngs=rngs))


def _patches(in_channels: int, out_channels: int, size: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution of windows side by side, `size` wide."""
    return nnx.Conv(
        in_channels,
        out_channels,
        (size, size),
        strides=size,
        padding="VALID",
        kernel_init=_init,
        rngs=rngs,
    )

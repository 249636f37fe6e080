"""Vision transformers: a small one, and timm's."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_mix.training.models.depth import ResidualBlock
from jax_mix.training.models.initializers import lecun_normal, normal
from jax_mix.training.models.pooling import global_mean

if TYPE_CHECKING:
    from jaxtyping import Array, Float

_layer_norm = functools.partial(nnx.LayerNorm, epsilon=1e-5)
# Variance not as E[x^2] - E[x]^2, Flax's own way: trained networks have features far from 0, where that loses digits.
_timm_layer_norm = functools.partial(nnx.LayerNorm, epsilon=1e-6, use_fast_variance=False)


class ViT(nnx.Module):
    """A vision transformer: patches, a learnt position each, pre-norm blocks, and the mean over the patches.

    The mean stands for the class token: it is simpler, and no worse (arXiv:2205.01580). With `timm` it is the network
    of that library: with a class token, whose features go to the head.

    Shapes: blocks.0, blocks.1, ...: `[batch, tokens, width]`; tokens are the patches, and with `timm` one more.

    Args:
      in_channels: channels of the images.
      num_classes: how many logits.
      image_size: `(height, width)` of the images.
      patch_size: side of a patch in pixels.
      width: features of a patch.
      depth: how many blocks.
      heads: of the attention.
      timm: as timm's `VisionTransformer`: a class token, LayerNorm's epsilon of 1e-6, and linear layers that start as
        normal numbers of deviation 0.02.
      rngs: for the parameters.

    Raises:
      ValueError: the image is not whole patches, or the width not whole heads.

    Source: Dosovitskiy et al., arXiv:2010.11929; `timm.models.vision_transformer.VisionTransformer`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        image_size: tuple[int, int],
        patch_size: int = 4,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        timm: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        if image_size[0] % patch_size or image_size[1] % patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, {patch_size}, got {image_size}.")
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, {heads}, got {width}.")
        window = (patch_size, patch_size)
        self.patch = nnx.Conv(in_channels, width, kernel_size=window, strides=window, padding="VALID", rngs=rngs)
        norm, init = (_timm_layer_norm, normal(0.02)) if timm else (_layer_norm, lecun_normal)
        tokens = (image_size[0] // patch_size) * (image_size[1] // patch_size) + timm
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, tokens, width)))
        self.token = nnx.Param(1e-6 * jax.random.normal(rngs.params(), (1, 1, width))) if timm else None
        self.blocks = nnx.List([Block(width, heads, norm=norm, init=init, rngs=rngs) for _ in range(depth)])
        self.norm = norm(width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, image: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = self.patch(image)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        if self.token is not None:
            token = jnp.broadcast_to(self.token[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
            x = jnp.concatenate([token, x], axis=1)
        x = x + jnp.broadcast_to(self.position[...].astype(x.dtype), x.shape)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(global_mean(x) if self.token is None else x[:, 0])


def vit_small_patch16_224(
    in_channels: int, num_classes: int, *, image_size: tuple[int, int], width: int = 384, rngs: nnx.Rngs
) -> ViT:
    """timm's `vit_small_patch16_224`, DeiT-S too: patches of 16 x 16, twelve blocks, heads of 64. See `ViT`.

    The images need not be of 224 pixels, but of whole patches.
    """
    if width % 64:
        raise ValueError(f"width must be a multiple of 64, a head's, got {width}.")
    return ViT(
        in_channels,
        num_classes,
        image_size=image_size,
        patch_size=16,
        width=width,
        depth=12,
        heads=width // 64,
        timm=True,
        rngs=rngs,
    )


class Block(ResidualBlock):
    """Attention, then two linear layers with GELU, each after a LayerNorm and beside a shortcut: `[b, t, c]`."""

    def __init__(self, width: int, heads: int, *, norm: Any, init: nnx.Initializer, rngs: nnx.Rngs) -> None:
        self.norm1 = norm(width, rngs=rngs)
        self.attention = Attention(width, heads, init=init, rngs=rngs)
        self.norm2 = norm(width, rngs=rngs)
        self.fc1 = nnx.Linear(width, 4 * width, kernel_init=init, rngs=rngs)
        self.fc2 = nnx.Linear(4 * width, width, kernel_init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        x = x + self.branch(self.attention(self.norm1(x)))
        h = self.fc2(nnx.gelu(self.fc1(self.norm2(x)), approximate=False))
        return x + self.branch(h, 1)


class Attention(nnx.Module):
    """Each token's softmax-weighted mean of all tokens' values, in several heads: `[b, t, c]` to `[b, t, c]`."""

    def __init__(self, width: int, heads: int, *, init: nnx.Initializer, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.qkv = nnx.Linear(width, 3 * width, kernel_init=init, rngs=rngs)
        self.out = nnx.Linear(width, width, kernel_init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = jnp.moveaxis(qkv, 2, 0)
        # Not jax.nn.dot_product_attention, whose softmax is in float32 even where everything else is float64.
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * (width // self.heads) ** -0.5
        mean = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
        return self.out(mean.reshape(batch, tokens, width))

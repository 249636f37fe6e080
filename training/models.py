"""A small pre-activation ResNet, its stages named as the Manifold Mixup authors name theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class PreActResNet(nnx.Module):
    """A stem, three stages of one block each, of which the later two halve the image, and a linear head.

    Shapes, for images of `[batch, height, width, in_channels]`:
      stem, layer1: `[batch, height, width, width]`; layer2: half the size, twice the channels; layer3: again.

    Args:
      in_channels: channels of the images.
      num_classes: how many logits.
      width: channels of the first stage.
      rngs: for the parameters.

    Source: He et al., arXiv:1603.05027; stages as in Manifold Mixup's PreActResNet.
    """

    def __init__(self, in_channels: int, num_classes: int, *, width: int = 16, rngs: nnx.Rngs) -> None:
        self.stem = _conv(in_channels, width, rngs=rngs)
        self.layer1 = PreActBlock(width, width, rngs=rngs)
        self.layer2 = PreActBlock(width, 2 * width, stride=2, rngs=rngs)
        self.layer3 = PreActBlock(2 * width, 4 * width, stride=2, rngs=rngs)
        self.norm = _norm(4 * width, rngs=rngs)
        self.head = nnx.Linear(4 * width, num_classes, rngs=rngs)

    def __call__(self, image: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = self.layer3(self.layer2(self.layer1(self.stem(image))))
        return self.head(jnp.mean(nnx.relu(self.norm(x)), axis=(1, 2)))


class PreActBlock(nnx.Module):
    """BatchNorm, ReLU, convolution, twice, beside a shortcut: `[b, h, w, in]` to `[b, h/stride, w/stride, out]`."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, rngs: nnx.Rngs) -> None:
        self.norm1 = _norm(in_channels, rngs=rngs)
        self.conv1 = _conv(in_channels, out_channels, stride=stride, rngs=rngs)
        self.norm2 = _norm(out_channels, rngs=rngs)
        self.conv2 = _conv(out_channels, out_channels, rngs=rngs)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = None if same else _conv(in_channels, out_channels, kernel=1, stride=stride, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch height width out"]:
        h = nnx.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(h)
        h = self.conv1(h)
        h = self.conv2(nnx.relu(self.norm2(h)))
        return h + shortcut


def _conv(in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, rngs: nnx.Rngs) -> nnx.Conv:
    # Explicit padding: "SAME" pads a strided convolution on one side only, PyTorch on both.
    return nnx.Conv(
        in_channels,
        out_channels,
        kernel_size=(kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        rngs=rngs,
    )


def _norm(channels: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)  # 0.99, Flax's own, is too slow for a few hundred steps

"""Residual networks: the pre-activated one of Manifold Mixup, torchvision's and fastai's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import nnx

from jax_mix.training.models.depth import ResidualBlock
from jax_mix.training.models.initializers import kaiming_normal, kaiming_normal_fan_out, lecun_normal
from jax_mix.training.models.pooling import global_mean

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class PreActResNet(nnx.Module):
    """A ResNet whose blocks activate before they convolve: a stem, stages of blocks, and a linear head.

    Shapes, for images of `[batch, height, width, in_channels]`:
      stem, layer1: `[batch, height, width, width]`; each later stage: half the size, twice the channels.

    Args:
      in_channels: channels of the images.
      num_classes: how many logits.
      blocks: how many blocks each stage has; the stages are layer1, layer2, ...
      width: channels of the first stage.
      stem_width: channels of the stem; None: those of the first stage.
      rngs: for the parameters.

    Source: He et al., arXiv:1603.05027; stages as in Manifold Mixup's PreActResNet, whose authors leave out the
    last BatchNorm and ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        blocks: Sequence[int] = (1, 1, 1),
        width: int = 16,
        stem_width: int | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        stem_width = stem_width or width
        self.stem = _conv(in_channels, stem_width, rngs=rngs)
        self.stages = _add_stages(self, PreActBlock, blocks, stem_width, width, rngs=rngs)
        channels = width * 2 ** (len(blocks) - 1)
        self.norm = _norm(channels, rngs=rngs)
        self.head = nnx.Linear(channels, num_classes, kernel_init=lecun_normal, rngs=rngs)

    def __call__(self, image: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = self.stem(image)
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.head(global_mean(nnx.relu(self.norm(x))))


def preact_resnet18(in_channels: int, num_classes: int, *, width: int = 64, rngs: nnx.Rngs) -> PreActResNet:
    """The network of Manifold Mixup's experiments on CIFAR: four stages of two blocks. See `PreActResNet`."""
    return PreActResNet(in_channels, num_classes, blocks=(2, 2, 2, 2), width=width, rngs=rngs)


def wide_resnet28_10(in_channels: int, num_classes: int, *, width: int = 160, rngs: nnx.Rngs) -> PreActResNet:
    """WideResNet-28-10: three stages of four blocks, ten times as wide as their stem of 16. See `PreActResNet`.

    Source: Zagoruyko and Komodakis, arXiv:1605.07146; without its optional Dropout.
    """
    return PreActResNet(in_channels, num_classes, blocks=(4, 4, 4), width=width, stem_width=16, rngs=rngs)


class PreActBlock(ResidualBlock):
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
        return self.branch(h) + shortcut


class ResNet(nnx.Module):
    """torchvision's ResNet: the stem divides the image's size by 4, each later stage by 2.

    Shapes, for images of `[batch, height, width, in_channels]`:
      conv1: `[batch, height/2, width/2, width]`; layer1: `[batch, height/4, width/4, width]`, or with bottlenecks
      four times the channels; each later stage: half the size, twice the channels. Sizes are rounded up.

    Args:
      in_channels: channels of the images.
      num_classes: how many logits.
      block: `BasicBlock`, or `Bottleneck`.
      blocks: how many blocks each stage has; the stages are layer1, layer2, ...
      width: channels of the stem.
      rngs: for the parameters. Convolutions start as torchvision's, the head as Flax's.

    Source: He et al., arXiv:1512.03385; `torchvision.models.ResNet`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        block: type[BasicBlock] | type[Bottleneck] | None = None,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        rngs: nnx.Rngs,
    ) -> None:
        block = block or BasicBlock
        first = width * block.expansion
        self.conv1 = _conv(in_channels, width, kernel=7, stride=2, init=kaiming_normal_fan_out, rngs=rngs)
        self.bn1 = _norm(width, rngs=rngs)
        self.stages = _add_stages(self, block, blocks, width, first, rngs=rngs)
        self.fc = nnx.Linear(first * 2 ** (len(blocks) - 1), num_classes, kernel_init=lecun_normal, rngs=rngs)

    def __call__(self, image: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = _max_pool(nnx.relu(self.bn1(self.conv1(image))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(global_mean(x))


def resnet18(in_channels: int, num_classes: int, *, width: int = 64, rngs: nnx.Rngs) -> ResNet:
    """torchvision's ResNet-18: four stages of two blocks. See `ResNet`."""
    return ResNet(in_channels, num_classes, blocks=(2, 2, 2, 2), width=width, rngs=rngs)


def resnet34(in_channels: int, num_classes: int, *, width: int = 64, rngs: nnx.Rngs) -> ResNet:
    """torchvision's ResNet-34: four stages of three to six blocks. See `ResNet`."""
    return ResNet(in_channels, num_classes, blocks=(3, 4, 6, 3), width=width, rngs=rngs)


def resnet50(in_channels: int, num_classes: int, *, width: int = 64, rngs: nnx.Rngs) -> ResNet:
    """torchvision's ResNet-50: ResNet-34 with bottlenecks. See `ResNet`."""
    return ResNet(in_channels, num_classes, block=Bottleneck, blocks=(3, 4, 6, 3), width=width, rngs=rngs)


class BasicBlock(ResidualBlock):
    """Convolution, BatchNorm, ReLU, twice, the last ReLU after the sum: `[b, h, w, in]` to `[b, h/s, w/s, out]`."""

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, rngs: nnx.Rngs) -> None:
        self.conv1 = _conv(in_channels, out_channels, stride=stride, init=kaiming_normal_fan_out, rngs=rngs)
        self.bn1 = _norm(out_channels, rngs=rngs)
        self.conv2 = _conv(out_channels, out_channels, init=kaiming_normal_fan_out, rngs=rngs)
        self.bn2 = _norm(out_channels, rngs=rngs)
        self.downsample = _downsample(in_channels, out_channels, stride, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch height width out"]:
        h = nnx.relu(self.bn1(self.conv1(x)))
        h = self.branch(self.bn2(self.conv2(h)))
        return nnx.relu(h + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions: `[b, h, w, in]` to `[b, h/s, w/s, out]`, with a quarter of `out` between them.

    The stride is in the 3x3, as torchvision has it; in the paper it is in the first.
    """

    expansion = 4

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, rngs: nnx.Rngs) -> None:
        channels = out_channels // self.expansion
        self.conv1 = _conv(in_channels, channels, kernel=1, init=kaiming_normal_fan_out, rngs=rngs)
        self.bn1 = _norm(channels, rngs=rngs)
        self.conv2 = _conv(channels, channels, stride=stride, init=kaiming_normal_fan_out, rngs=rngs)
        self.bn2 = _norm(channels, rngs=rngs)
        self.conv3 = _conv(channels, out_channels, kernel=1, init=kaiming_normal_fan_out, rngs=rngs)
        self.bn3 = _norm(out_channels, rngs=rngs)
        self.downsample = _downsample(in_channels, out_channels, stride, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch height width out"]:
        h = nnx.relu(self.bn1(self.conv1(x)))
        h = nnx.relu(self.bn2(self.conv2(h)))
        h = self.branch(self.bn3(self.conv3(h)))
        return nnx.relu(h + (x if self.downsample is None else self.downsample(x)))


def _downsample(in_channels: int, out_channels: int, stride: int, *, rngs: nnx.Rngs) -> nnx.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    conv = _conv(in_channels, out_channels, kernel=1, stride=stride, init=kaiming_normal_fan_out, rngs=rngs)
    return nnx.Sequential(conv, _norm(out_channels, rngs=rngs))


class XResNet(nnx.Module):
    """fastai's ResNet with a stem of three convolutions and average pooling beside blocks that halve the image.

    Shapes, for images of `[batch, height, width, in_channels]`:
      stem: `[batch, height/2, width/2, 64]`; layer1: `[batch, height/4, width/4, 64]`; each later stage: half the
      size, twice the channels. Sizes are rounded up.

    Args:
      in_channels: channels of the images.
      num_classes: how many logits.
      blocks: how many blocks each stage has; the stages are layer1, layer2, ...
      rngs: for the parameters, which start as fastai's.

    Source: He et al., "Bag of tricks", arXiv:1812.01187; `fastai.vision.models.xresnet.XResNet`.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, blocks: Sequence[int] = (2, 2, 2, 2), rngs: nnx.Rngs
    ) -> None:
        sizes = itertools.pairwise((in_channels, 32, 32, 64))
        self.stem = nnx.Sequential(*(ConvLayer(*s, stride=1 + (i == 0), rngs=rngs) for i, s in enumerate(sizes)))
        self.stages = _add_stages(self, ResBlock, blocks, 64, 64, rngs=rngs)
        self.fc = nnx.Linear(64 * 2 ** (len(blocks) - 1), num_classes, kernel_init=kaiming_normal, rngs=rngs)

    def __call__(self, image: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = _max_pool(self.stem(image))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(global_mean(x))


def xresnet18(in_channels: int, num_classes: int, *, rngs: nnx.Rngs) -> XResNet:
    """fastai's `xresnet18`: four stages of two blocks. See `XResNet`."""
    return XResNet(in_channels, num_classes, blocks=(2, 2, 2, 2), rngs=rngs)


class ResBlock(nnx.Module):
    """Two convolutions beside a path that is pooled, then convolved: `[b, h, w, in]` to `[b, h/s, w/s, out]`."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, rngs: nnx.Rngs) -> None:
        self.conv1 = ConvLayer(in_channels, out_channels, stride=stride, rngs=rngs)
        self.conv2 = ConvLayer(out_channels, out_channels, activate=False, rngs=rngs)
        self.conv2.norm.scale = nnx.Param(jnp.zeros(out_channels, jnp.float32))  # the block starts as its shortcut
        same = in_channels == out_channels
        self.shortcut = None if same else ConvLayer(in_channels, out_channels, kernel=1, activate=False, rngs=rngs)
        self.stride = stride

    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch height width out"]:
        h = self.conv2(self.conv1(x))
        if self.stride != 1:
            window = (self.stride, self.stride)
            # At an odd edge the window holds fewer pixels, and the mean is of those.
            x = nnx.avg_pool(x, window, strides=window, padding="SAME", count_include_pad=False)
        return nnx.relu(h + (x if self.shortcut is None else self.shortcut(x)))


class ConvLayer(nnx.Module):
    """Convolution, BatchNorm and, if `activate`, ReLU: `[b, h, w, in]` to `[b, h/stride, w/stride, out]`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        activate: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = _conv(in_channels, out_channels, kernel=kernel, stride=stride, init=kaiming_normal, rngs=rngs)
        self.norm = _norm(out_channels, rngs=rngs)
        self.activate = activate

    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch height width out"]:
        x = self.norm(self.conv(x))
        return nnx.relu(x) if self.activate else x


def _add_stages(
    model: nnx.Module, block: Any, blocks: Sequence[int], in_channels: int, width: int, *, rngs: nnx.Rngs
) -> tuple[str, ...]:
    """Give `model` its stages layer1, of `width` channels, layer2, ..., each of half the image and twice the channels.

    Returns:
      The stages' names.
    """
    names = tuple(f"layer{k + 1}" for k in range(len(blocks)))
    for k, name in enumerate(names):
        channels = width * 2**k
        first = block(in_channels, channels, stride=2 if k else 1, rngs=rngs)
        others = [block(channels, channels, rngs=rngs) for _ in range(blocks[k] - 1)]
        setattr(model, name, nnx.Sequential(first, *others))
        in_channels = channels
    return names


def _conv(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    init: nnx.Initializer = lecun_normal,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    # Explicit padding: "SAME" pads a strided convolution on one side only, PyTorch on both.
    return nnx.Conv(
        in_channels,
        out_channels,
        kernel_size=(kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=init,
        rngs=rngs,
    )


def _norm(channels: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    # Momentum: 0.99, Flax's own, is too slow for a few hundred steps. Variance: not as E[x^2] - E[x]^2, Flax's own way,
    # which loses digits where a batch has few values in a channel.
    return nnx.BatchNorm(channels, momentum=0.9, use_fast_variance=False, rngs=rngs)


def _max_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

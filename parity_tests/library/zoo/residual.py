"""Residual and densely connected networks for images."""

import jax
import jax.numpy as jnp
from flax import linen, nnx

from parity_tests.library.zoo._kind import floats, kind, make_linen, make_nnx

IMAGE = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)


def conv(into, out, size, rngs, stride=1, **kwargs):
    return nnx.Conv(into, out, (size, size), stride, use_bias=False, rngs=rngs, **kwargs)


class PreActBlock(nnx.Module):
    """BatchNorm and ReLU first; where the shape changes, the shortcut starts after them."""

    def __init__(self, into, out, stride, *, rngs, dropout=0.0):
        self.bn1 = nnx.BatchNorm(into, rngs=rngs)
        self.conv1 = conv(into, out, 3, rngs, stride)
        self.bn2 = nnx.BatchNorm(out, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.conv2 = conv(out, out, 3, rngs)
        self.shortcut = conv(into, out, 1, rngs, stride) if stride != 1 or into != out else None

    def __call__(self, x):
        y = nnx.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return shortcut + self.conv2(self.dropout(nnx.relu(self.bn2(self.conv1(y)))))


class PreActResNet(nnx.Module):
    def __init__(self, *, rngs):
        self.stem = conv(3, 8, 3, rngs)
        self.layer1 = nnx.Sequential(PreActBlock(8, 8, 1, rngs=rngs), PreActBlock(8, 8, 1, rngs=rngs))
        self.layer2 = nnx.Sequential(PreActBlock(8, 16, 2, rngs=rngs), PreActBlock(16, 16, 1, rngs=rngs))
        self.bn = nnx.BatchNorm(16, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = self.layer2(self.layer1(self.stem(x)))
        return self.head(nnx.relu(self.bn(x)).mean((1, 2)))


class BasicBlock(nnx.Module):
    expansion = 1

    def __init__(self, into, width, stride, *, rngs):
        self.conv1 = conv(into, width, 3, rngs, stride)
        self.bn1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, rngs)
        self.bn2 = nnx.BatchNorm(width, rngs=rngs)
        self.downsample = downsample(into, width, stride, rngs)

    def __call__(self, x):
        y = self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nnx.Module):
    expansion = 2

    def __init__(self, into, width, stride, *, rngs):
        out = width * self.expansion
        self.conv1 = conv(into, width, 1, rngs)
        self.bn1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, rngs, stride)
        self.bn2 = nnx.BatchNorm(width, rngs=rngs)
        self.conv3 = conv(width, out, 1, rngs)
        self.bn3 = nnx.BatchNorm(out, rngs=rngs)
        self.downsample = downsample(into, out, stride, rngs)

    def __call__(self, x):
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(nnx.relu(self.bn2(self.conv2(y)))))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


def downsample(into, out, stride, rngs):
    if stride == 1 and into == out:
        return None
    return nnx.Sequential(conv(into, out, 1, rngs, stride), nnx.BatchNorm(out, rngs=rngs))


class ResNet(nnx.Module):
    """As torchvision's: blocks end in a ReLU, and only a mean and a Linear follow the last."""

    def __init__(self, block, stages, *, rngs):
        self.conv1 = conv(3, 8, 3, rngs)
        self.bn1 = nnx.BatchNorm(8, rngs=rngs)
        blocks, into = [], 8
        for width, stride in ((8, 1), (8, 1), (12, 2), (12, 1)):
            blocks.append(block(into, width, stride, rngs=rngs))
            into = width * block.expansion
        sequential = stages is nnx.Sequential
        self.layer1 = stages(*blocks[:2]) if sequential else stages(blocks[:2])
        self.layer2 = stages(*blocks[2:]) if sequential else stages(blocks[2:])
        self.fc = nnx.Linear(into, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage in (self.layer1, self.layer2):
            for block in [stage] if isinstance(stage, nnx.Sequential) else stage:
                x = block(x)
        return self.fc(x.mean((1, 2)))


class LinenBlock(linen.Module):
    width: int
    stride: int = 1

    @linen.compact
    def __call__(self, x, train):
        def norm(y, name):
            return linen.BatchNorm(use_running_average=not train, name=name)(y)

        y = linen.Conv(self.width, (3, 3), self.stride, use_bias=False)(x)
        y = linen.Conv(self.width, (3, 3), use_bias=False)(linen.relu(norm(y, "norm_1")))
        y = norm(y, "norm_2")
        if y.shape != x.shape:
            x = linen.Conv(self.width, (1, 1), self.stride, use_bias=False, name="conv_proj")(x)
            x = norm(x, "norm_proj")
        return linen.relu(y + x)


class LinenResNet(linen.Module):
    """A torchvision ResNet as one writes it in Linen, all in `__call__`."""

    @linen.compact
    def __call__(self, x, train=True):
        x = linen.Conv(8, (3, 3), use_bias=False, name="conv_init")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train, name="bn_init")(x))
        for width, stride in ((8, 1), (8, 1), (12, 2), (12, 1)):
            x = LinenBlock(width, stride)(x, train)
        return linen.Dense(10)(x.mean((1, 2)))


class NetworkBlock(nnx.Module):
    """A stage of a WideResNet: called a block, it is a stack of them."""

    def __init__(self, into, out, stride, *, rngs):
        blocks = (
            PreActBlock(into, out, stride, rngs=rngs, dropout=0.3),
            PreActBlock(out, out, 1, rngs=rngs, dropout=0.3),
        )
        self.layer = nnx.List(blocks)

    def __call__(self, x):
        for block in self.layer:
            x = block(x)
        return x


class WideResNet(nnx.Module):
    def __init__(self, *, rngs):
        self.conv1 = conv(3, 8, 3, rngs)
        self.block1 = NetworkBlock(8, 12, 1, rngs=rngs)
        self.block2 = NetworkBlock(12, 16, 2, rngs=rngs)
        self.bn1 = nnx.BatchNorm(16, rngs=rngs)
        self.fc = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn1(self.block2(self.block1(self.conv1(x)))))
        return self.fc(x.mean((1, 2)))


class StdConv(nnx.Conv):
    """A convolution with standardised weights."""

    def __call__(self, x):
        kernel = self.kernel[...]
        mean, var = kernel.mean((0, 1, 2), keepdims=True), kernel.var((0, 1, 2), keepdims=True)
        return jax.lax.conv_general_dilated(
            x, (kernel - mean) / jnp.sqrt(var + 1e-5), self.strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class BiTUnit(nnx.Module):
    def __init__(self, into, out, stride, *, rngs):
        self.gn1 = nnx.GroupNorm(into, 4, rngs=rngs)
        self.conv1 = StdConv(into, 8, (1, 1), (1, 1), use_bias=False, rngs=rngs)
        self.gn2 = nnx.GroupNorm(8, 4, rngs=rngs)
        self.conv2 = StdConv(8, 8, (3, 3), (stride, stride), use_bias=False, rngs=rngs)
        self.gn3 = nnx.GroupNorm(8, 4, rngs=rngs)
        self.conv3 = StdConv(8, out, (1, 1), (1, 1), use_bias=False, rngs=rngs)
        project = StdConv(into, out, (1, 1), (stride, stride), use_bias=False, rngs=rngs)
        self.conv_proj = project if stride != 1 or into != out else None

    def __call__(self, x):
        y = nnx.relu(self.gn1(x))
        residual = x if self.conv_proj is None else self.conv_proj(y)
        y = self.conv2(nnx.relu(self.gn2(self.conv1(y))))
        return self.conv3(nnx.relu(self.gn3(y))) + residual


class BiT(nnx.Module):
    def __init__(self, *, rngs):
        self.root = StdConv(3, 8, (3, 3), (1, 1), use_bias=False, rngs=rngs)
        sizes = ((8, 16, 1), (16, 16, 1)), ((16, 24, 2), (24, 24, 1))
        self.body = nnx.List([nnx.List([BiTUnit(*size, rngs=rngs) for size in stage]) for stage in sizes])
        self.norm = nnx.GroupNorm(24, 4, rngs=rngs)
        self.head = nnx.Conv(24, 10, (1, 1), rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(self.root(x), (3, 3), (2, 2), "SAME")
        for stage in self.body:
            for unit in stage:
                x = unit(x)
        x = nnx.relu(self.norm(x)).mean((1, 2), keepdims=True)
        return self.head(x)[:, 0, 0]


class DenseLayer(nnx.Module):
    """Puts out the new features alone, or joined to what it got."""

    def __init__(self, into, *, rngs, joins):
        self.joins = joins
        self.norm1 = nnx.BatchNorm(into, rngs=rngs)
        self.conv1 = conv(into, 8, 1, rngs)
        self.norm2 = nnx.BatchNorm(8, rngs=rngs)
        self.conv2 = conv(8, 4, 3, rngs)

    def __call__(self, x):
        y = self.conv1(nnx.relu(self.norm1(x)))
        y = self.conv2(nnx.relu(self.norm2(y)))
        return jnp.concatenate([x, y], -1) if self.joins else y


class DenseBlock(nnx.Module):
    def __init__(self, into, *, rngs, joins):
        self.joins = joins
        self.layers = nnx.List([DenseLayer(into + 4 * i, rngs=rngs, joins=joins) for i in range(2)])

    def __call__(self, x):
        if self.joins:
            for layer in self.layers:
                x = layer(x)
            return x
        features = [x]
        for layer in self.layers:
            features.append(layer(jnp.concatenate(features, -1)))
        return jnp.concatenate(features, -1)


class Transition(nnx.Module):
    def __init__(self, into, out, *, rngs):
        self.norm = nnx.BatchNorm(into, rngs=rngs)
        self.conv = conv(into, out, 1, rngs)

    def __call__(self, x):
        x = self.conv(nnx.relu(self.norm(x)))
        return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))


class DenseNet(nnx.Module):
    def __init__(self, *, rngs, joins):
        self.conv0 = conv(3, 8, 3, rngs)
        self.norm0 = nnx.BatchNorm(8, rngs=rngs)
        self.blocks = nnx.List([DenseBlock(8, rngs=rngs, joins=joins) for _ in range(3)])
        self.transitions = nnx.List([Transition(16, 8, rngs=rngs) for _ in range(2)])
        self.norm5 = nnx.BatchNorm(16, rngs=rngs)
        self.classifier = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm0(self.conv0(x))), (2, 2), (2, 2))
        x = self.transitions[0](self.blocks[0](x))
        x = self.transitions[1](self.blocks[1](x))
        x = nnx.relu(self.norm5(self.blocks[2](x)))
        return self.classifier(x.mean((1, 2)))


PIXELS = floats(16, 16, 3)
KINDS = (
    kind(
        "pre-activation ResNet",
        make_nnx(PreActResNet),
        PIXELS,
        "layer1.layers.0 layer1.layers.1 layer2.layers.0 layer2.layers.1",
        # Where the shortcut is a convolution, it starts after the first norm: all goes through that.
        "stem layer1.layers.0 layer1.layers.1 layer1 layer2.layers.0 layer2.layers.0.bn1 layer2 bn head",
        "layer1.layers.0.bn1 layer1.layers.0.conv1 layer1.layers.1.conv2 layer2.layers.0.shortcut "
        "layer2.layers.0.conv2",
    ),
    kind(
        "ResNet of basic blocks",
        make_nnx(ResNet, BasicBlock, nnx.Sequential),
        PIXELS,
        "layer1.layers.0 layer1.layers.1 layer2.layers.0",
        "conv1 bn1 layer1.layers.0 layer1.layers.1 layer1 layer2.layers.0 layer2.layers.1 layer2 fc",
        "layer1.layers.0.conv1 layer1.layers.0.bn2 layer2.layers.0.downsample layer2.layers.0.downsample.layers.0 "
        "layer2.layers.0.bn2",
    ),
    kind(
        "ResNet of bottlenecks",
        make_nnx(ResNet, Bottleneck, nnx.List),
        PIXELS,
        "layer1.0 layer1.1 layer2.0",
        "conv1 bn1 layer1.0 layer1.1 layer2.0 layer2.1 fc",
        "layer1.0.conv1 layer1.0.downsample layer1.0.bn3 layer1.1.conv2 layer2.0.downsample.layers.1",
    ),
    kind(
        "ResNet in Linen",
        make_linen(LinenResNet(), IMAGE),
        PIXELS,
        "LinenBlock_0 LinenBlock_1 LinenBlock_2",
        "conv_init bn_init LinenBlock_0 LinenBlock_1 LinenBlock_2 LinenBlock_3 Dense_0",
        "LinenBlock_0.Conv_0 LinenBlock_0.norm_2 LinenBlock_2.conv_proj LinenBlock_2.norm_proj LinenBlock_3.Conv_1",
        eval={"train": False},
    ),
    kind(
        "WideResNet",
        make_nnx(WideResNet),
        PIXELS,
        "block1.layer.0 block1.layer.1 block2.layer.0 block2.layer.1",
        "conv1 block1.layer.0.bn1 block1.layer.0 block1.layer.1 block1 block2.layer.0 block2 bn1 fc",
        "block1.layer.0.shortcut block1.layer.0.conv2 block1.layer.1.bn1 block1.layer.1.dropout "
        "block2.layer.0.shortcut",
    ),
    kind(
        "BiT",
        make_nnx(BiT),
        PIXELS,
        "body.0.0 body.0.1 body.1.0 body.1.1",
        "root body.0.0.gn1 body.0.0 body.0.1 body.1.0 body.1.1 norm head",
        "body.0.0.conv_proj body.0.1.gn1 body.0.1.conv3 body.1.0.gn3",
    ),
    kind(
        "DenseNet whose block joins",
        make_nnx(DenseNet, joins=False),
        PIXELS,
        "blocks.0 blocks.1 blocks.2",
        "conv0 norm0 blocks.0 transitions.0.norm transitions.0.conv transitions.0 blocks.1 blocks.2 norm5 classifier",
        "blocks.0.layers.0 blocks.0.layers.1 blocks.0.layers.0.norm1 blocks.2.layers.1",
    ),
    kind(
        "DenseNet whose layers join",
        make_nnx(DenseNet, joins=True),
        PIXELS,
        " ".join(f"blocks.{i}.layers.{j}" for i in range(3) for j in range(2)),
        "conv0 norm0 blocks.0.layers.0 blocks.0.layers.1 blocks.0 transitions.0 blocks.2.layers.0 norm5 classifier",
        "blocks.0.layers.0.conv2 blocks.0.layers.1.norm1 blocks.2.layers.1.conv1",
    ),
)

"""Other networks for images: ConvNeXt, EfficientNet, VGG, U-Net, VAE, and one that restores its input."""

import jax
import jax.numpy as jnp
from flax import nnx

from parity_tests.library.zoo._kind import floats, kind, make_nnx


def conv(into, out, size, rngs, stride=1, groups=1):
    return nnx.Conv(into, out, (size, size), stride, feature_group_count=groups, rngs=rngs)


class ConvNeXtBlock(nnx.Module):
    def __init__(self, width, *, rngs):
        self.dwconv = conv(width, width, 7, rngs, groups=width)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.pwconv1 = nnx.Linear(width, 4 * width, rngs=rngs)
        self.pwconv2 = nnx.Linear(4 * width, width, rngs=rngs)
        self.gamma = nnx.Param(jnp.ones((1, 1, 1, width)))

    def __call__(self, x):
        y = self.pwconv2(nnx.gelu(self.pwconv1(self.norm(self.dwconv(x)))))
        return x + self.gamma[...] * y


class ConvNeXt(nnx.Module):
    def __init__(self, *, rngs):
        stem = nnx.Sequential(nnx.Conv(3, 8, (4, 4), 4, padding="VALID", rngs=rngs), nnx.LayerNorm(8, rngs=rngs))
        down = nnx.Sequential(nnx.LayerNorm(8, rngs=rngs), nnx.Conv(8, 16, (2, 2), 2, padding="VALID", rngs=rngs))
        self.downsample_layers = nnx.List([stem, down])
        self.stages = nnx.List(
            [nnx.Sequential(ConvNeXtBlock(w, rngs=rngs), ConvNeXtBlock(w, rngs=rngs)) for w in (8, 16)]
        )
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.head(self.norm(x.mean((1, 2))))


class SqueezeExcite(nnx.Module):
    def __init__(self, width, *, rngs):
        self.reduce = conv(width, 4, 1, rngs)
        self.expand = conv(4, width, 1, rngs)

    def __call__(self, x):
        gate = self.expand(nnx.silu(self.reduce(x.mean((1, 2), keepdims=True))))
        return x * nnx.sigmoid(gate)


class MBConv(nnx.Module):
    def __init__(self, into, out, ratio, stride, *, rngs):
        width = into * ratio
        self.expand_conv = conv(into, width, 1, rngs) if ratio > 1 else None
        self.bn0 = nnx.BatchNorm(width, rngs=rngs) if ratio > 1 else None
        self.depthwise_conv = conv(width, width, 3, rngs, stride, groups=width)
        self.bn1 = nnx.BatchNorm(width, rngs=rngs)
        self.se = SqueezeExcite(width, rngs=rngs)
        self.project_conv = conv(width, out, 1, rngs)
        self.bn2 = nnx.BatchNorm(out, rngs=rngs)
        self.is_residual = stride == 1 and into == out

    def __call__(self, x):
        y = x
        if self.expand_conv is not None:
            y = nnx.silu(self.bn0(self.expand_conv(y)))
        y = nnx.silu(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(self.se(y)))
        return x + y if self.is_residual else y


class EfficientNet(nnx.Module):
    def __init__(self, *, rngs):
        self.stem = nnx.Sequential(conv(3, 8, 3, rngs, 2), nnx.BatchNorm(8, rngs=rngs), nnx.silu)
        sizes = (8, 12, 1, 1), (12, 16, 3, 2), (16, 16, 3, 1)  # in, out, expand ratio, stride
        self.blocks = nnx.List([MBConv(*size, rngs=rngs) for size in sizes])
        self.conv_head = conv(16, 16, 1, rngs)
        self.bn_head = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.classifier = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = nnx.silu(self.bn_head(self.conv_head(x)))
        return self.classifier(self.dropout(x.mean((1, 2))))


def halve(x):
    return nnx.max_pool(x, (2, 2), (2, 2))


class VGG(nnx.Module):
    def __init__(self, *, rngs):
        c, relu = (lambda *size: conv(*size, 3, rngs)), nnx.relu
        self.features = nnx.Sequential(c(3, 8), relu, c(8, 8), relu, halve, c(8, 12), relu, c(12, 12), relu, halve)
        self.classifier = nnx.Sequential(
            nnx.Linear(4 * 4 * 12, 16, rngs=rngs), relu, nnx.Dropout(0.5, rngs=rngs), nnx.Linear(16, 10, rngs=rngs)
        )

    def __call__(self, x):
        x = self.features(x)
        return self.classifier(x.reshape(x.shape[0], -1))


class ConvBlock(nnx.Module):
    def __init__(self, into, out, *, rngs):
        self.conv = conv(into, out, 3, rngs)
        self.bn = nnx.BatchNorm(out, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.bn(self.conv(x)))


class VGGOfBlocks(nnx.Module):
    def __init__(self, *, rngs):
        sizes = (3, 8), (8, 8), (8, 12), (12, 12)
        self.blocks = nnx.List([ConvBlock(*size, rngs=rngs) for size in sizes])
        self.fc1 = nnx.Linear(4 * 4 * 12, 16, rngs=rngs)
        self.fc2 = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        for i, block in enumerate(self.blocks):
            x = halve(block(x)) if i % 2 else block(x)
        return self.fc2(nnx.relu(self.fc1(x.reshape(x.shape[0], -1))))


class DoubleConv(nnx.Module):
    def __init__(self, into, out, *, rngs):
        self.conv1 = conv(into, out, 3, rngs)
        self.bn1 = nnx.BatchNorm(out, rngs=rngs)
        self.conv2 = conv(out, out, 3, rngs)
        self.bn2 = nnx.BatchNorm(out, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x))))))


class UNet(nnx.Module):
    def __init__(self, *, rngs):
        self.down = nnx.List([DoubleConv(3, 8, rngs=rngs), DoubleConv(8, 12, rngs=rngs)])
        self.bottleneck = DoubleConv(12, 16, rngs=rngs)
        self.upsample = nnx.List([nnx.ConvTranspose(i, o, (2, 2), (2, 2), rngs=rngs) for i, o in ((16, 12), (12, 8))])
        self.up = nnx.List([DoubleConv(24, 12, rngs=rngs), DoubleConv(16, 8, rngs=rngs)])
        self.out = conv(8, 2, 1, rngs)

    def __call__(self, x):
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = halve(x)
        x = self.bottleneck(x)
        for upsample, up in zip(self.upsample, self.up, strict=True):
            x = up(jnp.concatenate([skips.pop(), upsample(x)], -1))
        return self.out(x)


class VAE(nnx.Module):
    """In inference the latent is the mean."""

    def __init__(self, *, rngs):
        self.deterministic, self.rngs = False, rngs
        self.encoder = nnx.Sequential(
            conv(1, 8, 3, rngs, 2), nnx.relu, conv(8, 12, 3, rngs, 2), nnx.relu, lambda x: x.reshape(x.shape[0], -1)
        )
        self.mean = nnx.Linear(7 * 7 * 12, 8, rngs=rngs)
        self.logvar = nnx.Linear(7 * 7 * 12, 8, rngs=rngs)
        self.decoder = nnx.Sequential(nnx.Linear(8, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 28 * 28, rngs=rngs))

    def __call__(self, x):
        hidden = self.encoder(x)
        mean, logvar = self.mean(hidden), self.logvar(hidden)
        z = mean
        if not self.deterministic:
            z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(self.rngs.noise(), mean.shape)
        return nnx.sigmoid(self.decoder(z)).reshape(x.shape), mean, logvar


class Restorer(nnx.Module):
    """Denoising: the network's output is added to its input."""

    def __init__(self, *, rngs):
        self.blocks = nnx.List([ConvBlock(3, 8, rngs=rngs), ConvBlock(8, 8, rngs=rngs)])
        self.out = conv(8, 3, 3, rngs)

    def __call__(self, x):
        y = x
        for block in self.blocks:
            y = block(y)
        return x + self.out(y)


PIXELS = floats(16, 16, 3)
KINDS = (
    kind(
        "ConvNeXt",
        make_nnx(ConvNeXt),
        PIXELS,
        "stages.0.layers.0 stages.0.layers.1 stages.1.layers.0 stages.1.layers.1",
        "downsample_layers.0.layers.0 downsample_layers.0 stages.0.layers.0 stages.0 downsample_layers.1.layers.0 "
        "downsample_layers.1 stages.1.layers.1 stages.1 norm head",
        "stages.0.layers.0.dwconv stages.0.layers.0.norm stages.0.layers.1.pwconv2 stages.1.layers.1.pwconv1",
    ),
    kind(
        "EfficientNet",
        make_nnx(EfficientNet),
        PIXELS,
        "blocks.0 blocks.1 blocks.2",
        # A block without a residual is a chain, but for the gate.
        "stem stem.layers.0 blocks.0.depthwise_conv blocks.0.se blocks.0.bn2 blocks.0 blocks.1.expand_conv "
        "blocks.1.bn1 blocks.1.project_conv blocks.1 blocks.2 conv_head bn_head dropout classifier",
        "blocks.0.se.reduce blocks.0.se.expand blocks.1.se.expand blocks.2.expand_conv blocks.2.se blocks.2.bn2",
    ),
    kind(
        "VGG",
        make_nnx(VGG),
        PIXELS,
        "features.layers.2 features.layers.5 features.layers.7",
        "features.layers.0 features.layers.2 features.layers.5 features.layers.7 features classifier.layers.0 "
        "classifier.layers.2 classifier.layers.3 classifier",
        "",
        also="classifier.layers.0 features",
    ),
    kind(
        "VGG of blocks",
        make_nnx(VGGOfBlocks),
        PIXELS,
        "blocks.0 blocks.1 blocks.2 blocks.3",
        "blocks.0.conv blocks.0.bn blocks.0 blocks.1 blocks.2.conv blocks.2 blocks.3 fc1 fc2",
        "",
    ),
    kind(
        "U-Net",
        make_nnx(UNet),
        PIXELS,
        # The last block's output is followed by a convolution alone: mixing there is mixing the outputs.
        "down.0",
        "down.0.conv1 down.0.conv2 down.0 up.1.conv1 up.1.bn2 up.1 out",
        "down.1 down.1.conv1 bottleneck bottleneck.conv1 upsample.0 up.0 upsample.1",
        also="up.1.conv1 up.1.bn1 up.1.conv2 up.1.bn2",
    ),
    kind(
        "VAE",
        make_nnx(VAE),
        floats(28, 28, 1),
        "encoder.layers.2",
        "encoder.layers.0 encoder.layers.2 encoder",
        "mean logvar decoder.layers.0 decoder",
        also="encoder",
    ),
    kind(
        "restorer",
        make_nnx(Restorer),
        PIXELS,
        "",
        "",
        "blocks.0 blocks.0.conv blocks.1 out",
    ),
)

"""A network of which nearly all is in three large arrays, beside small ones, statistics and a count of draws."""

from flax import nnx


class WideNet(nnx.Module):
    """A convolution, BatchNorm, another convolution, and two blocks with Dropout, for 8x8 images."""

    def __init__(self, in_channels, num_classes, *, rngs):
        self.stem = nnx.Conv(
            in_channels, 32, (3, 3), strides=2, use_bias=False, rngs=rngs
        )  # Adam makes much of a bias without gradient
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.conv = nnx.Conv(32, 32, (3, 3), rngs=rngs)
        self.layer1 = Block(512, rngs=rngs)
        self.layer2 = Block(512, rngs=rngs)
        self.head = nnx.Linear(512, num_classes, rngs=rngs)

    def __call__(self, image):
        h = nnx.relu(self.conv(nnx.relu(self.norm(self.stem(image)))))
        return self.head(self.layer2(self.layer1(h.reshape(len(h), -1))))


class Block(nnx.Module):
    def __init__(self, features, *, rngs):
        self.linear = nnx.Linear(features, features, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.dropout(nnx.relu(self.linear(x)))

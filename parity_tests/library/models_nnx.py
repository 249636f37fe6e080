"""Small NNX models of every structure a layer can sit in; written as a user would, knowing nothing of jax_mix."""

import jax
import jax.numpy as jnp
from flax import nnx


class MLP(nnx.Module):
    def __init__(self, rngs, *, width=8, classes=3):
        self.first = nnx.Linear(4, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first(x))
        x = nnx.relu(self.second(x))
        return self.head(x)


class ResBlock(nnx.Module):
    def __init__(self, width, rngs):
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.conv = nnx.Conv(width, width, (3, 3), rngs=rngs)

    def __call__(self, x):
        return x + self.conv(nnx.relu(self.norm(x)))


class ResNet(nnx.Module):
    """Convolutions, BatchNorm, Dropout, blocks in a list; reads an attribute and the type of its layers."""

    def __init__(self, rngs, *, width=4, classes=3):
        self.stem = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.blocks = nnx.List([ResBlock(width, rngs) for _ in range(2)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x):
        assert isinstance(self.stem, nnx.Conv)
        assert self.stem.out_features == self.head.in_features
        x = self.stem(nnx.relu(x))  # without a nonlinearity before it, mixing after the stem is mixing the input
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(x).mean((1, 2)))


class Remat(nnx.Module):
    """The same block type three times, rematerialised three ways: by decorator, by function, by a bare transform."""

    def __init__(self, rngs, *, width=4):
        self.one = RematBlock(width, rngs)
        self.two = Dense(width, rngs)
        self.three = Dense(width, rngs)

    def __call__(self, x):
        x = self.one(x)
        x = nnx.remat(lambda block, x: block(x))(self.two, x)
        return jax.checkpoint(lambda x: self.three(x))(x)


class Dense(nnx.Module):
    def __init__(self, width, rngs):
        self.linear = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.linear(x))


class RematBlock(Dense):
    @nnx.remat
    def __call__(self, x):
        return x + jnp.tanh(self.linear(x))


class Scanned(nnx.Module):
    """Blocks with weights stacked along a first axis, run by a scan."""

    def __init__(self, rngs, *, width=4, depth=3, remat=False):
        @nnx.split_rngs(splits=depth)
        @nnx.vmap
        def stack(rngs):
            return Dense(width, rngs)

        self.blocks = stack(rngs)
        self.remat = remat

    def __call__(self, x):
        def body(x, block):
            return block(x)

        body = nnx.remat(body) if self.remat else body
        return nnx.scan(body, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)


class Unrolled(nnx.Module):
    """The same computation as Scanned, written out."""

    def __init__(self, scanned: Scanned, depth=3):
        stacked = nnx.state(scanned.blocks)
        self.blocks = nnx.List([nnx.clone(Dense(4, nnx.Rngs(0))) for _ in range(depth)])
        for i, block in enumerate(self.blocks):
            nnx.update(block, jax.tree.map(lambda a, i=i: a[i], stacked))

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Twice(nnx.Module):
    """One layer called twice."""

    def __init__(self, rngs, *, width=4):
        self.shared = Dense(width, rngs)

    def __call__(self, x):
        return self.shared(self.shared(x))

"""Small Linen models of every structure a layer can sit in; written as a user would, knowing nothing of jax_mix."""

import flax.linen as nn
import jax.numpy as jnp


class Dense(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x):
        return x + jnp.tanh(nn.Dense(self.width, name="linear")(x))


class DenseBlock(Dense):
    """The same, by a name that says it is a block."""


class ResNet(nn.Module):
    """Convolutions, BatchNorm and Dropout; submodules named by compact and by the user."""

    width: int = 4

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.width, (3, 3), name="stem")(nn.relu(x))
        for i in range(2):
            x = ResBlock(self.width, name=f"block_{i}")(x, train)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3, name="head")(x.mean((1, 2)))


class ResBlock(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        h = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return x + nn.Conv(self.width, (3, 3), name="conv")(h)


class Lifted(nn.Module):
    """A shared layer called twice, a rematerialised one called twice, and a plain one."""

    def setup(self):
        self.shared = Dense()
        self.saved = nn.remat(Dense)()
        self.last = Dense()

    def __call__(self, x):
        return self.last(self.saved(self.saved(self.shared(self.shared(x)))))


class ScanBody(nn.Module):
    """The body of a scan; the mark has no parameters of its own."""

    remat: bool = False

    @nn.compact
    def __call__(self, x, _):
        dense = nn.remat(DenseBlock) if self.remat else DenseBlock
        return nn.Dropout(0.0, deterministic=False, name="drop")(dense(name="dense")(x)), None


class Scanned(nn.Module):
    remat: bool = False
    depth: int = 3

    @nn.compact
    def __call__(self, x):
        body = nn.remat(ScanBody) if self.remat else ScanBody
        scan = nn.scan(
            body, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True}, length=self.depth
        )
        x, _ = scan(remat=self.remat, name="blocks")(x, None)
        return x

"""Kinds whose wiring is not a chain: graphs, ensembles, several inputs or outputs, gates, blocks computed twice."""

import jax
import jax.numpy as jnp
from flax import linen, nnx

from parity_tests.library.zoo._kind import floats, kind, make_linen, make_nnx, normal

WIDTH = 8


def linear(into, out, rngs):
    return nnx.Linear(into, out, rngs=rngs)


class MLP(nnx.Module):
    def __init__(self, *, rngs):
        self.layers = nnx.List([linear(6, WIDTH, rngs), linear(WIDTH, WIDTH, rngs), linear(WIDTH, WIDTH, rngs)])
        self.head = linear(WIDTH, 3, rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x)


class LinenMLP(linen.Module):
    @linen.compact
    def __call__(self, x):
        for _ in range(3):
            x = linen.relu(linen.Dense(WIDTH)(x))
        return linen.Dense(3, name="head")(x)


class Block(nnx.Module):
    def __init__(self, *, rngs):
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.fc1, self.fc2 = linear(WIDTH, 2 * WIDTH, rngs), linear(2 * WIDTH, WIDTH, rngs)

    def __call__(self, x):
        return x + self.fc2(nnx.relu(self.fc1(self.norm(x))))


class RematBlock(Block):
    @nnx.remat
    def __call__(self, x):
        return super().__call__(x)


class Residual(nnx.Module):
    """A chain of blocks; `outputs`: "logits", "dict" with the features too, or "auxiliary" logits of the first block.

    `remat`: computes blocks twice, "each" through a function, or "unbound" through `__call__` of their class.
    """

    def __init__(self, *, rngs, block=Block, outputs="logits", remat=""):
        self.outputs, self.remat = outputs, remat
        self.stem = linear(6, WIDTH, rngs)
        self.blocks = nnx.List([block(rngs=rngs) for _ in range(3)])
        self.aux_head = linear(WIDTH, 3, rngs) if outputs == "auxiliary" else None
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = linear(WIDTH, 3, rngs)

    def __call__(self, x):
        x, auxiliary = self.stem(x), None
        apply = {"": lambda block, x: block(x), "each": nnx.remat(lambda block, x: block(x))}
        apply["unbound"] = nnx.remat(Block.__call__)
        for i, block in enumerate(self.blocks):
            x = apply[self.remat](block, x)
            if i == 0 and self.aux_head is not None:
                auxiliary = self.aux_head(nnx.relu(x))
        features = self.norm(x)
        logits = self.head(features)
        if self.outputs == "dict":
            return {"logits": logits, "features": features}
        return logits if auxiliary is None else (logits, auxiliary)


class HighwayLayer(nnx.Module):
    def __init__(self, *, rngs):
        self.transform, self.gate = linear(WIDTH, WIDTH, rngs), linear(WIDTH, WIDTH, rngs)

    def __call__(self, x):
        t = nnx.sigmoid(self.gate(x))
        return t * nnx.relu(self.transform(x)) + (1 - t) * x


class MixtureBlock(nnx.Module):
    """A residual mixture of experts, each weighed by a router."""

    def __init__(self, *, rngs):
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.router = linear(WIDTH, 3, rngs)
        self.experts = nnx.List([linear(WIDTH, WIDTH, rngs) for _ in range(3)])

    def __call__(self, x):
        y = self.norm(x)
        outputs = jnp.stack([nnx.relu(expert(y)) for expert in self.experts], 1)
        return x + jnp.einsum("be,bew->bw", nnx.softmax(self.router(y)), outputs)


class GraphConv(nnx.Module):
    def __init__(self, into, *, rngs):
        self.linear = linear(into, WIDTH, rngs)

    def __call__(self, x, adjacency):
        return adjacency @ self.linear(x)


class GNN(nnx.Module):
    def __init__(self, *, rngs):
        self.convs = nnx.List([GraphConv(into, rngs=rngs) for into in (6, WIDTH, WIDTH)])
        self.readout = linear(WIDTH, WIDTH, rngs)
        self.head = linear(WIDTH, 3, rngs)

    def __call__(self, x, adjacency):
        for conv in self.convs:
            x = nnx.relu(conv(x, adjacency))
        return self.head(nnx.relu(self.readout(x.mean(1))))


class Ensemble(nnx.Module):
    """Members with stacked weights, on a common trunk of blocks or on the input."""

    def __init__(self, *, rngs, blocks):
        self.stem = linear(6, WIDTH, rngs) if blocks else None
        self.blocks = nnx.List([Block(rngs=rngs) for _ in range(blocks)])
        into = WIDTH if blocks else 6
        self.members = nnx.vmap(lambda rngs: Member(into, rngs=rngs))(rngs.split(3))

    def __call__(self, x):
        if self.stem is not None:
            x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return nnx.vmap(lambda member, x: member(x), in_axes=(0, None))(self.members, x).mean(0)


class Member(nnx.Module):
    def __init__(self, into, *, rngs):
        self.fc1, self.fc2, self.head = linear(into, WIDTH, rngs), linear(WIDTH, WIDTH, rngs), linear(WIDTH, 3, rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.fc2(nnx.relu(self.fc1(x)))))


class Siamese(nnx.Module):
    """Two inputs through one encoder, or each through its own."""

    def __init__(self, *, rngs, shared):
        self.first = Member(6, rngs=rngs)
        self.second = None if shared else Member(5, rngs=rngs)
        self.joint = nnx.List([linear(6, WIDTH, rngs), linear(WIDTH, WIDTH, rngs), linear(WIDTH, WIDTH, rngs)])
        self.head = linear(WIDTH, 3, rngs)

    def __call__(self, a, b):
        a, b = self.first(a), (self.first if self.second is None else self.second)(b)
        x = jnp.concatenate([jnp.abs(a - b), a * b], -1)
        for layer in self.joint:
            x = nnx.relu(layer(x))
        return self.head(x)


class Similarity(nnx.Module):
    """Compares the batch with given vectors, one for each class, which are no part of it."""

    def __init__(self, *, rngs):
        self.stem = linear(6, WIDTH, rngs)
        self.blocks = nnx.List([Block(rngs=rngs) for _ in range(3)])

    def __call__(self, x, classes, *, temperature):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True) @ classes.T / temperature


class Branches(nnx.Module):
    """One of two ways through the same block, by a flag that is no part of the batch."""

    def __init__(self, *, rngs):
        self.stem = linear(6, WIDTH, rngs)
        self.blocks = nnx.List([Block(rngs=rngs) for _ in range(3)])
        self.head = linear(WIDTH, 3, rngs)

    def __call__(self, x, flag):
        first, second, third = self.blocks
        x = nnx.cond(flag, lambda block, x: 2 * block(x), lambda block, x: nnx.tanh(block(x)), first, self.stem(x))
        return self.head(third(second(x)))


class Views(nnx.Module):
    """Two views of the input through one layer, whose calls are rematerialised: it is mixed at the first alone."""

    def __init__(self, *, rngs):
        self.shared, self.head = RematBlock(rngs=rngs), linear(WIDTH, 3, rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.shared(x)) * nnx.relu(self.shared(-x)))


class TwoParts(nnx.Module):
    """Features and head, each in a container."""

    def __init__(self, *, rngs):
        self.features = nnx.Sequential(
            linear(6, WIDTH, rngs), nnx.relu, linear(WIDTH, WIDTH, rngs), nnx.relu, linear(WIDTH, WIDTH, rngs)
        )
        self.head = nnx.Sequential(nnx.relu, linear(WIDTH, WIDTH, rngs), nnx.relu, linear(WIDTH, 3, rngs))

    def __call__(self, x):
        return self.head(self.features(x))


class Kept(nnx.Module):
    """A loop keeps the input in a reference, which is read at the end."""

    def __init__(self, *, rngs):
        self.layers = nnx.List([linear(6, WIDTH, rngs), linear(WIDTH, WIDTH, rngs)])
        self.head, self.last = linear(WIDTH, 6, rngs), linear(6, 3, rngs)

    def __call__(self, x):
        kept = jax.new_ref(jnp.zeros_like(x))

        def step(carry, _):
            kept[...] = kept[...] + x
            return carry, None

        jax.lax.scan(step, 0, length=2)
        y = x
        for layer in self.layers:
            y = nnx.relu(layer(y))
        return self.last(nnx.relu(self.head(y) + kept[...]))


def vectors(n):
    return (normal(n, 6), normal(7, WIDTH)), {"temperature": jnp.float32(0.5)}


def graphs(n):
    return (normal(n, 5, 6), nnx.softmax(2 * normal(n, 5, 5))), {}


def two(second):
    return lambda n: ((normal(n, 6), normal(n, second, seed=1)), {})


VECTOR = floats(6)
BLOCKS = "blocks.0 blocks.1 blocks.2"
CHAIN = f"stem {BLOCKS} norm head"
INSIDE = "blocks.0.norm blocks.0.fc1 blocks.1.fc2 blocks.2.fc1"
KINDS = (
    kind(
        "MLP",
        make_nnx(MLP),
        VECTOR,
        "layers.1 layers.2",  # the first is linear in the input
        "layers.0 layers.1 layers.2 head",
        "",
    ),
    kind(
        "MLP in Linen",
        make_linen(LinenMLP(), jax.ShapeDtypeStruct((2, 6), jnp.float32)),
        VECTOR,
        "Dense_1 Dense_2",
        "Dense_0 Dense_1 Dense_2 head",
        "",
    ),
    kind("residual MLP", make_nnx(Residual), VECTOR, BLOCKS, CHAIN, INSIDE),
    kind("rematerialised blocks", make_nnx(Residual, block=RematBlock), VECTOR, BLOCKS, CHAIN, INSIDE),
    kind(
        "blocks rematerialised where they are called", make_nnx(Residual, remat="each"), VECTOR, BLOCKS, CHAIN, INSIDE
    ),
    kind("blocks rematerialised by their class", make_nnx(Residual, remat="unbound"), VECTOR, BLOCKS, CHAIN, INSIDE),
    kind(
        "a dict of logits and features",
        make_nnx(Residual, outputs="dict"),
        VECTOR,
        BLOCKS,
        f"stem {BLOCKS} norm",
        f"{INSIDE} head",
    ),
    kind(
        "an auxiliary head",
        make_nnx(Residual, outputs="auxiliary"),
        VECTOR,
        "blocks.0",
        "stem blocks.0",
        "blocks.0.fc2 aux_head blocks.1 blocks.1.norm blocks.2 norm head",
    ),
    kind(
        "highway",
        make_nnx(Residual, block=HighwayLayer),
        VECTOR,
        BLOCKS,
        CHAIN,
        "blocks.0.gate blocks.0.transform blocks.1.gate blocks.2.transform",
    ),
    kind(
        "mixture of experts",
        make_nnx(Residual, block=MixtureBlock),
        VECTOR,
        BLOCKS,
        CHAIN,
        "blocks.0.norm blocks.0.router blocks.1.experts.0 blocks.2.experts.2",
    ),
    kind(
        "graph network",
        make_nnx(GNN),
        graphs,
        "convs.2",  # the last use of the adjacency
        "convs.2 readout head",
        "convs.0 convs.0.linear convs.1 convs.2.linear",
        also="readout",
    ),
    kind(
        "similarity to given vectors",
        make_nnx(Similarity),
        vectors,
        BLOCKS,
        f"stem {BLOCKS}",  # the vectors and the temperature are the same for all samples: no way around
        INSIDE,
    ),
    kind(
        "ensemble",
        make_nnx(Ensemble, blocks=0),
        VECTOR,
        "",
        "",
        "members.0 members.1 members.2 members.0.fc1 members.1.fc2 members.2.head",
    ),
    kind(
        "ensemble on a trunk",
        make_nnx(Ensemble, blocks=2),
        VECTOR,
        "blocks.0 blocks.1",
        "stem blocks.0 blocks.1",
        "blocks.0.fc2 members.0 members.1 members.2 members.0.fc1 members.1.fc2 members.2.head",
    ),
    kind(
        "Siamese",
        make_nnx(Siamese, shared=True),
        two(6),
        "joint.0 joint.1 joint.2",
        "joint.0 joint.1 joint.2 head",
        "first first.fc1 first.fc2 first.head",
    ),
    kind(
        "two inputs",
        make_nnx(Siamese, shared=False),
        two(5),
        "joint.0 joint.1 joint.2",
        "joint.0 joint.1 joint.2 head",
        "first first.fc1 first.head second second.fc1 second.head",
    ),
    kind(
        "one of two branches",
        make_nnx(Branches),
        lambda n: ((normal(n, 6), jnp.array(True)), {}),
        "blocks.0 blocks.1",  # what follows the last is linear
        f"stem {BLOCKS} head",
        INSIDE,
    ),
    kind("two views through one layer", make_nnx(Views), floats(WIDTH), "", "head", "shared shared.norm shared.fc2"),
    kind(
        "two parts",
        make_nnx(TwoParts),
        VECTOR,
        "features.layers.2 features.layers.4 head.layers.1",
        "features.layers.0 features.layers.2 features.layers.4 features head.layers.1 head",
        "",
    ),
    kind("the input in a reference", make_nnx(Kept), VECTOR, "", "last", "layers.0 layers.1 head"),
)

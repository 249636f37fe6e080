"""Which layers ManifoldMixup chooses: globs, types and their subclasses, and those that are never taken unasked."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

import jax_mix
from jax_mix import _paths

X = jax.ShapeDtypeStruct((2, 4), jnp.float32)
SEQUENCE = jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)


def chosen(layers, model, x=X, **options):
    return jax_mix.ManifoldMixup(1.0, layers=layers).bind(model, x, **options).layers


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("block?", ["block1", "blocks"], ["block", "block10", "block."]),
        ("blocks.?", ["blocks.0", "blocks.9"], ["blocks.10", "blocks.", "blocks.1.conv", "blocks..", "blocks0"]),
        ("?.?", ["a.b"], ["abc", "a.b.c", "a..", "..b"]),
        ("b?ock*", ["block", "block1"], ["bock", "bl.ock", "block.1"]),
        ("*.conv", ["a.conv", ".conv"], ["a.b.conv", "a.conv.b"]),
        ("**.conv", ["a.conv", "a.b.conv"], ["conv2", "a.conv2"]),
        ("**", ["a", "a.b.c"], []),
        ("a.b", ["a.b"], ["axb", "a.b.c"]),
        ("a+[0]", ["a+[0]"], ["aa0", "a+0"]),
    ],
)
def test_globs(pattern, yes, no):
    for names, is_match in ((yes, True), (no, False)):
        for name in names:
            assert bool(_paths.glob(pattern).fullmatch(name)) == is_match, name


class Twelve(nnx.Module):
    """layers.0 to layers.11, and a head."""

    def __init__(self):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=nnx.Rngs(0)) for _ in range(12)])
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_a_question_mark_is_one_character_of_a_name():
    assert chosen("layers.?", Twelve()) == tuple(f"layers.{i}" for i in range(10))
    assert chosen("layers.1?", Twelve()) == ("layers.10", "layers.11")
    assert chosen(("hea?", "layers.3"), Twelve()) == ("layers.3", "head")
    with pytest.raises(ValueError, match=r"must be looked up in the model first: method = method.bind"):
        jax_mix.ManifoldMixup(1.0, layers="layers.?").sample(jax.random.key(0), (2, 4))


class Wide(nnx.Linear):
    pass


class Wider(Wide):
    pass


class Kinds(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.plain, self.wide = nnx.Linear(4, 4, rngs=rngs), Wide(4, 4, rngs=rngs)
        self.wider, self.other = Wider(4, 4, rngs=rngs), nnx.LinearGeneral(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.other(self.wider(self.wide(self.plain(x))))


def test_a_type_stands_for_its_subclasses_too_and_for_no_base():
    assert chosen((nnx.Linear,), Kinds()) == ("plain", "wide", "wider")
    assert chosen((Wide,), Kinds()) == ("wide", "wider")
    assert chosen((Wider, nnx.LinearGeneral), Kinds()) == ("wider", "other")
    assert chosen(nnx.Module, Kinds()) == ("plain", "wide", "wider", "other")


def test_a_mark_of_ones_own_is_a_mark():
    class Mine(jax_mix.MixPoint):
        pass

    marked = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), Mine(), nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
    assert chosen(None, marked) == ("layers.1",)


class Around(nnx.Module):
    """A module that is never chosen unasked, and two that are."""

    def __init__(self, inner, call=None):
        self.stem, self.inner = nnx.Linear(4, 4, rngs=nnx.Rngs(0)), inner
        self.head, self.call = nnx.Linear(4, 2, rngs=nnx.Rngs(1)), call or (lambda inner, x: inner(x))

    def __call__(self, x):
        return self.head(self.call(self.inner, self.stem(x)))


class Normed(nnx.BatchNorm):
    pass


def step_of(cell, x):
    """One step of a recurrent cell, outside of any loop."""
    return cell(cell.initialize_carry(x.shape, nnx.Rngs(0)), x)[1]


RNGS = nnx.Rngs(0)
NEVER = {
    "Dropout": nnx.Dropout(0.5, rngs=RNGS),
    "BatchNorm": nnx.BatchNorm(4, rngs=RNGS),
    "LayerNorm": nnx.LayerNorm(4, rngs=RNGS),
    "RMSNorm": nnx.RMSNorm(4, rngs=RNGS),
    "GroupNorm": nnx.GroupNorm(4, num_groups=2, rngs=RNGS),
    "InstanceNorm": nnx.InstanceNorm(4, rngs=RNGS),
    "a subclass": Normed(4, rngs=RNGS),
    "SimpleCell": nnx.SimpleCell(4, 4, rngs=RNGS),
    "GRUCell": nnx.GRUCell(4, 4, rngs=RNGS),
    "LSTMCell": nnx.LSTMCell(4, 4, rngs=RNGS),
    "RNN": nnx.RNN(nnx.GRUCell(4, 4, rngs=RNGS)),
    "Bidirectional": nnx.Bidirectional(
        nnx.RNN(nnx.SimpleCell(4, 2, rngs=RNGS)), nnx.RNN(nnx.SimpleCell(4, 2, rngs=RNGS)), rngs=RNGS
    ),
}


@pytest.mark.parametrize("name", NEVER)
def test_what_is_never_chosen_unasked(name):
    sequence = name in ("RNN", "Bidirectional", "InstanceNorm")
    model = Around(NEVER[name], step_of if name.endswith("Cell") else None)
    x = SEQUENCE if sequence else X
    assert chosen(None, model, x) == ("stem", "head")
    assert "inner" in chosen("**", model, x)  # asked for, it is


class LinenAround(linen.Module):
    inner: linen.Module
    cell: bool = False

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(4, name="stem")(x)
        x = self.inner(self.inner.initialize_carry(jax.random.key(0), x.shape), x)[1] if self.cell else self.inner(x)
        return linen.Dense(2, name="head")(x)


@pytest.mark.parametrize(
    ("inner", "cell"),
    [
        (linen.LayerNorm(), False),
        (linen.Dropout(0.5, deterministic=True), False),
        (linen.GRUCell(4), True),
        (linen.OptimizedLSTMCell(4), True),
        (linen.RNN(linen.SimpleCell(4)), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nor_is_it_in_linen(inner, cell):
    model = LinenAround(inner, cell)
    x = SEQUENCE if isinstance(inner, linen.RNN) else X
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert chosen(None, model, x, variables=variables) == ("stem", "head")
    assert "inner" in chosen("**", model, x, variables=variables)

"""Which layers ManifoldMixup chooses: globs, types and their subclasses, and those that are never taken unasked."""

import dataclasses
import warnings

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
    """A module that is never chosen unasked, between two that are."""

    def __init__(self, inner, call=None):
        self.stem, self.before, self.after, self.head = (nnx.Linear(4, n, rngs=nnx.Rngs(n)) for n in (4, 4, 4, 2))
        self.inner, self.call = inner, call or (lambda inner, x: inner(x))

    def __call__(self, x):
        x = self.before(nnx.relu(self.stem(x)))
        return self.head(nnx.relu(self.after(nnx.relu(self.call(self.inner, nnx.relu(x))))))


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
}
RECURRENT = {
    "RNN": nnx.RNN(nnx.GRUCell(4, 4, rngs=RNGS)),
    "Bidirectional": nnx.Bidirectional(
        nnx.RNN(nnx.SimpleCell(4, 2, rngs=RNGS)), nnx.RNN(nnx.SimpleCell(4, 2, rngs=RNGS)), rngs=RNGS
    ),
}


@pytest.mark.parametrize("name", NEVER)
def test_what_is_never_chosen_unasked(name):
    model = Around(NEVER[name], step_of if name.endswith("Cell") else None)
    x = SEQUENCE if name == "InstanceNorm" else X
    assert chosen(None, model, x) == ("before", "after")
    assert "inner" in chosen("*", model, x)  # asked for, it is


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_network_is_a_layer_and_its_cell_is_none(name):
    assert chosen(None, Around(RECURRENT[name]), SEQUENCE) == ("before", "inner", "after")


class LinenAround(linen.Module):
    inner: linen.Module
    cell: bool = False

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(4, name="before")(linen.relu(linen.Dense(4, name="stem")(x)))
        x = linen.relu(x)
        x = self.inner(self.inner.initialize_carry(jax.random.key(0), x.shape), x)[1] if self.cell else self.inner(x)
        x = linen.Dense(4, name="after")(linen.relu(x))
        return linen.Dense(2, name="head")(linen.relu(x))


@pytest.mark.parametrize(
    ("inner", "cell"),
    [
        (linen.LayerNorm(), False),
        (linen.Dropout(0.5, deterministic=True), False),
        (linen.GRUCell(4), True),
        (linen.OptimizedLSTMCell(4), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nor_is_it_in_linen(inner, cell):
    model = LinenAround(inner, cell)
    variables = jax.eval_shape(model.init, jax.random.key(0), X)
    assert chosen(None, model, X, variables=variables) == ("before", "after")
    assert "inner" in chosen("*", model, X, variables=variables)


class Factors(nnx.Module):
    """A layer in two factors, with nothing between."""

    def __init__(self):
        self.stem, self.down, self.up, self.head = (nnx.Linear(4, 4, rngs=nnx.Rngs(n)) for n in range(4))

    def __call__(self, x):
        return self.head(nnx.relu(self.up(self.down(nnx.relu(self.stem(x))))))


def test_of_layers_that_are_the_same_the_first_is_chosen():
    assert chosen(None, Factors()) == ("down",)
    assert chosen("*", Factors()) == ("stem", "down", "up", "head")  # asked for, all are


class TwoWays(nnx.Module):
    """left and right side by side, then after; a mask as a second argument."""

    def __init__(self):
        self.stem, self.left, self.right, self.after, self.head, self.aside = (
            nnx.Linear(4, 4, rngs=nnx.Rngs(n)) for n in range(6)
        )

    def __call__(self, x, mask=None):
        x = nnx.relu(self.stem(x))
        self.aside(x)
        x = nnx.relu(self.left(x)) * nnx.relu(self.right(x))
        x = x if mask is None else x * mask
        return self.head(nnx.relu(self.after(x)))


def test_a_layer_that_is_no_cut_is_warned_of_once_and_refused_if_strict():
    method = jax_mix.ManifoldMixup(1.0, layers=("left", "after"))
    with pytest.warns(UserWarning, match="goes around") as told:
        assert method.bind(TwoWays(), X).layers == ("left", "after")
    assert len(told) == 1
    assert str(told[0].message).startswith("the batch also goes around 'left' (through 'right'): mixed there, labels")
    with pytest.raises(ValueError, match=r"^strict=True, but the batch also goes around 'left' \(through 'right'\)"):
        method.bind(TwoWays(), X, strict=True)
    with warnings.catch_warnings(action="error"):
        exact = dataclasses.replace(method, layers="after")
        assert exact.bind(TwoWays(), X, strict=True) == dataclasses.replace(exact, layers=("after",))


def test_what_never_reaches_the_output_is_warned_of():
    with pytest.warns(UserWarning, match=r"goes around 'aside' \(it does not reach the model's output\)"):
        chosen("aside", TwoWays())


def test_an_argument_that_is_not_mixed_goes_around_what_comes_before_it():
    both = (X, X)
    told = r"goes around 'input' \(through the argument 'mask'\): .* an argument is mixed too with mixed='mask'\.$"
    with pytest.warns(UserWarning, match=told):
        assert jax_mix.ManifoldMixup(1.0).bind(TwoWays(), *both).layers == ("after",)
    with warnings.catch_warnings(action="error"):  # the input with it; hidden layers after it are mixed with both
        assert jax_mix.ManifoldMixup(1.0).bind(TwoWays(), *both, mixed="mask").layers == ("after",)
        assert jax_mix.ManifoldMixup(1.0, use_input=False).bind(TwoWays(), *both).layers == ("after",)


class MaskedBlock(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x, mask):
        return x + self.b(nnx.relu(self.a(x))) * mask


class Masked(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List([MaskedBlock(rngs) for _ in range(3)])
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, mask):
        for block in self.blocks:
            x = block(x, mask)
        return self.head((x * mask).mean(1))


def test_if_only_an_argument_goes_around_the_blocks_they_are_chosen_with_a_warning():
    mask = jax.ShapeDtypeStruct((2, 3, 1), jnp.float32)
    method = jax_mix.ManifoldMixup(1.0, use_input=False)
    with pytest.warns(UserWarning, match=r"goes around 'blocks\.0' \(through the argument 'mask'\) and 'blocks\.1' "):
        assert method.bind(Masked(), SEQUENCE, mask).layers == ("blocks.0", "blocks.1")
    with pytest.raises(ValueError, match="strict=True, but the batch also goes around"):
        method.bind(Masked(), SEQUENCE, mask, strict=True)


class Table(nnx.Module):
    """Positions that happen to be as many as the batch has rows."""

    def __init__(self, n):
        self.stem, self.hidden = nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 4, rngs=nnx.Rngs(1))
        self.positions, self.turned = nnx.Embed(n, 4, rngs=nnx.Rngs(2)), nnx.Linear(4, 4, rngs=nnx.Rngs(3))
        self.head, self.n = nnx.Linear(4, 2, rngs=nnx.Rngs(4)), n

    def __call__(self, x):
        x = nnx.relu(self.hidden(nnx.relu(self.stem(x)))) + self.positions(jnp.arange(self.n))[None]
        return self.head(nnx.relu(self.turned(x.swapaxes(0, 1))).swapaxes(0, 1).mean(1))


@pytest.mark.parametrize("n", [2, 8])
def test_what_is_as_long_as_the_batch_by_chance_is_no_batch(n):
    """A table of positions does not depend on the batch; what has positions first is as long with another batch."""
    x = jax.ShapeDtypeStruct((n, n, 4), jnp.float32)
    found = {layer.name: layer for layer in jax_mix.list_layers(Table(n), x)}
    assert found["positions"].output.shape == (n, 4)
    assert [name for name, layer in found.items() if not layer.batch] == ["positions", "turned"]
    assert chosen(None, Table(n), x) == ("hidden",)
    for name in ("positions", "turned"):
        with pytest.raises(ValueError, match=f"layers has '{name}', whose output is no batch of {n} floats that dep"):
            chosen(name, Table(n), x)


class Carry(nnx.Module):
    """A recurrent network over time-major steps: of its two outputs the steps go on, which have time first."""

    def __init__(self):
        self.rnn = nnx.RNN(nnx.SimpleCell(4, 4, rngs=nnx.Rngs(0)), time_major=True, return_carry=True)
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.head(self.rnn(x.swapaxes(0, 1))[1][-1])


def test_explain_is_a_table_of_what_mixing_there_is_and_what_is_chosen():
    table = jax_mix.ManifoldMixup(1.0).explain(TwoWays(), X)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["input"] == ("", "float32[2, 4]", "exact", "yes")
    assert rows["stem"] == ("Linear", "float32[2, 4]", "the same as at the input", "")
    assert rows["left"][2:] == ("not exact: the batch also goes through 'right'", "")
    assert rows["after"][2:] == ("exact", "yes: a layer between")
    assert rows["aside"][2:] == ("not exact: it does not reach the model's output", "")
    assert table.summary == "Each batch is mixed at one of 2 places, drawn at random: 'input' or 'after'."
    assert str(table).splitlines()[0].split("  ")[0] == "layer"
    assert '<td style="text-align: left">after</td>' in table._repr_html_()
    one = jax_mix.ManifoldMixup(1.0, layers="after", use_input=False).explain(TwoWays(), X)
    assert one.summary == "Every batch is mixed at 'after'."
    words = nnx.Sequential(nnx.Embed(5, 4, rngs=RNGS), nnx.relu, nnx.Linear(4, 2, rngs=RNGS))
    ids = jax_mix.ManifoldMixup(1.0).explain(words, jax.ShapeDtypeStruct((2, 4), jnp.int32))
    assert ids.rows[0][3:] == ("cannot be mixed: no floats", "")
    assert ids.summary.startswith("use_input is True, but an input of int32 cannot be mixed")
    two = jax_mix.ManifoldMixup(1.0, use_input=False, layers="rnn").explain(Carry(), SEQUENCE)
    assert two.rows[-2][:1] + two.rows[-2][3:] == (
        "rnn",
        "not exact: its batch of floats does not reach the model's output",
        "yes: named",
    )
    wrong = jax_mix.ManifoldMixup(1.0, layers="lefd").explain(TwoWays(), X)
    assert "did you mean 'left' or" in wrong.summary
    assert not any(row[-1].startswith("yes: ") for row in wrong.rows)

"""Which layers are cuts, what goes around the others, and what is chosen, on every kind of model in the zoo."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_mix
from jax_mix._call import as_call
from jax_mix._layers import find_layers
from jax_mix._leaves import map_leaves, mixed_leaves
from jax_mix._paths import split_selector, wanted_paths
from jax_mix._running import run
from parity_tests.library.zoo import ZOO, in_evaluation
from parity_tests.library.zoo.computing import PARTNER, distance
from parity_tests.tolerances import assert_close

N = len(PARTNER)
DIFFERENT = 1e-4  # of the largest output; what is equal differs by less than a millionth
KINDS = {kind.name: kind for kind in ZOO}


@functools.cache
def given(name):
    """The model of a kind, what it is called with, and its layers."""
    model, variables, args, kwargs = in_evaluation(KINDS[name], n=N)
    return model, variables, args, kwargs, find_layers(as_call(model, args, kwargs, variables, None, ()))


def compiled(call, names):
    """`at(name, lam)`: the outputs, mixed there. One program; selecting where `forward` branches compiles quicker."""
    is_nnx = isinstance(call.model, nnx.Module)
    graphdef, state = nnx.split(call.model) if is_nnx else (None, call.variables)
    wanted = wanted_paths([name for name in names if name != "input"])

    def blend(a, here, lam):
        return jnp.where(here, lam * a + (1 - lam) * a[PARTNER], a)

    def mixed(state, number, lam, inputs):
        def hook(path, type_, iteration, stacked, output, given):
            for at, name in wanted[path]:
                if (at is None) == (stacked is None):
                    here = (number == names.index(name)) & (iteration == (at or 0))
                    chosen = mixed_leaves(output, given, N, split_selector(name)[1])
                    output = map_leaves(lambda leaves: [blend(a, here, lam) for a in leaves], output, chosen)  # noqa: B023
            return output

        if "input" in names:
            inputs = jax.tree.map(lambda a: blend(a, number == names.index("input"), lam), inputs)
        model = nnx.merge(graphdef, state) if is_nnx else call.model
        one = dataclasses.replace(call.with_inputs(inputs), model=model, variables=None if is_nnx else state)
        return run(one, hook, wanted)

    program = jax.jit(mixed)
    return lambda name, lam: jax.device_get(program(state, names.index(name), np.float32(lam), call.inputs))


def assert_same(got, want):
    """In units of each output's largest value."""
    largest = [np.abs(b).max() for b in jax.tree.leaves(want)]
    for a, b, unit in zip(jax.tree.leaves(got), jax.tree.leaves(want), largest, strict=True):
        assert_close(a / unit, b / unit, "another order of summation")


@pytest.mark.filterwarnings("ignore:layer .* is called more than once")
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_a_cut_just_if_the_output_at_lam_0_is_the_partners(kind):
    model, variables, args, kwargs, found = given(kind)
    call = as_call(model, args, kwargs, variables, None, ())
    layers = [layer for layer in found.layers if layer.batch and not layer.looped]
    name = {l.name: f"{l.name}[{found.selectors[l.name]}]" if l.name in found.selectors else l.name for l in layers}
    is_float = jnp.issubdtype(args[0].dtype, jnp.floating)
    at = compiled(call, [*name.values(), *["input"] * is_float])

    own = at(name[layers[0].name], 1.0)
    partners = jax.tree.map(lambda a: a[PARTNER], own)
    halves = {}
    for layer in layers:
        got = at(name[layer.name], 0.0)
        if not layer.cut:
            assert layer.around, layer
            assert distance(got, partners) > DIFFERENT, f"{layer.name} is a cut"
            continue
        assert not layer.around, layer
        assert_same(got, partners)
        if layer.same_as not in ("", "<output>"):  # after an output that is no logits, weights decide and not values
            half = at(name[layer.name], 0.5)
            if layer.same_as not in halves:
                halves[layer.same_as] = at(name.get(layer.same_as, layer.same_as), 0.5)
            assert_same(half, halves[layer.same_as])


@pytest.mark.parametrize("name", KINDS)
def test_the_choice_is_the_owners(name):
    kind = KINDS[name]
    model, variables, args, kwargs, found = given(name)
    layers = {l.name: l for l in found.layers}
    assert {name for name in kind.cuts | kind.not_cuts if layers[name].batch and layers[name].cut} == kind.cuts
    method = jax_mix.ManifoldMixup(1.0, use_input=False)
    if not kind.owner | kind.options["also"]:
        with pytest.raises(ValueError, match="no eligible layer was found in the model"):
            method.bind(model, *args, variables=variables, **kwargs)
        return
    chosen = {name.partition("[")[0] for name in method.bind(model, *args, variables=variables, **kwargs).layers}
    assert kind.owner <= chosen <= kind.owner | kind.options["also"]


class Mapped(nnx.Module):
    """Maps itself over the samples: its layers put out the features of one, here as many as the batch has rows."""

    def __init__(self, width):
        self.a, self.b, self.head = (
            nnx.Linear(*sizes, rngs=nnx.Rngs(0)) for sizes in ((6, width), (width, width), (width, 3))
        )

    def __call__(self, x):
        return jax.vmap(lambda x: self.head(nnx.relu(self.b(nnx.relu(self.a(x))))))(x)


class Dispatched(nnx.Module):
    """As many experts as the batch has rows, each with its share of all tokens."""

    def __init__(self, experts):
        self.stem, self.expert, self.head = (nnx.Linear(*sizes, rngs=nnx.Rngs(0)) for sizes in ((6, 5), (5, 5), (5, 3)))
        self.experts = experts

    def __call__(self, x):
        tokens = nnx.relu(self.stem(x)).reshape(-1, 5)
        share = jnp.ones((len(tokens), self.experts, 1 + len(tokens) // self.experts))
        y = nnx.relu(self.expert(jnp.einsum("td,tec->ecd", tokens, share)))
        return self.head(jnp.einsum("ecd,tec->td", y, share).reshape(len(x), -1, 5).mean(1))


@pytest.mark.parametrize(("model", "shape", "names"), [(Mapped, (6,), ["a", "b"]), (Dispatched, (3, 6), ["expert"])])
def test_an_axis_that_is_as_long_as_the_batch_by_chance_is_none(model, shape, names):
    """Blended along it, one sample's features would be: the flow alone cannot tell, a longer batch does."""
    layers = {l.name: l for l in jax_mix.list_layers(model(N), jax.ShapeDtypeStruct((N, *shape), jnp.float32))}
    for name in names:
        assert layers[name].output.shape[0] == N
        assert not layers[name].batch
        assert not layers[name].cut


class Tokens(nnx.Module):
    """Each token's logits are a row of their own; hidden states beside them."""

    def __init__(self):
        self.stem, self.hidden, self.head = (nnx.Linear(6, 6, rngs=nnx.Rngs(0)) for _ in range(3))

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        return self.head(nnx.relu(self.hidden(x))).reshape(-1, 6), x, x.sum()


def test_an_output_counts_if_it_grows_with_the_batch():
    layers = {l.name: l for l in jax_mix.list_layers(Tokens(), jax.ShapeDtypeStruct((N, 3, 6), jnp.float32))}
    assert [name for name, layer in layers.items() if layer.cut] == ["stem"]
    assert layers["hidden"].around == "from 'stem' to the output"
    assert layers["stem"].same_as == "input"  # and not the output, on which the logits' weights still act


class Chosen(nnx.Module):
    """What is done with the hidden states depends on the input, by a condition or by how often a loop runs."""

    def __init__(self, how):
        self.hidden, self.head, self.how = nnx.Linear(6, 6, rngs=nnx.Rngs(0)), nnx.Linear(6, 2, rngs=nnx.Rngs(1)), how

    def __call__(self, x):
        y = nnx.relu(self.hidden(nnx.relu(x)))
        if self.how == "cond":
            y = jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, y)
        elif self.how == "while":
            y = jax.lax.while_loop(lambda c: c[0] < x.sum(), lambda c: (c[0] + 1, jnp.sin(c[1])), (0.0, y))[1]
        else:
            y = y[jnp.argsort(x[:, 0])] if self.how == "index" else y
        return self.head(nnx.relu(y))


@pytest.mark.parametrize("how", ["cond", "while", "index"])
def test_a_choice_is_a_way_around(how):
    x = jax.ShapeDtypeStruct((N, 6), jnp.float32)
    cut = {l.name: l.cut for l in jax_mix.list_layers(Chosen(how), x)}
    assert cut == {"hidden": False, "head": True}
    assert all(l.cut for l in jax_mix.list_layers(Chosen(""), x))


class Forms(nnx.Module):
    """Three layers, with an operation between each two."""

    def __init__(self, operation):
        self.a, self.b, self.c = (nnx.Linear(6, 6, rngs=nnx.Rngs(i)) for i in range(3))
        self.operation, self.weight = operation, nnx.Param(jnp.ones(6))

    def __call__(self, x):
        x = self.b(self.operation(self.a(nnx.relu(x)), self.weight[...][None]))
        return self.c(nnx.relu(self.operation(x, self.weight[...][None])))


AFFINE = {
    "times a weight": lambda x, w: x * w,
    "over a weight": lambda x, w: x / w,
    "bfloat16": lambda x, w: x.astype(jnp.bfloat16).astype(x.dtype),
    "a mask that is given": lambda x, w: jnp.where(w > 0, x, 0),
    "an FFT": lambda x, w: jnp.fft.fft(x).real,
    "a running sum": lambda x, w: jnp.cumsum(x, 1),
    "a scan": lambda x, w: jax.lax.scan(lambda c, _: (c + w * x, None), x, length=2)[0],
}
BENT = {
    "times itself": lambda x, w: x * x,
    "under a weight": lambda x, w: w / (2 + x),
    "whole numbers": lambda x, w: x.astype(jnp.int32).astype(x.dtype),
    "a mask of its own": lambda x, w: jnp.where(x > 0, x, w),
    "its own order": lambda x, w: jnp.take_along_axis(x, jnp.argsort(x[:, ::-1]), 1),
    "the largest": lambda x, w: jax.lax.cummax(x, 1),
    "a scan": lambda x, w: jax.lax.scan(lambda c, _: (c * x, None), x, length=2)[0],
}


@pytest.mark.parametrize(
    ("operation", "affine"),
    [pytest.param(f, kind is AFFINE, id=name) for kind in (AFFINE, BENT) for name, f in kind.items()],
)
def test_what_is_affine_is_the_same_again(operation, affine):
    layers = {l.name: l for l in jax_mix.list_layers(Forms(operation), jax.ShapeDtypeStruct((N, 6), jnp.float32))}
    assert [layers[name].same_as for name in "abc"] == ["", "a" if affine else "", "<output>"]

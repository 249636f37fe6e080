"""What `forward` mixes at the input, which method it runs, and which arrays of a layer's output it mixes."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

import jax_mix
from parity_tests.library import models_nnx as models
from parity_tests.library.test_running_nnx import data, draw
from parity_tests.tolerances import assert_close

# Many layers here are named though the batch goes around them: what is tested is how they are mixed.
pytestmark = pytest.mark.filterwarnings("ignore:the batch also goes around")


class Keywords(nnx.Module):
    """Takes its inputs by keyword only."""

    def __init__(self, rngs):
        self.first, self.head = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, *, inputs, weight, train=False):
        assert train
        return self.head(jnp.tanh(self.first(inputs)) * weight)


class LinenKeywords(nn.Module):
    @nn.compact
    def __call__(self, *, inputs, weight, train=False):
        assert train
        return nn.Dense(2, name="head")(jnp.tanh(nn.Dense(8, name="first")(inputs)) * weight)


class Both(nnx.Module):
    """Two encoders and no __call__."""

    def __init__(self, rngs):
        self.image, self.text = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(4, 8, rngs=rngs)

    def encode_image(self, x, scale=1.0):
        return jnp.tanh(self.image(x)) * scale

    @nnx.jit
    def encode_text(self, x):
        return jnp.tanh(self.text(x))


class LinenBoth(nn.Module):
    def setup(self):
        self.image, self.text = nn.Dense(8), nn.Dense(8)

    def __call__(self, x):
        return self.encode_image(x), self.encode_text(x)

    def encode_image(self, x, scale=1.0):
        return jnp.tanh(self.image(x)) * scale

    def encode_text(self, x):
        return jnp.tanh(self.text(x))


def keywords(linen):
    """The model, its variables, and how it is called plainly."""
    if not linen:
        model = Keywords(nnx.Rngs(0))
        return model, {}, lambda **kwargs: model(**kwargs, train=True)
    model = LinenKeywords()
    variables = model.init(jax.random.key(0), inputs=data(), weight=data(shape=(8,)), train=True)
    return model, {"variables": variables}, lambda **kwargs: model.apply(variables, **kwargs, train=True)


@pytest.mark.parametrize("linen", [False, True])
def test_inputs_by_keyword_that_are_mixed_together(linen):
    model, variables, plain = keywords(linen)
    x, weight, mix = data(), data(shape=(8,), seed=2), draw("input")
    call = {**variables, "inputs": x, "weight": weight, "train": True}
    got = jax_mix.forward(model, None, mix, mixed="inputs", **call)
    assert_close(got, plain(inputs=mix.blend(x), weight=weight), "same program")
    both = plain(inputs=mix.blend(x), weight=mix.blend(weight))
    assert_close(jax_mix.forward(model, None, mix, mixed=("inputs", "weight"), **call), both, "same program")
    drawn = draw(jnp.int32(0), layers=("input", "first"))
    assert_close(jax_mix.forward(model, None, drawn, mixed=("inputs", "weight"), **call), both, "same program")
    names = [layer.name for layer in jax_mix.list_layers(model, mixed="inputs", **call)]
    assert names == ["first", "head"]
    method = jax_mix.ManifoldMixup(1.0, layers="*").bind(model, mixed=("inputs", "weight"), **call)
    assert method.layers == ("first", "head")
    np.testing.assert_array_equal(
        jax_mix.forward(model, None, None, mixed="inputs", **call), plain(inputs=x, weight=weight)
    )
    with pytest.raises(ValueError, match=r"there is no input to mix.*did you mean 'inputs'"):
        jax_mix.forward(model, None, mix, **call)
    with pytest.raises(ValueError, match=r"mixed has 'input', which is not among .* did you mean 'inputs'.*'weight'"):
        jax_mix.forward(model, None, mix, mixed="input", **call)
    with pytest.raises(ValueError, match=r"must have the draw's batch size, 6, got 4|arrays with one batch axis"):
        jax_mix.forward(model, None, mix, mixed=("inputs", "weight"), **{**call, "weight": weight[:4]})
    with pytest.raises(ValueError, match=r"use_input is True, but an input of int32"):
        jax_mix.ManifoldMixup(1.0, layers="first").bind(
            model, mixed=("inputs", "weight"), **{**call, "weight": jnp.ones((6, 8), jnp.int32)}
        )


def test_the_one_line_form_takes_them_too():
    model, x, weight, y = Keywords(nnx.Rngs(0)), data(), data(shape=(8,), seed=2), jax.nn.one_hot(jnp.arange(6) % 3, 3)
    key = jax.random.key(0)
    logits, target = jax_mix.manifold_mixup(
        key, model, None, y, layers="first", use_input=False, mixed="inputs", inputs=x, weight=weight, train=True
    )
    mix = jax_mix.ManifoldMixup(0.4, layers="first", use_input=False).sample(key, x.shape)
    want = model.head(jnp.tanh(mix.blend(model.first(x))) * weight)
    assert_close(logits, want, "same program")
    np.testing.assert_array_equal(target, mix.targets(y))


def test_a_positional_argument_is_mixed_by_its_name():
    class Model(models.MLP):
        def __call__(self, x, scale, other):
            return super().__call__(x * scale + other)

    model, x, other, mix = Model(nnx.Rngs(0)), data(), data(seed=2), draw("input")
    got = jax_mix.forward(model, x, mix, 2.0, other, mixed="other")
    assert_close(got, model(mix.blend(x), 2.0, mix.blend(other)), "same program")
    assert_close(jax_mix.forward(model, x, mix, 2.0, other), model(mix.blend(x), 2.0, other), "same program")
    assert_close(jax_mix.forward(model, x, mix, 2.0, other, mixed="x"), model(mix.blend(x), 2.0, other), "same program")


@pytest.mark.parametrize(
    "method", ["encode_image", Both.encode_image, lambda model, x, scale: model.encode_image(x, scale)]
)
def test_another_method_than_call(method):
    model, x = Both(nnx.Rngs(0)), data()
    for layer in ("input", "image"):
        mix = draw(layer)
        at = lambda name, x, mix=mix: mix.blend(x) if mix.layer == name else x  # noqa: E731
        want = jnp.tanh(at("image", model.image(at("input", x)))) * 2.0
        assert_close(jax_mix.forward(model, x, mix, 2.0, method=method), want, "same program")
        assert_close(jax_mix.forward(model, x, mix, scale=2.0, method=method), want, "same program")
    assert jax_mix.ManifoldMixup(1.0, layers="*").bind(model, x, 2.0, method=method).layers == ("image",)


def test_methods_that_are_bound_jitted_or_not_there():
    model, x, mix = Both(nnx.Rngs(0)), data(), draw("text")
    want = jnp.tanh(mix.blend(model.text(x)))
    assert_close(jax_mix.forward(model, x, mix, method="encode_text"), want, "same program")
    got = jax_mix.forward(model, x, draw("image"), method=model.encode_image)
    assert_close(got, jnp.tanh(mix.blend(model.image(x))), "same program")
    with pytest.raises(TypeError, match=r"Both has no __call__: name a method.*'encode_image', 'encode_text'"):
        jax_mix.forward(model, x, mix)
    with pytest.raises(ValueError, match=r"no method 'encode_imag': did you mean 'encode_image'"):
        jax_mix.forward(model, x, mix, method="encode_imag")
    with pytest.raises(ValueError, match=r"method is bound to another model"):
        jax_mix.forward(model, x, mix, method=Both(nnx.Rngs(1)).encode_image)
    with pytest.raises(ValueError, match=r"'image' never runs"):
        jax_mix.forward(model, x, draw("image"), method="encode_text")


@pytest.mark.parametrize("method", ["encode_image", LinenBoth.encode_image])
def test_another_method_of_a_linen_model(method):
    model, x, mix = LinenBoth(), data(), draw("image")
    variables = model.init(jax.random.key(0), x)
    dense = lambda x: nn.Dense(8).apply({"params": variables["params"]["image"]}, x)  # noqa: E731
    got = jax_mix.forward(model, x, mix, 2.0, variables=variables, method=method)
    assert_close(got, jnp.tanh(mix.blend(dense(x))) * 2.0, "same program")
    assert jax_mix.ManifoldMixup(1.0, layers="*").bind(model, x, variables=variables, method=method).layers == (
        "image",
    )
    with pytest.raises(ValueError, match=r"no method 'encode_imag': did you mean 'encode_image'"):
        jax_mix.forward(model, x, mix, variables=variables, method="encode_imag")


def test_a_train_states_apply_fn_stands_for_its_model():
    import optax

    model, x, mix = LinenBoth(), data(), draw("image")
    state = TrainState.create(
        apply_fn=model.apply, params=model.init(jax.random.key(0), x)["params"], tx=optax.sgd(0.1)
    )
    variables = {"params": state.params}
    got = jax_mix.forward(state.apply_fn, x, mix, variables=variables)
    np.testing.assert_array_equal(got, jax_mix.forward(model, x, mix, variables=variables))
    assert jax_mix.ManifoldMixup(1.0, layers="*").bind(state.apply_fn, x, variables=variables).layers == (
        "image",
        "text",
    )
    with pytest.raises(TypeError, match=r"forward\(state.apply_fn, .*variables="):
        jax_mix.forward(state, x, mix)


State = namedtuple("State", "hidden bias count")


class Encoder(nnx.Module):
    """A transformer's layer as many are: the mask is handed on, the position bias is made by the first."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x, mask, bias=None):
        bias = jnp.ones((1, 2, 4)) if bias is None else bias
        return State(x + jnp.tanh(self.linear(x) * mask), bias, None), mask


class LinenEncoder(nn.Module):
    @nn.compact
    def __call__(self, x, mask, bias=None):
        bias = jnp.ones((1, 2, 4)) if bias is None else bias
        return State(x + jnp.tanh(nn.Dense(4)(x) * mask), bias, None), mask


class Stack(nnx.Module):
    def __init__(self, rngs):
        self.one, self.two, self.head = Encoder(rngs), Encoder(rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, mask, at=lambda name, state, mask: (state, mask)):
        state, mask = at("one", *self.one(x, mask))
        state, mask = at("two", *self.two(state.hidden, mask, state.bias))
        return self.head(state.hidden * mask) + state.bias.mean()


class LinenStack(nn.Module):
    @nn.compact
    def __call__(self, x, mask, at=lambda name, state, mask: (state, mask)):
        state, mask = at("one", *LinenEncoder(name="one")(x, mask))
        state, mask = at("two", *LinenEncoder(name="two")(state.hidden, mask, state.bias))
        return nn.Dense(2, name="head")(state.hidden * mask) + state.bias.mean()


@pytest.mark.parametrize("linen", [False, True])
def test_what_is_no_batch_of_floats_or_only_handed_on_is_not_mixed(linen):
    x, mask = data(), (data(shape=(1,), seed=3) > 0).astype(jnp.float32)
    model, variables = (LinenStack(), {}) if linen else (Stack(nnx.Rngs(0)), {})
    if linen:
        variables = {"variables": model.init(jax.random.key(0), x, mask)}
        plain = lambda *args: model.apply(variables["variables"], *args)  # noqa: E731
    else:
        plain = model
    method = jax_mix.ManifoldMixup(1.0, layers="*").bind(model, x, mask, **variables)
    assert method.layers == ("one", "two", "head")

    def by_hand(name, hidden, also_mask=False):
        mix = draw(name)

        def at(here, state, mask):
            if here != name:
                return state, mask
            state = state._replace(hidden=mix.blend(state.hidden)) if hidden else state
            return state, mix.blend(mask) if also_mask else mask

        return plain(x, mask, at)

    for name in ("one", "two"):
        want = by_hand(name, hidden=True)
        assert_close(jax_mix.forward(model, x, draw(name), mask, **variables), want, "another order of summation")
        for selector in ("0.hidden", "0"):
            selected = f"{name}[{selector}]"
            got = jax_mix.forward(model, x, draw(selected), mask, **variables)
            assert_close(got, want, "another order of summation")
        got = jax_mix.forward(model, x, draw(f"{name}[1]"), mask, **variables)
        assert_close(got, by_hand(name, hidden=False, also_mask=True), "another order of summation")
    drawn = draw(jnp.int32(1), layers=("input", "one[0.hidden]", "one[1]", "two"))
    got = jax.jit(lambda mix: jax_mix.forward(model, x, mix, mask, **variables))(drawn)
    assert_close(got, by_hand("one", hidden=True), "another order of summation")
    bound = jax_mix.ManifoldMixup(1.0, layers=("*o[0.hidden]", "one[1]")).bind(model, x, mask, **variables)
    assert bound.layers == ("one[1]", "two[0.hidden]")
    for call in (
        lambda: jax_mix.forward(model, x, draw("one[0.hiden]"), mask, **variables),
        lambda: jax_mix.ManifoldMixup(1.0, layers="one[0.hiden]").bind(model, x, mask, **variables),
    ):
        with pytest.raises(ValueError, match=r"'one\[0.hiden\]' .* not in its output: did you mean '0.hidden'.*'1'"):
            call()
    with pytest.raises(ValueError, match=r"\[0.hid\], which is not in its output"):  # a part of a key is no key
        jax_mix.forward(model, x, draw("one[0.hid]"), mask, **variables)
    with pytest.raises(ValueError, match=r"\[0.bias\], which is no batch of 6 floats: .*float32\[1, 2, 4\]"):
        jax_mix.forward(model, x, draw("one[0.bias]"), mask, **variables)


def test_a_mark_on_arrays_that_are_handed_on_mixes_them_all():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.mark, self.head = jax_mix.MixPoint(), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x, gate):
            x, gate = self.mark((x, gate))
            return self.head(x * gate)

    model, x, gate, mix = Model(nnx.Rngs(0)), data(), data(shape=(1,), seed=3), draw("mark")
    want = model.head(mix.blend(x) * mix.blend(gate))
    assert_close(jax_mix.forward(model, x, mix, gate), want, "same program")

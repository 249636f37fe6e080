"""Finding and choosing the layers of NNX models: names, globs, types, marks; and those that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_mix
from parity_tests.library import models_nnx as models
from parity_tests.library.test_running_nnx import data, draw
from parity_tests.tolerances import assert_close


@pytest.mark.filterwarnings("ignore:the batch also goes around")
def test_marks_in_scanned_blocks_and_inputs_in_a_tree():
    class Marked(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 4, rngs=rngs)
            self.mark = jax_mix.MixPoint()

        def __call__(self, x):
            return x + self.mark(jnp.tanh(self.linear(x)))

    class Model(nnx.Module):
        def __init__(self):
            @nnx.split_rngs(splits=3)
            @nnx.vmap
            def stack(rngs):
                return Marked(rngs)

            self.blocks = stack(nnx.Rngs(0))

        def __call__(self, x):
            x = x["a"] + x["b"]
            return nnx.scan(lambda x, b: b(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)

    model, x = Model(), {"a": data(), "b": data(seed=9)}
    method = jax_mix.ManifoldMixup(1.0).bind(model, x)
    assert method.layers == ("blocks.0.mark", "blocks.1.mark", "blocks.2.mark")
    for i, layer in enumerate(("input", *method.layers)):
        mix = draw(layer)
        h = mix.blend(x["a"]) + mix.blend(x["b"]) if i == 0 else x["a"] + x["b"]
        for j in range(3):
            block = jax.tree.map(lambda a, j=j: a[j], nnx.state(model.blocks))
            inner = jnp.tanh(h @ block.linear.kernel.get_value() + block.linear.bias.get_value()[None])
            h = h + (mix.blend(inner) if i == j + 1 else inner)
        assert_close(jax_mix.forward(model, x, mix), h, "another order of summation")


def test_a_layer_named_twice_counts_once():
    method = jax_mix.ManifoldMixup(1.0, layers=("first", "second", "first"))
    assert method.sample(jax.random.key(0), (4, 4)).layers == ("input", "first", "second")


def test_outputs_that_are_no_batch_of_floats_are_passed_over():
    class Auxiliary(nnx.Module):
        def __call__(self, h):
            return h.mean()

    class Counted(nnx.Module):
        """A block that puts out its auxiliary loss too."""

        def __init__(self, rngs):
            self.linear, self.auxiliary = nnx.Linear(4, 4, rngs=rngs), Auxiliary()

        def __call__(self, x):
            h = self.linear(x)
            return h, self.auxiliary(h)

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.counted, self.head = Counted(rngs), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.counted(nnx.relu(x))[0]))

    model, x = Model(nnx.Rngs(0)), data()
    assert jax_mix.ManifoldMixup(1.0).bind(model, x).layers == ("counted.linear",)
    assert jax_mix.ManifoldMixup(1.0, layers="**").bind(model, x).layers == ("counted.linear", "counted", "head")
    mix = draw("counted")
    assert_close(
        jax_mix.forward(model, x, mix),
        model.head(nnx.relu(mix.blend(model.counted.linear(nnx.relu(x))))),
        "another order of summation",
    )


@pytest.mark.filterwarnings("ignore:the batch also goes around")
def test_layers_are_chosen_by_path_glob_type_mark_or_automatically():
    model, image = models.ResNet(nnx.Rngs(0)), jax.ShapeDtypeStruct((2, 5, 5, 1), jnp.float32)

    def chosen(layers, model=model, image=image):
        return jax_mix.ManifoldMixup(1.0, layers=layers).bind(model, image).layers

    assert chosen(("stem", "blocks.1")) == ("stem", "blocks.1")
    assert chosen("blocks.*") == ("blocks.0", "blocks.1")
    assert chosen("blocks.**") == (
        "blocks.0.norm",
        "blocks.0.conv",
        "blocks.0",
        "blocks.1.norm",
        "blocks.1.conv",
        "blocks.1",
    )
    assert chosen(nnx.Conv) == ("stem", "blocks.0.conv", "blocks.1.conv")
    assert chosen((models.ResBlock, "stem")) == ("stem", "blocks.0", "blocks.1")
    assert chosen(None) == ("blocks.0",)  # blocks win, never inside one; the last is the output, which is linear in it
    assert chosen("input") == ()
    vector = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    assert chosen(None, models.MLP(nnx.Rngs(0)), vector) == ("second",)  # no block: what is between input and output
    marked = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), jax_mix.MixPoint(), models.ResBlock(4, nnx.Rngs(0)))
    image = jax.ShapeDtypeStruct((2, 5, 5, 4), jnp.float32)
    assert chosen(None, marked, image) == ("layers.1",)  # marks win over blocks


def test_binding_changes_nothing():
    model, image = models.ResNet(nnx.Rngs(0)), data(shape=(5, 5, 1))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey))))
    jax_mix.ManifoldMixup(1.0).bind(model, image)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey)))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_further_arguments_reach_the_model():
    class Model(models.MLP):
        def __call__(self, x, scale, *, rngs, train):
            assert train is True
            return super().__call__(x) * scale + jax.random.uniform(rngs.noise(), ())

    model, x, rngs = Model(nnx.Rngs(0)), data(), nnx.Rngs(noise=0)
    layers = jax_mix.ManifoldMixup(1.0).bind(model, x, 2.0, rngs=rngs, train=True).layers
    assert layers == ("second",)
    assert rngs.noise.count.get_value() == 0
    got = jax_mix.forward(model, x, draw("first"), 2.0, rngs=nnx.Rngs(noise=0), train=True)
    hidden = model.second(nnx.relu(draw("first").blend(model.first(x))))
    noise = jax.random.uniform(nnx.Rngs(noise=0).noise(), ())
    assert_close(got, model.head(nnx.relu(hidden)) * 2.0 + noise, "same program")


def in_a_loop(kind):
    """A model whose block a loop runs three times with the same weights."""

    class Model(nnx.Module):
        def __init__(self):
            self.stem, self.block = models.Dense(4, nnx.Rngs(0)), models.Dense(4, nnx.Rngs(1))

        def __call__(self, x):
            x = self.stem(x)
            if kind == "nnx.scan":
                return nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, None), out_axes=nnx.Carry, length=3)(
                    x, self.block
                )
            if kind == "lax.scan":
                return jax.lax.scan(lambda x, _: (self.block(x), None), x, length=3)[0]
            return jax.lax.fori_loop(0, 3, lambda i, x: self.block(x), x)

    return Model()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("kind", ["nnx.scan", "lax.scan", "fori_loop"])
def test_a_layer_that_a_loop_runs_with_the_same_weights_is_refused(kind, jit):
    """Mixed at its first call alone it cannot be: the program of the loop is one for all calls."""
    model, x = in_a_loop(kind), data()
    forward = nnx.jit(jax_mix.forward) if jit else jax_mix.forward
    with pytest.raises(ValueError, match="'block' runs in a loop with the same weights each time"):
        forward(model, x, draw("block"))
    with pytest.raises(ValueError, match="layers has 'block', which runs in a loop"):
        jax_mix.ManifoldMixup(1.0, layers="block").bind(model, x)
    assert jax_mix.ManifoldMixup(1.0, layers="st*").bind(model, x).layers == ("stem",)
    with pytest.raises(ValueError, match=r"layers has 'bl.*': 'block' runs in a loop with the same weights"):
        jax_mix.ManifoldMixup(1.0, layers="bl*").bind(model, x)
    mix = draw("stem")
    want = mix.blend(model.stem(x))
    for _ in range(3):
        want = model.block(want)
    assert_close(forward(model, x, mix), want, "another order of summation")


def test_a_layer_in_a_bare_transform_without_a_loop_is_mixed():
    class Model(models.MLP):
        def __call__(self, x):
            return self.head(jax.checkpoint(lambda x: jax.jit(self.first)(x))(x))

    model, x, mix = Model(nnx.Rngs(0)), data(), draw("first")
    assert_close(jax_mix.forward(model, x, mix), model.head(mix.blend(model.first(x))), "another order of summation")


def test_stacked_weights_that_a_loop_indexes_are_left_to_it():
    class Model(models.Scanned):
        def __init__(self):
            super().__init__(nnx.Rngs(0))
            self.stem = models.Dense(4, nnx.Rngs(1))

        def __call__(self, x):
            graphdef, state = nnx.split(self.blocks)
            block = lambda i: nnx.merge(graphdef, jax.tree.map(lambda a: a[i], state))  # noqa: E731
            return jax.lax.fori_loop(0, 3, lambda i, x: block(i)(x), self.stem(x))

    model, x = Model(), data()
    method = jax_mix.ManifoldMixup(1.0, layers="stem").bind(model, x)
    mix = method.sample(jax.random.key(0), x.shape, layer="stem")
    want = mix.blend(model.stem(x))
    for block in models.Unrolled(model).blocks:
        want = block(want)
    assert_close(jax_mix.forward(model, x, mix), want, "another order of summation")


@pytest.mark.parametrize("depth", [3, 4])
def test_weights_stacked_along_another_axis_are_told(depth):
    class Model(nnx.Module):
        def __init__(self):
            self.blocks = nnx.vmap(lambda rngs: models.Dense(4, rngs), out_axes=1)(nnx.Rngs(0).split(depth))
            self.stem = models.Dense(4, nnx.Rngs(1))

        def __call__(self, x):
            scan = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 1), out_axes=nnx.Carry)
            return scan(self.stem(x), self.blocks)

    model, x, mix = Model(), data(), draw("stem")
    assert [layer.name for layer in jax_mix.list_layers(model, x) if not layer.looped] == ["stem.linear", "stem"]
    with pytest.raises(ValueError, match=r"'blocks' runs in a loop .* along another axis than the first"):
        jax_mix.forward(model, x, draw("blocks"))
    assert jax_mix.forward(model, x, mix).shape == x.shape

"""`forward` on NNX models, against the same computation written out by hand."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jax_mix
from parity_tests.library import models_nnx as models
from parity_tests.tolerances import assert_close


def draw(layer, n=6, seed=0, layers=None):
    """A draw with unfolded lambdas: a swapped weight or a missing blend shows."""
    key_lam, key_partner = jax.random.split(jax.random.key(seed))
    lam, partner = jax.random.uniform(key_lam, (n,)), jnp.roll(jax.random.permutation(key_partner, n), 1)
    return jax_mix.Mix(lam, partner, layer=layer, layers=layers or ("input",))


def data(n=6, shape=(4,), seed=1):
    return jax.random.normal(jax.random.key(seed), (n, *shape))


def resnet_by_hand(model, x, mix):
    """ResNet.__call__ with a blend written in where `mix` says."""

    def at(name, x):
        return mix.blend(x) if mix.layer == name else x

    x = at("stem", model.stem(nnx.relu(at("input", x))))
    for i, block in enumerate(model.blocks):
        x = at(f"blocks.{i}", x + at(f"blocks.{i}.conv", block.conv(nnx.relu(block.norm(x)))))
    return at("head", model.head(model.dropout(x).mean((1, 2))))


RESNET_LAYERS = ("input", "stem", "blocks.0", "blocks.0.conv", "blocks.1", "blocks.1.conv", "head")


@pytest.mark.parametrize("layer", RESNET_LAYERS)
def test_outputs_gradients_and_batch_statistics_equal_a_model_written_by_hand(layer):
    x, mix = data(shape=(5, 5, 1)), draw(layer)
    ours, theirs = models.ResNet(nnx.Rngs(0)), models.ResNet(nnx.Rngs(0))
    got, got_grads = nnx.value_and_grad(lambda m: jnp.square(jax_mix.forward(m, x, mix)).sum())(ours)
    want, want_grads = nnx.value_and_grad(lambda m: jnp.square(resnet_by_hand(m, x, mix)).sum())(theirs)
    assert_close(got, want, "same program")
    jax.tree.map(lambda a, b: assert_close(a, b, "same program"), nnx.state(got_grads), nnx.state(want_grads))
    jax.tree.map(lambda a, b: assert_close(a, b, "same program"), stats(ours), stats(theirs))
    assert ours.dropout.rngs.count.get_value() == theirs.dropout.rngs.count.get_value() == 1


def stats(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def test_every_layer_gives_another_result():
    x = data(shape=(5, 5, 1))
    results = []
    for layer in RESNET_LAYERS:
        results.append(np.asarray(jax_mix.forward(models.ResNet(nnx.Rngs(0)), x, draw(layer))))
    for i, a in enumerate(results):
        for b in results[:i]:
            assert np.abs(a - b).max() > 1e-3


def test_one_compiled_step_serves_every_layer_and_equals_the_static_program():
    x = data(shape=(5, 5, 1))
    traces = []

    @nnx.jit
    def drawn(model, k):
        traces.append(k)
        return jax_mix.forward(model, x, draw(k, layers=RESNET_LAYERS))

    for k, layer in enumerate(RESNET_LAYERS):
        ours, theirs = models.ResNet(nnx.Rngs(0)), models.ResNet(nnx.Rngs(0))
        static = nnx.jit(lambda model, layer=layer: jax_mix.forward(model, x, draw(layer)))
        assert_close(drawn(ours, jnp.int32(k)), static(theirs), "same program")
        jax.tree.map(lambda a, b: assert_close(a, b, "same program"), stats(ours), stats(theirs))
    assert len(traces) == 1


def test_the_static_program_has_no_branch_and_the_drawn_one_a_branch_a_layer():
    x, model = data(shape=(5, 5, 1)), models.ResNet(nnx.Rngs(0))
    graphdef, state = nnx.split(model)

    def program(layer):
        def f(state, k):
            mix = draw(k if layer is None else layer, layers=RESNET_LAYERS)
            return jax_mix.forward(nnx.merge(graphdef, state, copy=True), x, mix)

        return str(jax.make_jaxpr(f)(state, jnp.int32(0)))

    assert program("blocks.1").count(" cond[") == 0
    assert program(None).count(" cond[") == len(RESNET_LAYERS)


def test_without_a_draw_the_model_is_just_called():
    x = data(shape=(5, 5, 1))
    got = jax_mix.forward(models.ResNet(nnx.Rngs(0)), x, None)
    np.testing.assert_array_equal(got, models.ResNet(nnx.Rngs(0))(x))


SCANNED_LAYERS = tuple(f"blocks.{i}{child}" for i in range(3) for child in ("", ".linear"))


@nnx.jit
def loss_and_gradients(model, x, mix):
    return nnx.value_and_grad(lambda m: jnp.square(jax_mix.forward(m, x, mix)).sum())(model)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("layer", SCANNED_LAYERS)
def test_scanned_blocks_equal_unrolled_ones(layer, remat, static):
    with jax.enable_x64(True):  # in float32 some gradients are what the rounding of far larger terms leaves
        scanned, x = models.Scanned(nnx.Rngs(0), remat=remat), data()
        nnx.update(scanned, jax.tree.map(lambda a: a.astype(jnp.float64), nnx.state(scanned)))
        unrolled = models.Unrolled(scanned)
        layers = ("input", *SCANNED_LAYERS)
        mix = draw(layer if static else jnp.int32(layers.index(layer)), layers=layers)
        got, got_grads = loss_and_gradients(scanned, x, mix)
        want, want_grads = loss_and_gradients(unrolled, x, mix)
        assert jnp.abs(want - jnp.square(unrolled(x)).sum()) > 1e-3  # it mixed at all
    assert_close(got, want, "another order of summation")
    for i, block in enumerate(nnx.to_pure_dict(nnx.state(want_grads))["blocks"].values()):
        jax.tree.map(
            lambda a, b, i=i: assert_close(a[i], b, "another order of summation"),
            nnx.to_pure_dict(nnx.state(got_grads))["blocks"],
            block,
        )


@pytest.mark.parametrize("layer", ["input", "one", "one.linear", "two", "two.linear", "three", "three.linear"])
def test_rematerialised_layers(layer):
    model, x, mix = models.Remat(nnx.Rngs(0)), data(), draw(layer)

    def by_hand(model, x):
        def at(name, x):
            return mix.blend(x) if mix.layer == name else x

        x = at("input", x)
        for name in ("one", "two", "three"):
            x = at(name, x + jnp.tanh(at(f"{name}.linear", getattr(model, name).linear(x))))
        return x

    names = ("input", "one", "one.linear", "two", "two.linear", "three", "three.linear")
    drawn = draw(jnp.int32(names.index(layer)), layers=names)
    want = nnx.jit(nnx.value_and_grad(lambda m: jnp.square(by_hand(m, x)).sum()))(model)
    for m in (mix, drawn):
        # Twice: a compilation cache that kept the first call's tracers would raise at the second.
        for _ in range(2):
            step = nnx.jit(nnx.value_and_grad(lambda model, mix: jnp.square(jax_mix.forward(model, x, mix)).sum()))
            got = step(model, m)
            assert_close(got[0], want[0], "another order of summation")
            jax.tree.map(
                lambda a, b: assert_close(a, b, "another order of summation"), nnx.state(got[1]), nnx.state(want[1])
            )


def test_a_layer_called_twice_is_mixed_at_its_first_call_and_says_so():
    model, x, mix = models.Twice(nnx.Rngs(0)), data(), draw("shared")
    want = model.shared(mix.blend(model.shared(x)))
    with pytest.warns(UserWarning, match="'shared' is called more than once") as caught:
        got = jax_mix.forward(model, x, mix)
    assert len(caught) == 1
    np.testing.assert_array_equal(got, want)


def test_a_rematerialised_layer_called_twice_is_mixed_at_its_first_call():
    class Model(nnx.Module):
        def __init__(self):
            self.shared = models.RematBlock(4, nnx.Rngs(0))
            self.inner = models.Dense(4, nnx.Rngs(1))

        def __call__(self, x):
            call = nnx.remat(lambda block, x: block(x))
            return call(self.inner, call(self.inner, self.shared(x)))

    model, x = Model(), data()
    for layer in ("inner", "inner.linear"):
        mix = draw(layer)

        def inner(x, mix):
            h = model.inner.linear(x)
            h = mix.blend(h) if mix is not None and mix.layer == "inner.linear" else h
            y = x + jnp.tanh(h)
            return mix.blend(y) if mix is not None and mix.layer == "inner" else y

        want = inner(inner(model.shared(x), mix), None)
        assert_close(jax_mix.forward(model, x, mix), want, "another order of summation")


class Raises(models.MLP):
    def __call__(self, x):
        self.second(nnx.relu(self.first(x)))
        raise RuntimeError("broken on purpose")


def test_after_an_exception_the_model_is_as_it_was():
    model = Raises(nnx.Rngs(0))
    before = {path: (type(m), dict(vars(m))) for path, m in nnx.iter_modules(model)}
    state = nnx.to_pure_dict(nnx.clone(nnx.state(model)))
    with pytest.raises(RuntimeError, match="on purpose"):
        jax_mix.forward(model, data(), draw("second"))
    after = {path: (type(m), dict(vars(m))) for path, m in nnx.iter_modules(model)}
    assert before.keys() == after.keys()
    for path, (type_, attributes) in before.items():
        assert after[path][0] is type_
        assert after[path][1].keys() == attributes.keys()
        assert all(after[path][1][name] is value for name, value in attributes.items())
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), state)


def test_a_finished_forward_leaves_the_structure_as_it_was():
    model = models.ResNet(nnx.Rngs(0))
    before = nnx.graphdef(model)
    jax_mix.forward(model, data(shape=(5, 5, 1)), draw("stem"))
    assert nnx.graphdef(model) == before


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_what_the_forward_pass_sows_reaches_the_model():
    class Sows(models.MLP):
        def __call__(self, x):
            hidden = self.first(x)
            self.sow(nnx.Intermediate, "hidden", hidden)
            return self.head(hidden)

    model, x, mix = Sows(nnx.Rngs(0)), data(), draw("first")
    jax_mix.forward(model, x, mix)
    (sown,) = nnx.to_pure_dict(nnx.pop(model, nnx.Intermediate))["hidden"]
    np.testing.assert_array_equal(sown, mix.blend(model.first(x)))


def test_plain_jax_grad_over_a_merged_model():
    model, x, mix = models.ResNet(nnx.Rngs(0)), data(shape=(5, 5, 1)), draw("blocks.0")
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        return jax_mix.forward(merged, x, mix).sum()

    got, want = jax.grad(loss)(params), nnx.grad(lambda m: jax_mix.forward(m, x, mix).sum())(model)
    jax.tree.map(lambda a, b: assert_close(a, b, "same program"), got, nnx.state(want))


def test_an_ensemble_under_vmap_equals_its_members():
    x, layers = data(), ("input", "first", "second")

    @nnx.vmap(in_axes=(0, 0, None))
    def run(model, key, x):
        mix = jax_mix.ManifoldMixup(1.0, layers=layers[1:]).sample(key, x.shape)
        return jax_mix.forward(model, x, mix), mix

    @nnx.vmap
    def make(key):
        return models.MLP(nnx.Rngs(key))

    keys = jax.random.split(jax.random.key(0), 5)
    ensemble = make(keys)
    together, mixes = run(ensemble, keys, x)
    assert len(set(mixes.layer.tolist())) > 1
    for i in range(5):
        member = models.MLP(nnx.Rngs(keys[i]))
        mix = jax.tree.map(lambda a, i=i: a[i], mixes)
        assert_close(together[i], jax_mix.forward(member, x, mix), "another order of summation")


def test_layers_beside_a_bridged_linen_module_are_mixed():
    bridged = nnx.bridge.lazy_init(nnx.bridge.ToNNX(linen.Dense(4), rngs=nnx.Rngs(0)), data())
    model, x = nnx.Sequential(bridged, jax_mix.MixPoint(), nnx.Linear(4, 2, rngs=nnx.Rngs(0))), data()
    assert [layer.name for layer in jax_mix.list_layers(model, x)] == ["layers.1", "layers.2"]
    mix = draw("layers.1")
    assert_close(jax_mix.forward(model, x, mix), model.layers[2](mix.blend(bridged(x))), "same program")


def test_a_submodule_that_the_forward_pass_stores_is_the_users_own():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(4, 4, rngs=rngs), nnx.data(None)

        def __call__(self, x):
            self.last = self.first
            return self.first(x)

    model = Model(nnx.Rngs(0))
    jax_mix.forward(model, data(), draw("first"))
    assert model.last is model.first


def test_a_model_that_jits_its_own_parts():
    class Model(nnx.Module):
        def __init__(self):
            self.block = models.Dense(4, nnx.Rngs(0))

        def __call__(self, x):
            return jitted_call(self.block, x)

    @nnx.jit
    def jitted_call(block, x):
        return block(x)

    model, x = Model(), data()
    for seed in range(3):
        mix = draw("block", seed=seed)
        assert_close(jax_mix.forward(model, x, mix), mix.blend(model.block(x)), "another order of summation")
        inside = nnx.jit(lambda model, mix: jax_mix.forward(model, x, mix))(model, mix)
        assert_close(inside, mix.blend(model.block(x)), "another order of summation")


def test_no_tracer_outlives_the_forward_pass():
    model, x = models.Remat(nnx.Rngs(0)), data()
    with jax.checking_leaks():
        nnx.jit(lambda model, mix: jax_mix.forward(model, x, mix))(model, draw("two.linear"))


@pytest.mark.parametrize("iteration", [0, 2])
def test_a_layer_called_twice_in_a_scan_is_mixed_at_its_first_call_of_the_iteration(iteration):
    class Model(models.Scanned):
        def __call__(self, x):
            twice = nnx.scan(lambda x, block: block(block(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return twice(x, self.blocks)

    model, x, mix = Model(nnx.Rngs(0)), data(), draw(f"blocks.{iteration}")
    want = x
    for i, block in enumerate(models.Unrolled(model).blocks):
        want = mix.blend(block(want)) if i == iteration else block(want)
        want = block(want)
    with pytest.warns(UserWarning, match="more than once"):
        got = jax_mix.forward(model, x, mix)
    assert_close(got, want, "another order of summation")


def test_no_compilation_cache_keeps_the_draw():
    model, x = models.Remat(nnx.Rngs(0)), data()
    kept = []

    @nnx.jit
    def step(model, x):
        mix = jax_mix.ManifoldMixup(1.0, layers=("one.linear", "two.linear")).sample(jax.random.key(0), x.shape)
        kept.append(weakref.ref(mix))
        return jax_mix.forward(model, x, mix)

    step(model, x)
    gc.collect()
    assert kept[0]() is None

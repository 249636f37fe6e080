"""`forward` and `list_layers` on NNX models, against the same computation written out by hand."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jax_mix
from parity_tests import models_nnx as models
from parity_tests.tolerances import assert_close

XENT = optax.softmax_cross_entropy_with_integer_labels


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


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("layer", [f"blocks.{i}{child}" for i in range(3) for child in ("", ".linear")])
def test_scanned_blocks_equal_unrolled_ones(layer, remat, static):
    scanned = models.Scanned(nnx.Rngs(0), remat=remat)
    unrolled, x = models.Unrolled(scanned), data()
    layers = tuple(dict.fromkeys(("input", "blocks.0", "blocks.2.linear", layer)))
    mix = draw(layer if static else jnp.int32(layers.index(layer)), layers=layers)

    @nnx.jit
    def run(model, mix):
        return nnx.value_and_grad(lambda m: jnp.square(jax_mix.forward(m, x, mix)).sum())(model)

    got, got_grads = run(scanned, mix)
    want, want_grads = run(unrolled, mix)
    assert_close(got, want, "another order of summation")
    assert jnp.abs(want - jnp.square(unrolled(x)).sum()) > 1e-3  # it mixed at all
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


def train_step(method, model, optimizer, key, x, label):
    mix = method.sample(key, x.shape)

    def loss_fn(model):
        return jax_mix.mixed_loss(XENT, jax_mix.forward(model, x, mix), label, mix).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


METHODS = {
    "mixup": jax_mix.MixUp(1.0),
    "manifold": jax_mix.ManifoldMixup(1.0, layers=("stem", "blocks.0")),
    "cutmix": jax_mix.CutMix(1.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_tree_mode_equals_graph_mode(name):
    """`graph=False`: NNX's transforms take the model as a plain pytree."""
    method, x = METHODS[name], data(6, shape=(5, 5, 1))
    mix = method.sample(jax.random.key(3), x.shape)

    def run(graph):
        model = models.ResNet(nnx.Rngs(0))
        logits = nnx.jit(lambda model: jax_mix.forward(model, x, mix), graph=graph)(model)
        return logits, nnx.state(model, nnx.BatchStat)

    for ours, expected in zip(jax.tree.leaves(run(False)), jax.tree.leaves(run(True)), strict=True):
        assert_close(ours, expected, "same program")


@pytest.mark.parametrize("name", METHODS)
def test_a_scan_over_steps_equals_a_loop_over_steps(name):
    method, label = METHODS[name], jnp.arange(6) % 3
    xs, keys = data(4 * 6, shape=(5, 5, 1)).reshape(4, 6, 5, 5, 1), jax.random.split(jax.random.key(3), 4)

    def fresh():
        model = models.ResNet(nnx.Rngs(0))
        return model, nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)

    model, optimizer = fresh()
    step = nnx.jit(lambda *args: train_step(method, *args))
    looped = [step(model, optimizer, key, x, label) for key, x in zip(keys, xs, strict=True)]

    scanned_model, scanned_optimizer = fresh()

    @nnx.jit
    def scan(model, optimizer):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
        def body(carry, key_and_x):
            loss = train_step(method, *carry, *key_and_x, label)
            return carry, loss

        return body((model, optimizer), (keys, xs))[1]

    scanned = scan(scanned_model, scanned_optimizer)
    assert_close(scanned, jnp.stack(looped), "another order of summation")
    assert len(set(np.asarray(scanned).tolist())) == 4


@pytest.mark.parametrize("name", METHODS)
def test_accumulated_gradients_equal_the_mean_of_the_microbatches(name):
    method, label = METHODS[name], jnp.arange(6) % 3
    xs, keys = data(2 * 6, shape=(5, 5, 1)).reshape(2, 6, 5, 5, 1), jax.random.split(jax.random.key(3), 2)

    accumulated = models.ResNet(nnx.Rngs(0))
    optimizer = nnx.Optimizer(accumulated, optax.MultiSteps(optax.sgd(0.1), 2), wrt=nnx.Param)
    step = nnx.jit(lambda *args: train_step(method, *args))
    with jax.numpy_dtype_promotion("standard"):  # optax.MultiSteps is not strict about dtypes
        for key, x in zip(keys, xs, strict=True):
            step(accumulated, optimizer, key, x, label)

    by_hand = models.ResNet(nnx.Rngs(0))
    gradients = []
    for key, x in zip(keys, xs, strict=True):
        mix = method.sample(key, x.shape)
        grad = nnx.grad(lambda m, x, mix: jax_mix.mixed_loss(XENT, jax_mix.forward(m, x, mix), label, mix).mean())
        gradients.append(nnx.state(nnx.jit(grad)(by_hand, x, mix)))
    want = jax.tree.map(
        lambda p, a, b: p - 0.1 * (a + b) / 2, nnx.state(models.ResNet(nnx.Rngs(0)), nnx.Param), *gradients
    )
    jax.tree.map(lambda a, b: assert_close(a, b, "another order of summation"), nnx.state(accumulated, nnx.Param), want)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_any_batch_size_and_a_batch_of_one_is_left_as_it_was(name, n):
    x = data(n, shape=(5, 5, 1))
    for seed in range(5):
        mix = METHODS[name].sample(jax.random.key(seed), x.shape)
        model, plain = models.ResNet(nnx.Rngs(0)), models.ResNet(nnx.Rngs(0))
        y = jax_mix.forward(model, x, mix)
        assert y.shape == (n, 3)
        if n == 1:
            np.testing.assert_array_equal(mix.blend(x), x)
            assert_close(y, plain(x), "same program")


def test_bfloat16_hidden_states_are_blended_in_float32():
    class Model(nnx.Module):
        def __init__(self):
            self.first = nnx.Linear(4, 64, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.first(x)

    model, x, mix = Model(), data(), draw("first")
    got, hidden = jax_mix.forward(model, x, mix), np.asarray(model.first(x), np.float32)
    lam = np.asarray(mix.lam)[:, None]
    want = (lam * hidden + (1 - lam) * hidden[np.asarray(mix.partner)]).astype(jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    assert (np.asarray(got) == want).mean() > 0.99  # float32's own rounding may tip a bfloat16 now and then
    np.testing.assert_allclose(np.asarray(got, np.float32), want.astype(np.float32), rtol=2**-8)


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
    class Counted(nnx.Module):
        """A block that puts out its auxiliary loss too."""

        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 4, rngs=rngs)

        def __call__(self, x):
            h = self.linear(x)
            return h, h.mean()

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.counted, self.head = Counted(rngs), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.counted(x)[0])

    model, x = Model(nnx.Rngs(0)), data()
    assert jax_mix.ManifoldMixup(1.0).bind(model, x).layers == ("counted.linear", "head")
    assert jax_mix.ManifoldMixup(1.0, layers="**").bind(model, x).layers == ("counted.linear", "head")


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
    assert chosen(None) == ("blocks.0", "blocks.1")  # blocks win, never inside one
    assert chosen("input") == ()
    vector = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    assert chosen(None, models.MLP(nnx.Rngs(0)), vector) == ("first", "second", "head")  # no block: every mixable one
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
    assert layers == ("first", "second", "head")
    assert rngs.noise.count.get_value() == 0
    got = jax_mix.forward(model, x, draw("first"), 2.0, rngs=nnx.Rngs(noise=0), train=True)
    hidden = model.second(nnx.relu(draw("first").blend(model.first(x))))
    noise = jax.random.uniform(nnx.Rngs(noise=0).noise(), ())
    assert_close(got, model.head(nnx.relu(hidden)) * 2.0 + noise, "same program")


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
    assert jax_mix.ManifoldMixup(1.0, layers="**").bind(model, x).layers == ("stem.linear", "stem")
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


def test_scans_that_cannot_be_followed_are_told():
    class Nested(nnx.Module):
        def __init__(self):
            self.blocks = nnx.vmap(nnx.vmap(lambda rngs: models.Dense(4, rngs)))(nnx.Rngs(0).split((2, 3)))
            self.stem = models.Dense(4, nnx.Rngs(1))

        def __call__(self, x):
            inner = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return nnx.scan(inner, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(self.stem(x), self.blocks)

    model, x, mix = Nested(), data(), draw("stem")
    with pytest.raises(ValueError, match=r"layers cannot be listed .*nested or stacked along another axis"):
        jax_mix.list_layers(model, x)
    assert jax_mix.forward(model, x, mix).shape == x.shape  # a plain path outside of them does

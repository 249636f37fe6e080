"""`forward` and `list_layers` on Linen models, against the same computation written out by hand."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jax_mix
from parity_tests.library import models_linen as models
from parity_tests.library.test_running_nnx import data, draw
from parity_tests.tolerances import assert_close

RESNET_LAYERS = ("input", "stem", "block_0", "block_0.conv", "block_1", "block_1.conv", "head")


@functools.cache
def resnet():
    model, x = models.ResNet(), data(shape=(5, 5, 1))
    return model, model.init(jax.random.key(0), x, train=False), x


def resnet_by_hand(variables, x, mix, dropped):
    """ResNet.__call__ on raw parameters with a blend written in where `mix` says; `dropped` is Dropout's keep mask."""
    params = variables["params"]
    statistics = {}

    def at(name, x):
        return mix.blend(x) if mix.layer == name else x

    def conv(p, x):
        y = jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + p["bias"].reshape(1, 1, 1, -1)

    x = at("stem", conv(params["stem"], nn.relu(at("input", x))))
    for i in range(2):
        name = f"block_{i}"
        norm = nn.BatchNorm(use_running_average=False)
        own = {"params": params[name]["norm"], "batch_stats": variables["batch_stats"][name]["norm"]}
        h, updated = norm.apply(own, x, mutable=["batch_stats"])
        statistics[name] = {"norm": updated["batch_stats"]}
        x = at(name, x + at(f"{name}.conv", conv(params[name]["conv"], nn.relu(h))))
    x = jnp.where(dropped, x / 0.5, 0.0).mean((1, 2))
    return at("head", x @ params["head"]["kernel"] + params["head"]["bias"][None]), statistics


def dropout_mask(model, variables, x):
    """The keep mask that Dropout draws with key 7, found from a model whose every other part is known."""
    captured = {}

    def intercept(next_fun, args, kwargs, context):
        y = next_fun(*args, **kwargs)
        if isinstance(context.module, nn.Dropout):
            captured["mask"] = y != 0
        return y

    with nn.intercept_methods(intercept):
        model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(7)}, mutable=["batch_stats"])
    return captured["mask"]


@jax.jit
def resnet_by_jax_mix(params, mix):
    model, variables, x = resnet()
    y, updates = jax_mix.forward(
        model,
        x,
        mix,
        variables={**variables, "params": params},
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(7)},
    )
    return jnp.square(y).sum(), updates["batch_stats"]


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("layer", RESNET_LAYERS)
def test_outputs_gradients_and_batch_statistics_equal_a_model_written_by_hand(layer, drawn):
    model, variables, x = resnet()
    mask = dropout_mask(model, variables, x)
    mix = draw(layer)
    ours_mix = draw(jnp.int32(RESNET_LAYERS.index(layer)), layers=RESNET_LAYERS) if drawn else mix

    def theirs(params):
        y, statistics = resnet_by_hand({**variables, "params": params}, x, mix, mask)
        return jnp.square(y).sum(), statistics

    got, got_grads = jax.value_and_grad(resnet_by_jax_mix, has_aux=True)(variables["params"], ours_mix)
    want, want_grads = jax.value_and_grad(theirs, has_aux=True)(variables["params"])
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: assert_close(a, b, "another order of summation"), got, want)
    jax.tree.map(lambda a, b: assert_close(a, b, "another order of summation"), got_grads, want_grads)


def scanned_by_hand(params, x, mix, depth=3):
    def at(name, x):
        return mix.blend(x) if mix.layer == name else x

    for i in range(depth):
        linear = jax.tree.map(lambda a, i=i: a[i], params["blocks"]["dense"]["linear"])
        h = at(f"blocks.{i}.dense.linear", x @ linear["kernel"] + linear["bias"][None])
        x = at(f"blocks.{i}.drop", at(f"blocks.{i}.dense", x + jnp.tanh(h)))
    return x


SCANNED_LAYERS = tuple(f"blocks.{i}.{child}" for i in (0, 2) for child in ("dense", "dense.linear", "drop"))


@functools.partial(jax.jit, static_argnames="remat")
def scanned_loss(params, x, mix, *, remat):
    variables, rngs = {"params": params}, {"dropout": jax.random.key(1)}
    return jnp.square(jax_mix.forward(models.Scanned(remat=remat), x, mix, variables=variables, rngs=rngs)).sum()


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("layer", SCANNED_LAYERS)
def test_scanned_blocks_equal_unrolled_ones(layer, remat, drawn):
    with jax.enable_x64(True):  # in float32 some gradients are what the rounding of far larger terms leaves
        x, rngs = data(), {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        params = models.Scanned(remat=remat).init(rngs, x.astype(jnp.float32))["params"]
        params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
        layers = ("input", "blocks.1.dense", *SCANNED_LAYERS)
        mix = draw(jnp.int32(layers.index(layer)) if drawn else layer, layers=layers)
        got, got_grads = jax.value_and_grad(scanned_loss)(params, x, mix, remat=remat)
        by_hand = jax.jit(lambda p: jnp.square(scanned_by_hand(p, x, draw(layer))).sum())
        want, want_grads = jax.value_and_grad(by_hand)(params)
        assert abs(want - jnp.square(scanned_by_hand(params, x, draw("nowhere"))).sum()) > 1e-3
    assert_close(got, want, "another order of summation")
    jax.tree.map(lambda a, b: assert_close(a, b, "another order of summation"), got_grads, want_grads)


@pytest.mark.parametrize("layer", ["shared", "shared.linear", "saved", "saved.linear", "last"])
def test_first_call_only_with_shared_and_rematerialised_layers(layer):
    model, x = models.Lifted(), data()
    variables = model.init(jax.random.key(0), x)
    mix = draw(layer)

    def call(name, x, first):
        def at(path, x):
            return mix.blend(x) if first and mix.layer == path else x

        p = variables["params"][name]["linear"]
        return at(name, x + jnp.tanh(at(f"{name}.linear", x @ p["kernel"] + p["bias"][None])))

    want = call("shared", call("shared", x, True), False)
    want = call("last", call("saved", call("saved", want, True), False), True)
    twice = layer.startswith("shared")  # whether the rematerialised one was called before is not known while tracing
    with pytest.warns(UserWarning, match="more than once") if twice else contextlib.nullcontext():
        got = jax_mix.forward(model, x, mix, variables=variables)
    assert_close(got, want, "another order of summation")


@pytest.mark.filterwarnings("ignore:the batch also goes around")
def test_layers_are_chosen_by_path_glob_type_mark_or_automatically():
    model, variables, x = resnet()

    def chosen(layers, model=model, variables=variables, **kwargs):
        return jax_mix.ManifoldMixup(1.0, layers=layers).bind(model, x, variables=variables, **kwargs).layers

    call = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
    assert chosen("block_*", **call) == ("block_0", "block_1")
    assert chosen("block_0/conv", **call) == ("block_0.conv",)
    assert chosen(nn.Conv, **call) == ("stem", "block_0.conv", "block_1.conv")
    assert chosen(None, **call) == ("block_0",)  # the output is linear in the other

    scanned = models.Scanned(remat=True)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(scanned.init, rngs, data())
    method = jax_mix.ManifoldMixup(1.0).bind(scanned, data(), variables=variables, rngs={"dropout": jax.random.key(1)})
    assert method.layers == ("blocks.0", "blocks.1")


def test_further_intercept_methods_of_the_user_go_on_working():
    model, variables, x = resnet()
    seen = []

    def intercept(next_fun, args, kwargs, context):
        seen.append(context.module.name)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(intercept):
        jax_mix.forward(model, x, draw("stem"), variables=variables, train=False)
    assert "stem" in seen
    np.testing.assert_array_equal(
        jax_mix.forward(model, x, None, variables=variables, train=False), model.apply(variables, x, train=False)
    )


def test_whatever_is_mutable_only_the_models_own_collections_come_back():
    model, x = models.Lifted(), data()
    variables = model.init(jax.random.key(0), x)
    for mutable in (True, ["params"], ["batch_stats"]):
        plain, want = model.apply(variables, x, mutable=mutable)
        mixed, got = jax_mix.forward(model, x, draw("last"), variables=variables, mutable=mutable)
        assert jax.tree.structure(got) == jax.tree.structure(want)
        assert np.abs(mixed - plain).max() > 1e-3


def test_a_branch_that_calls_a_layer():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, flag):
            layer = models.Dense(name="layer")
            if self.is_initializing():
                return layer(x)
            return nn.cond(flag, lambda mdl, x: mdl(x), lambda mdl, x: x, layer, x)

    model, x, mix = Model(), data(), draw("layer")
    variables = model.init(jax.random.key(0), x, True)
    inner = models.Dense().apply({"params": variables["params"]["layer"]}, x)
    got = jax.jit(lambda flag: jax_mix.forward(model, x, mix, flag, variables=variables))
    assert_close(got(True), mix.blend(inner), "another order of summation")
    np.testing.assert_array_equal(got(False), x)


@pytest.mark.parametrize("iteration", [0, 2])
def test_a_layer_called_twice_in_a_scan_is_mixed_at_its_first_call_of_the_iteration(iteration):
    class Body(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            shared = models.Dense(name="shared")
            return shared(shared(x)), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(Body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return scan(name="blocks")(x, None)[0]

    model, x, mix = Model(), data(), draw(f"blocks.{iteration}.shared")
    variables = model.init(jax.random.key(0), x)
    want = x
    for i in range(3):
        p = jax.tree.map(lambda a, i=i: a[i], variables["params"]["blocks"]["shared"]["linear"])
        for call in range(2):
            want = want + jnp.tanh(want @ p["kernel"] + p["bias"][None])
            want = mix.blend(want) if (i, call) == (iteration, 0) else want
    with pytest.warns(UserWarning, match="more than once"):
        got = jax_mix.forward(model, x, mix, variables=variables)
    assert_close(got, want, "another order of summation")


@pytest.mark.parametrize("kind", ["the same weights", "weights stacked along the second axis", "a recurrent cell"])
def test_a_layer_that_a_loop_runs_is_refused_where_its_calls_cannot_be_told_apart(kind):
    class Body(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(4)(nn.relu(nn.Dense(8)(x))), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = models.Dense(name="stem")(x)
            if kind == "a recurrent cell":
                return nn.RNN(nn.SimpleCell(4, name="cell"))(jnp.stack([x] * 3, 1))
            how = {"variable_broadcast": "params", "split_rngs": {"params": False}}
            if kind != "the same weights":
                how = {"variable_axes": {"params": 1}, "split_rngs": {"params": True}}
            return nn.scan(Body, length=3, **how)(name="block")(x, None)[0]

    model, x = Model(), data(n=5)
    variables = model.init(jax.random.key(0), x)
    name = "cell" if kind == "a recurrent cell" else "block"
    with pytest.raises(ValueError, match=f"'{name}' runs in a loop"):
        jax.jit(lambda variables, x: jax_mix.forward(model, x, draw(name, n=5), variables=variables))(variables, x)
    with pytest.raises(ValueError, match=f"layers has '{name}', which runs in a loop"):
        jax_mix.ManifoldMixup(1.0, layers=name).bind(model, x, variables=variables)
    bound = jax_mix.ManifoldMixup(1.0).bind(model, x, variables=variables)
    assert not any(layer.startswith(name) for layer in bound.layers)

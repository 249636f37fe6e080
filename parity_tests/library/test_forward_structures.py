"""`forward` and `bind` on models of shapes, stacks of stacks, axes with a name, shared scopes and bridged models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jax_mix
from parity_tests.library import models_linen, models_nnx
from parity_tests.library.test_running_nnx import data, draw
from parity_tests.tolerances import assert_close

# Many layers here are named though the batch goes around them: what is tested is how they are mixed.
pytestmark = pytest.mark.filterwarnings("ignore:the batch also goes around")


def listed(model, *args, **kwargs):
    return {layer.name: layer.looped for layer in jax_mix.list_layers(model, *args, **kwargs)}


@pytest.mark.parametrize("make", [models_nnx.ResNet, models_nnx.Scanned])
def test_an_nnx_model_of_shapes_is_listed_as_a_real_one(make):
    x = jax.ShapeDtypeStruct((6, 5, 5, 1) if make is models_nnx.ResNet else (6, 4), jnp.float32)
    real, abstract = make(nnx.Rngs(0)), nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    before = jax.tree.map(str, nnx.to_pure_dict(nnx.state(abstract)))
    assert jax_mix.list_layers(abstract, x) == jax_mix.list_layers(real, x)
    every = jax_mix.ManifoldMixup(1.0, layers="**")
    assert every.bind(abstract, x) == every.bind(real, x)
    assert jax.tree.map(str, nnx.to_pure_dict(nnx.state(abstract))) == before


class Nested(nnx.Module):
    """A scan in a scan, or an ensemble of scans, between two plain layers."""

    def __init__(self, kind, sizes):
        self.kind = kind
        self.blocks = nnx.vmap(nnx.vmap(lambda rngs: models_nnx.Dense(4, rngs)))(nnx.Rngs(0).split(sizes))
        self.stem, self.head = nnx.Linear(4, 4, rngs=nnx.Rngs(1)), nnx.Linear(4, 2, rngs=nnx.Rngs(2))

    def middle(self, x):
        inner = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        if self.kind == "ensemble":
            return nnx.vmap(inner, in_axes=(None, 0))(x, self.blocks).mean(0)
        return nnx.scan(inner, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)

    def __call__(self, x):
        return self.head(self.middle(self.stem(x)))


@pytest.mark.parametrize("sizes", [(2, 3), (3, 3)])
@pytest.mark.parametrize("kind", ["scans", "ensemble"])
def test_layers_outside_of_stacks_of_stacks_are_listed_and_those_inside_refused(kind, sizes):
    model, x = Nested(kind, sizes), data()
    assert listed(model, x) == {"stem": False, "blocks.linear": True, "blocks": True, "head": False}
    assert jax_mix.ManifoldMixup(1.0, layers="**").bind(model, x).layers == ("stem", "head")
    for name in ("blocks", "blocks.linear"):
        with pytest.raises(ValueError, match=f"layers has '{name}', which runs in a loop .* stack of stacks"):
            jax_mix.ManifoldMixup(1.0, layers=name).bind(model, x)
        with pytest.raises(ValueError, match=f"layer '{name}' runs in a loop .* stack of stacks"):
            jax_mix.forward(model, x, draw(name))
    with pytest.raises(ValueError, match=r"layer 'blocks.0.1' is not in the model: did you mean 'blocks'"):
        jax_mix.forward(model, x, draw("blocks.0.1"))
    mix = draw("stem")
    want = model.head(model.middle(mix.blend(model.stem(x))))
    assert_close(jax_mix.forward(model, x, mix), want, "another order of summation")


class LinenInner(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return models_linen.Dense(name="dense")(x), None


class LinenOuter(nn.Module):
    length: int

    @nn.compact
    def __call__(self, x, _):
        scan = nn.scan(LinenInner, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.length)
        return scan(name="inner")(x, None)


class LinenNested(nn.Module):
    lengths: tuple[int, int]

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="stem")(x)
        scan = nn.scan(LinenOuter, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.lengths[0])
        return nn.Dense(2, name="head")(scan(self.lengths[1], name="outer")(x, None)[0])


@pytest.mark.parametrize("lengths", [(2, 3), (3, 3)])
def test_the_same_in_linen_where_the_outer_blocks_can_be_mixed(lengths):
    model, x = LinenNested(lengths), data()
    variables = model.init(jax.random.key(0), x)
    found = listed(model, x, variables=variables)
    outer = [f"outer.{i}" for i in range(lengths[0])]
    inside = ["outer.inner.dense.linear", "outer.inner.dense", "outer.inner"]
    outside = {"stem": False, **dict.fromkeys(outer, False), "head": False}
    assert {name: looped for name, looped in found.items() if name not in ("outer", *outer, *inside)} == {
        "stem": False,
        "head": False,
    }
    assert all(found[name] for name in inside)
    if lengths == (2, 3):  # of equal lengths, it cannot be told along which a scan cut
        assert found == {**outside, **dict.fromkeys(inside, True)}
        block = lambda x, i: LinenOuter(3).apply(  # noqa: E731
            {"params": jax.tree.map(lambda a: a[i], variables["params"]["outer"])}, x, None
        )[0]
        dense = lambda name, x: nn.Dense(x.shape[-1]).apply({"params": variables["params"][name]}, x)  # noqa: E731
        mix = draw("outer.0")
        hidden = block(mix.blend(block(dense("stem", x), 0)), 1)
        want = hidden @ variables["params"]["head"]["kernel"] + variables["params"]["head"]["bias"][None]
        assert_close(jax_mix.forward(model, x, mix, variables=variables), want, "another order of summation")
    for name in ("outer.inner", "outer.inner.dense", "outer.0.inner", "outer.0.inner.1", "outer.inner.1.dense"):
        with pytest.raises(ValueError, match=r"stack of stacks|is not among the layers that run: did you mean"):
            jax_mix.forward(model, x, draw(name), variables=variables)


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(4, 4, rngs=rngs), nnx.BatchNorm(4, axis_name="devices", rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(self.first(x)))


class LinenNormed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4, name="first")(x)
        x = nn.BatchNorm(use_running_average=not train, axis_name="devices", name="norm")(x)
        return nn.Dense(2, name="head")(x)


@pytest.mark.parametrize("linen", [False, True])
def test_a_batch_norm_over_the_devices_is_bound_without_them_and_mixed_with_them(linen):
    x, mix = data(), draw("first")
    if linen:
        model = LinenNormed()
        call = {"variables": model.init(jax.random.key(0), x, False), "train": True, "mutable": ["batch_stats"]}
    else:
        model, call = Normed(nnx.Rngs(0)), {}
    assert list(listed(model, x, **call)) == ["first", "norm", "head"]
    assert jax_mix.ManifoldMixup(1.0, layers=("first", "head")).bind(model, x, **call).layers == ("first", "head")

    def run(x, mix, axes):
        def one(state, x, mix):
            if linen:
                return jax_mix.forward(model, x, mix, **{**call, "variables": state})[0]
            return jax_mix.forward(nnx.merge(graphdef, state, copy=True), x, mix)

        graphdef, state = (None, call["variables"]) if linen else nnx.split(model)
        return jax.vmap(one, in_axes=(None, 0, axes), axis_name="devices")(state, x, mix)

    np.testing.assert_array_equal(run(x[None], mix, None)[0].shape, (6, 2))
    with pytest.raises(NameError, match="devices"):  # as the model itself
        jax_mix.forward(model, x, mix, **call)


def test_a_module_that_shares_its_scope_is_mixed_at_its_own_end():
    class Wrap(nn.Module):
        def setup(self):
            self.inner = models_linen.Dense()
            nn.share_scope(self, self.inner)

        def __call__(self, x):
            return 3 * self.inner(x)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="head")(Wrap(name="wrap")(x))

    model, x, mix = Model(), data(), draw("wrap")
    variables = model.init(jax.random.key(0), x)
    inner = models_linen.Dense().apply({"params": variables["params"]["wrap"]}, x)
    want = nn.Dense(2).apply({"params": variables["params"]["head"]}, mix.blend(3 * inner))
    assert_close(jax_mix.forward(model, x, mix, variables=variables), want, "same program")
    found = jax_mix.list_layers(model, x, variables=variables)
    assert [(layer.name, layer.type.__name__) for layer in found] == [
        ("wrap.linear", "Dense"),
        ("wrap", "Wrap"),
        ("head", "Dense"),
    ]


def test_a_linen_model_in_to_nnx_is_mixed_at_its_own_layers():
    x, linen = data(shape=(5, 5, 1)), models_linen.ResNet()
    model = nnx.bridge.lazy_init(nnx.bridge.ToNNX(models_linen.ResNet(), rngs=nnx.Rngs(0)), x, False)
    variables = {
        "params": nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        "batch_stats": nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)),
    }
    names = list(listed(model, x, False))
    assert names == list(listed(linen, x, False, variables=variables))
    before = vars(model).keys()
    for layer in ("stem", "block_1.conv"):
        want = jax_mix.forward(linen, x, draw(layer), False, variables=variables)
        np.testing.assert_array_equal(jax_mix.forward(model, x, draw(layer), False), want)
        drawn = draw(jnp.int32(1), layers=("input", layer))
        assert_close(nnx.jit(jax_mix.forward, static_argnums=3)(model, x, drawn, False), want, "same program")
    grads = nnx.grad(lambda model: jax_mix.forward(model, x, draw("stem"), False).sum())(model)
    want = jax.grad(
        lambda p: jax_mix.forward(linen, x, draw("stem"), False, variables={**variables, "params": p}).sum()
    )
    jax.tree.map(
        lambda a, b: assert_close(a, b, "same program"), nnx.to_pure_dict(nnx.state(grads)), want(variables["params"])
    )
    rngs = {"dropout": jax.random.key(1)}
    _, updates = jax_mix.forward(linen, x, draw("stem"), True, variables=variables, mutable=["batch_stats"], rngs=rngs)
    jax_mix.forward(model, x, draw("stem"), True, mutable=["batch_stats"], rngs=nnx.Rngs(dropout=1))
    jax.tree.map(
        lambda a, b: assert_close(a, b, "same program"),
        nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)),
        dict(updates["batch_stats"]),
    )
    assert vars(model).keys() == before
    other = jax_mix.forward(model, x, draw("stem"), False, method="__call__", mixed="x")
    np.testing.assert_array_equal(other, jax_mix.forward(model, x, draw("stem"), False))
    with pytest.raises(ValueError, match="no method 'encode'"):
        jax_mix.forward(model, x, draw("stem"), False, method="encode")
    with pytest.raises(ValueError, match="layer 'stm' is not among the layers that run: did you mean 'stem'"):
        jax_mix.forward(model, x, draw("stm"), False)

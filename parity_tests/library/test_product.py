"""The blend as a matrix product, forced on CPU: the numbers of indexing, in every form; and when it is chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_mix
from jax_mix import _product
from parity_tests.tolerances import assert_close, assert_within_ulp


def formed(form, function):
    """The function, compiled in this form."""

    def call(*args):
        token = _product.FORM.set(form)
        try:
            return jax.jit(lambda *args: function(*args))(*args)  # one that has not been traced in the other
        finally:
            _product.FORM.reset(token)

    return call


product, gather = functools.partial(formed, "product"), functools.partial(formed, "gather")

METHODS = {
    "mixup": jax_mix.MixUp(1.0, fold=False, probability=0.7),
    "mixup in groups": jax_mix.MixUp(1.0, groups=4),
    "cutmix": jax_mix.CutMix(1.0),
    "cutmix in groups": jax_mix.CutMix(1.0, per="sample", groups=4),
    "both": jax_mix.OneOf(jax_mix.MixUp(1.0), jax_mix.CutMix(1.0), per="sample"),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_the_numbers_are_those_of_indexing(method):
    x = jax.random.normal(jax.random.key(0), (16, 8, 6, 3))
    mix = method.sample(jax.random.key(1), x.shape)

    def blends(x):
        return mix.blend(x), mix.blend(x, other=x[::-1]), mix.targets(x[:, 0, 0])

    def slope(x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(mix.blend(x))))(x)

    for got, want in zip(product(blends)(x), gather(blends)(x), strict=True):
        assert_within_ulp(got, want, np.full(got.shape, 4, np.float32))  # the largest numbers are between 4 and 8
        if mix.box is not None and mix.outside is None and got.shape == x.shape:
            np.testing.assert_array_equal(got, want)
    assert_close(product(slope)(x), gather(slope)(x), "another order of summation")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype):
    x = jax.random.normal(jax.random.key(0), (16, 6)).astype(dtype)
    mix = METHODS["mixup in groups"].sample(jax.random.key(1), x.shape)
    got, want = product(mix.blend)(x), gather(mix.blend)(x.astype(np.float32))
    assert got.dtype == x.dtype
    assert_close(got.astype(np.float32), want, f"rounded once to {dtype}")


@pytest.mark.parametrize("lam", [1.0, 0.0, 0.3, 1 - 2.0**-24])
def test_what_is_not_finite_stays_among_those_who_are_mixed(lam):
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    x[1, 0], x[2, 1], x[3, 2], x[5, 3], x[6, 3] = np.inf, -np.inf, np.nan, -np.inf, -np.inf
    mix = jax_mix.Mix(np.full(8, lam, np.float32), np.array([1, 0, 3, 2, 5, 6, 7, 4]), groups=2)
    got, want = product(mix.blend)(x), mix.blend(x)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isnan(got), ~finite)  # nan for infinite too: it is seen behind relu and tanh
    assert not finite.all()
    assert_within_ulp(got[finite], want[finite], np.full(finite.sum(), 2, np.float32))
    if lam in (0, 1):
        np.testing.assert_array_equal(got[finite], want[finite])


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_partners_of_few_bits_in_a_group_of_as_many(dtype):
    n = 2 ** (7 if dtype == "int8" else 8)
    x, partner = np.arange(n, dtype=np.float32)[:, None], np.arange(n)[::-1]
    got = product(jax_mix.Mix(np.zeros(n, np.float32), jnp.asarray(partner.astype(dtype))).blend)(x)
    np.testing.assert_array_equal(got, x[partner])


def test_derivatives_under_every_transformation():
    x = jax.random.normal(jax.random.key(0), (8, 5))
    mix = jax_mix.MixUp(1.0, groups=2).sample(jax.random.key(1), x.shape)

    def blend(lam, x):
        return jnp.sin(jax_mix.Mix(lam, mix.partner, groups=2).blend(x))

    def scanned(lam, x):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(blend)(lam, x), None), x, length=2)[0]

    def everything(lam, x):
        return (
            jax.jacobian(scanned, argnums=(0, 1))(lam, x),
            jax.jvp(blend, (lam, x), (jnp.ones_like(lam), x)),
            jax.vmap(blend, in_axes=(0, None))(jnp.stack([lam, 1 - lam]), x),
            jax.hessian(lambda lam: jnp.sum(blend(lam, x)))(lam),
        )

    for got, want in zip(
        *map(jax.tree.leaves, (product(everything)(mix.lam, x), gather(everything)(mix.lam, x))), strict=True
    ):
        assert_close(got, want, "another order of summation")


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("groups", [1, 8])
def test_a_batch_split_over_devices(groups, axis_type):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis_type,))
    x = np.random.default_rng(0).random((16, 4, 4, 1), np.float32)
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
    mixes = [kind(1.0, groups=groups).sample(jax.random.key(0), x.shape) for kind in (jax_mix.MixUp, jax_mix.CutMix)]
    blends = jax.jit(product(lambda x: [mix.blend(x) for mix in mixes]))
    with jax.set_mesh(mesh):
        compiled = blends.lower(placed).compile()
        for got, mix in zip(blends(placed), mixes, strict=True):
            assert_within_ulp(got, mix.blend(x), np.ones_like(x))
    program = compiled.as_text()
    assert any(name in program for name in ("all-gather", "all-reduce", "collective", "to-all")) == (groups == 1)

    def local(x):
        return product(jax_mix.Mix(mixes[0].lam[:2], np.array([1, 0])).blend)(x)

    specs = PartitionSpec("batch")
    apart = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs))(placed)
    assert apart.shape == x.shape


class Net(nnx.Module):
    def __init__(self):
        self.layer1, self.layer2 = (nnx.Linear(6, 6, rngs=nnx.Rngs(k)) for k in range(2))

    def __call__(self, x):
        return self.layer2(nnx.relu(self.layer1(x)))


@pytest.mark.parametrize(
    "method",
    [jax_mix.ManifoldMixup(1.0, layers=("layer1",)), jax_mix.CutMix(1.0, spatial_axes=(1,), layers=("layer1",))],
)
def test_a_layer_that_is_drawn_has_no_branch(method):
    model, x = Net(), jax.random.normal(jax.random.key(0), (8, 6, 6))

    def loss(x, key):
        return jnp.sum(jnp.sin(jax_mix.forward(model, x, method.sample(key, x.shape))))

    step = jax.value_and_grad(loss)
    assert "cond[" in str(jax.make_jaxpr(step)(x, jax.random.key(0)))
    assert "cond[" not in str(jax.make_jaxpr(product(step))(x, jax.random.key(0)))
    for seed in range(4):
        for got, want in zip(*(form(step)(x, jax.random.key(seed)) for form in (product, gather)), strict=True):
            assert_close(got, want, "another order of summation")


@pytest.fixture
def compiler(monkeypatch):
    """As if a TPU's compiler were installed."""
    monkeypatch.setattr(_product, "_compiler_there", lambda: True)


def lowered(function, x, platform):
    return jax.jit(function).trace(x).lower(lowering_platforms=(platform,)).as_text()


def test_in_programs_for_a_tpu_and_in_no_other(compiler):
    x = jax.random.normal(jax.random.key(0), (8, 6, 6))
    method, model = jax_mix.ManifoldMixup(1.0, layers=("layer1",)), Net()

    def slope(x):
        return jax.grad(lambda x: jnp.sum(jax_mix.forward(model, x, method.sample(jax.random.key(0), x.shape))))(x)

    def blend(x):
        return jax_mix.MixUp().sample(jax.random.key(0), x.shape).blend(x)

    plain = gather(slope)
    assert "dot_general" in lowered(blend, x, "tpu")
    for platform in ("cpu", "cuda"):
        assert "dot_general" not in lowered(blend, x, platform)
    assert lowered(slope, x, "cpu").count("dot_general") == lowered(plain, x, "cpu").count("dot_general")
    np.testing.assert_array_equal(jax.jit(slope)(x), jax.jit(plain)(x))


def test_not_where_it_would_not_win_or_not_be_right(compiler):
    def has(n, dtype="float32", groups=1):
        mix = jax_mix.MixUp(groups=groups).sample(jax.random.key(0), (n,))
        return "dot_general" in lowered(lambda x: mix.blend(x), jnp.ones((n, 4), dtype), "tpu")

    assert all([has(128), has(256, groups=2), has(8, "bfloat16")])
    assert not any([has(256), has(8, "complex64")])
    with jax.enable_x64(True):
        assert not has(8, "float64")
    pasted = jax_mix.CutMix(1.0).sample(jax.random.key(0), (8, 4, 4))
    assert "dot_general" not in lowered(lambda x: pasted.blend(x), jnp.ones((8, 4, 4), "uint8"), "tpu")


def test_without_a_tpus_compiler_nothing_more_is_traced(monkeypatch):
    x, mix = jnp.ones((8, 4)), jax_mix.MixUp().sample(jax.random.key(0), (8,))
    monkeypatch.setattr(_product, "_compiler_there", lambda: False)
    assert "platform_index" not in str(jax.make_jaxpr(lambda x: mix.blend(x))(x))
    monkeypatch.setattr(_product, "_compiler_there", lambda: True)
    assert "platform_index" in str(jax.make_jaxpr(lambda x: mix.blend(x))(x))

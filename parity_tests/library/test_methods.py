"""What MixUp, ManifoldMixup and CutMix draw, and the conventions of their draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mix
from parity_tests.tolerances import assert_within_ulp

SHAPE = (16, 8, 6, 3)
METHODS = {
    "mixup": jax_mix.MixUp(1.0),
    "manifold": jax_mix.ManifoldMixup(1.0, layers=("a", "b")),
    "cutmix": jax_mix.CutMix(1.0),
    "mixup, paper": jax_mix.MixUp(1.0, per="batch", fold=False),
    "manifold, paper": jax_mix.ManifoldMixup(1.0, layers=("a", "b"), per="batch", fold=False),
    "cutmix, paper": jax_mix.CutMix(1.0, box="paper", probability=0.5),
    "cutmix, per sample": jax_mix.CutMix(1.0, per="sample"),
}


@pytest.mark.parametrize("name", METHODS)
def test_shapes_and_dtypes_of_a_draw(name):
    mix = METHODS[name].sample(jax.random.key(0), SHAPE)
    assert (mix.lam.shape, mix.lam.dtype) == ((16,), jnp.float32)
    assert (mix.partner.shape, mix.partner.dtype) == ((16,), jnp.int32)
    if "cutmix" in name:
        assert mix.box.shape == ((16, 4) if "sample" in name else (4,))
        assert mix.box.dtype == jnp.int32
        assert mix.image_size == (8, 6)
    else:
        assert mix.box is None
    if "manifold" in name:
        assert (mix.layer.shape, mix.layer.dtype, mix.layers) == ((), jnp.int32, ("input", "a", "b"))
        assert mix.layer_name in mix.layers
    else:
        assert mix.layer_name == "input"


@pytest.mark.parametrize("name", METHODS)
def test_the_same_draw_in_and_out_of_jit_and_under_vmap(name):
    method, key = METHODS[name], jax.random.key(3)
    eager = method.sample(key, SHAPE)
    jitted = jax.jit(lambda key: method.sample(key, SHAPE))(key)
    batched = jax.vmap(lambda key: method.sample(key, SHAPE))(key[None])
    assert jax.tree.structure(eager) == jax.tree.structure(jitted) == jax.tree.structure(batched)
    for a, b, c in zip(*map(jax.tree.leaves, (eager, jitted, batched)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
        np.testing.assert_allclose(a, c[0], rtol=1e-6)


def test_defaults_are_fastais():
    lam = jax.jit(lambda key: jax_mix.MixUp().sample(key, (1000,)).lam)(jax.random.key(0))
    assert jax_mix.MixUp().alpha == jax_mix.ManifoldMixup().alpha == 0.4
    assert jax_mix.CutMix().alpha == 1.0
    assert lam.min() >= 0.5  # folded
    assert len(np.unique(lam)) > 900  # one a sample
    cut = jax.jit(lambda key: jax_mix.CutMix().sample(key, (1000, 32, 32, 1)))(jax.random.key(4))
    assert cut.box.shape == (4,)  # one a batch
    keys = jax.random.split(jax.random.key(0), 200)
    unfolded = jax.jit(jax.vmap(lambda key: jax_mix.CutMix().sample(key, (1, 32, 32, 1))))(keys)
    assert unfolded.lam.min() < 0.4


def test_one_lambda_a_batch_unfolded():
    keys = jax.random.split(jax.random.key(0), 200)
    lam = jax.vmap(lambda key: METHODS["mixup, paper"].sample(key, (8,)))(keys).lam
    assert (lam == lam[:, :1]).all()
    assert lam.min() < 0.1


def test_folded_lambdas_are_the_larger_of_both():
    """Of one lambda a batch as of one a sample, and of the same draw; CutMix's before the box is made."""

    @jax.jit
    @jax.vmap
    def draw(key):
        mixup, cutmix = (
            {(per, fold): method(1.0, per=per, fold=fold) for per in ("batch", "sample") for fold in (True, False)}
            for method in (jax_mix.MixUp, jax_mix.CutMix)
        )
        return (
            {name: each.sample(key, (6,)).lam for name, each in mixup.items()},
            {name: each.sample(key, (2, 64, 64, 1)).lam for name, each in cutmix.items()},
        )

    mixup, cutmix = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(0), 200)))
    for per in ("batch", "sample"):
        folded, plain = mixup[per, True], mixup[per, False]
        np.testing.assert_array_equal(folded, np.maximum(plain, 1 - plain))
        assert 70 < (plain[:, 0] < 0.5).sum() < 130
        assert (np.ptp(folded, axis=1) == 0).all() == (per == "batch")
        assert cutmix[per, True].min() > 1 - (46 / 64) ** 2  # no box is more than half of it, but for rounding
        assert cutmix[per, False].min() < 0.4


def test_alpha_may_be_a_schedule():
    def mean_lam(alpha):
        return jax_mix.MixUp(alpha).sample(jax.random.key(0), (10_000,)).lam.mean()

    means = jax.jit(jax.vmap(mean_lam))(jnp.array([0.1, 1.0, 10.0]))
    assert means[0] > means[1] > means[2]
    np.testing.assert_allclose(means[1], 0.75, atol=0.01)


def test_methods_are_frozen_equal_by_value_and_static_arguments():
    assert jax_mix.MixUp(0.4) == jax_mix.MixUp(0.4) != jax_mix.MixUp(0.5)
    assert hash(jax_mix.CutMix(1.0)) == hash(jax_mix.CutMix(1.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        jax_mix.MixUp(0.4).alpha = 1.0
    sample = jax.jit(lambda method, key: method.sample(key, (4,)), static_argnums=0)
    assert sample(jax_mix.ManifoldMixup(1.0, layers=["a"]), jax.random.key(0)).layers == ("input", "a")


def test_a_static_layer_stays_static_through_jit():
    method = jax_mix.ManifoldMixup(1.0, layers=("a", "b"))
    mix = jax.jit(lambda key: method.sample(key, (4,), layer="b"))(jax.random.key(0))
    assert mix.layer == "b"
    drawn = method.sample(jax.random.key(0), (4,))
    np.testing.assert_array_equal(mix.lam, drawn.lam)  # fixing the layer changes nothing else
    np.testing.assert_array_equal(mix.partner, drawn.partner)


@pytest.mark.parametrize("name", METHODS)
def test_a_draw_is_data(name):
    """It can be stacked, saved, scanned over and rebuilt."""
    mixes = [METHODS[name].sample(jax.random.key(i), SHAPE) for i in range(3)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *mixes)
    _, lams = jax.lax.scan(lambda carry, mix: (carry, mix.lam), None, stacked)
    np.testing.assert_array_equal(lams[1], mixes[1].lam)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(mixes[0])]
    assert paths[:2] == [".lam", ".partner"]


def test_methods_with_numbers_that_are_arrays_are_hashable():
    method = jax_mix.MixUp(jnp.float32(0.5), probability=np.float64(0.25))
    assert hash(method) == hash(jax_mix.MixUp(0.5, probability=0.25))
    sample = jax.jit(lambda key, method: method.sample(key, (4,)), static_argnums=1)
    assert sample(jax.random.key(0), method).lam.shape == (4,)


@pytest.mark.parametrize("name", METHODS)
def test_x64_changes_no_draw(name):
    """What is drawn stays float32; CutMix's lambda is computed from the box, to as many digits as there are."""
    small = METHODS[name].sample(jax.random.key(0), SHAPE)
    with jax.enable_x64(True):
        large = METHODS[name].sample(jax.random.key(0), SHAPE)
    assert large.lam.dtype == (jnp.float64 if "cutmix" in name else jnp.float32)
    assert large.partner.dtype == jnp.int32
    assert_within_ulp(np.asarray(large.lam, np.float32), small.lam, np.ones(16))
    jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(large, lam=small.lam), small)


@pytest.mark.parametrize("size", [(2, 3), (17, 33), (224, 224)])
def test_with_x64_cutmixs_lambda_is_pythons(size):
    height, width = size
    with jax.enable_x64(True):
        mix = jax.jit(lambda key: jax_mix.CutMix(0.5, per="sample").sample(key, (64, *size, 1)))(jax.random.key(0))
        replayed = jax_mix.Mix.from_box(mix.partner, mix.box, size).lam
    assert replayed.dtype == mix.lam.dtype == jnp.float64
    assert len(set(mix.lam.tolist())) > 3
    want = [1 - (y2 - y1) * (x2 - x1) / (height * width) for y1, x1, y2, x2 in mix.box.tolist()]
    assert mix.lam.tolist() == replayed.tolist() == want


@pytest.mark.parametrize("name", METHODS)
def test_no_key_is_used_twice(name):
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: METHODS[name].sample(key, SHAPE))(jax.random.key(0))

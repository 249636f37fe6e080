"""Applying a draw: to arrays, targets and losses; the one-line forms; sharding; and both losses agree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_mix
from parity_tests.tolerances import assert_close, assert_within_ulp

XENT = optax.softmax_cross_entropy_with_integer_labels


def random_mix(seed, n, **kwargs):
    rng = np.random.default_rng(seed)
    return jax_mix.Mix(rng.random(n, np.float32), rng.permutation(n).astype(np.int32), **kwargs)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9),
    rest=st.lists(st.integers(1, 5), max_size=4),
    dtype=st.sampled_from([np.float32, np.float16, jnp.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_blend_is_the_formula(n, rest, dtype, seed):
    x = np.random.default_rng(seed).standard_normal((n, *rest)).astype(dtype)
    mix = random_mix(seed, n)
    got = jax.jit(lambda mix, x: mix.blend(x))(mix, x)  # one program is compiled sooner than a dozen operations
    assert got.dtype == x.dtype
    wide, partners = x.astype(np.float64), x[mix.partner].astype(np.float64)
    lam = mix.lam.astype(np.float64).reshape(n, *[1] * len(rest))
    scale = np.maximum(np.abs(wide), np.abs(partners))
    want = lam * wide + (1 - lam) * partners
    if dtype is np.float32:
        assert_within_ulp(got, want.astype(np.float32), scale)
    else:
        assert_close(np.asarray(got, np.float64), want, f"rounded once to {np.dtype(dtype).name}")


def test_blend_is_exact_at_the_ends_and_between_equals():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5)), jnp.float32)
    partner = jnp.array([1, 0, 3, 2])
    np.testing.assert_array_equal(jax_mix.Mix(jnp.ones(4), partner).blend(x), x)
    np.testing.assert_array_equal(jax_mix.Mix(jnp.zeros(4), partner).blend(x), x[partner])
    same = jnp.ones_like(x) * jnp.float32(0.1)
    np.testing.assert_array_equal(random_mix(1, 4).blend(same), same)


def test_bfloat16_is_blended_in_float32():
    """2^-9 of a partner at 256 is lost if lam itself is rounded to bfloat16's 8 bits."""
    x = jnp.array([[0.0], [256.0]], jnp.bfloat16)
    lam = jnp.float32(1 - 2**-10)
    assert jax_mix.Mix(lam, jnp.array([1, 0])).blend(x)[0, 0] == 0.25


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 5),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    layout=st.sampled_from(["BHW", "BHWC", "BCHW", "BTHWC"]),
    per=st.sampled_from(["batch", "sample"]),
    seed=st.integers(0, 2**16),
)
def test_paste_is_a_copy_of_pixels_and_lam_the_area_left(n, size, layout, per, seed):
    shape = [{"B": n, "H": size[0], "W": size[1], "C": 3, "T": 2}[axis] for axis in layout]
    axes = layout.index("H"), layout.index("W")
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    method = jax_mix.CutMix(1.0, per=per, spatial_axes=axes)

    def draw_and_blend(key, x):
        mix = method.sample(key, shape)
        return mix, mix.blend(x)

    mix, got = jax.device_get(jax.jit(draw_and_blend)(jax.random.key(seed), x))
    got = np.moveaxis(got, axes, (1, 2))
    own = np.moveaxis(x, axes, (1, 2))
    for i in range(n):
        y1, x1, y2, x2 = mix.box if per == "batch" else mix.box[i]
        want = own[i].copy()
        want[y1:y2, x1:x2] = own[mix.partner[i], y1:y2, x1:x2]
        np.testing.assert_array_equal(got[i], want)
        assert mix.lam[i] == np.float32(1) - np.float32((y2 - y1) * (x2 - x1)) / np.float32(size[0] * size[1])


def test_rows_may_come_after_columns():
    x = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)  # [batch, width, height]
    mix = jax_mix.Mix.from_box(np.array([1, 0]), np.array([0, 1, 2, 4]), (3, 4), spatial_axes=(2, 1))
    want = x.copy()
    want[:, 1:4, 0:2] = x[::-1, 1:4, 0:2]
    np.testing.assert_array_equal(mix.blend(x), want)


def test_the_callers_batch_is_not_written_to():
    x = np.zeros((2, 4, 4, 1), np.float32) + np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1)
    before = x.copy()
    jax_mix.Mix.from_box(np.array([1, 0]), np.array([0, 0, 2, 2]), (4, 4)).blend(x)
    np.testing.assert_array_equal(x, before)


def test_trees_of_arrays():
    mix = random_mix(0, 3)
    x = {"a": np.ones((3, 2), np.float32), "b": (np.arange(3, dtype=np.float32), None)}
    mixed = mix.blend(x)
    assert jax.tree.structure(mixed) == jax.tree.structure(x)
    np.testing.assert_array_equal(mixed["b"][0], mix.blend(x["b"][0]))


def soft(logits, target):
    return optax.softmax_cross_entropy(logits, target)


def smoothed(logits, target):
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(target, 0.1))


@pytest.mark.parametrize("loss", [soft, smoothed])
@pytest.mark.parametrize("method", [jax_mix.MixUp(1.0, fold=False), jax_mix.CutMix(1.0, per="sample")])
def test_soft_targets_and_two_losses_agree(loss, method):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((64, 10)).astype(np.float32) * 5
    one_hot = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 64)]
    mix = method.sample(jax.random.key(0), (64, 8, 8, 1))
    assert (mix.lam < 1).any()
    assert_close(jax_mix.mixed_loss(loss, logits, one_hot, mix), loss(logits, mix.targets(one_hot)), "loss float32")


def test_class_numbers_and_one_hot_agree():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((64, 10)).astype(np.float32), rng.integers(0, 10, 64).astype(np.int32)
    mix = random_mix(0, 64)
    one_hot = jax.nn.one_hot(labels, 10)
    assert_close(
        jax_mix.mixed_loss(XENT, logits, labels, mix), jax_mix.mixed_loss(soft, logits, one_hot, mix), "loss float32"
    )


def test_losses_a_token_and_labels_in_a_tree():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((4, 7, 5)).astype(np.float32), rng.integers(0, 5, (4, 7))
    mix = random_mix(0, 4)
    got = jax_mix.mixed_loss(lambda logits, y: XENT(logits, y["token"]), logits, {"token": labels}, mix)
    own, other = np.asarray(XENT(logits, labels)), np.asarray(XENT(logits, labels[mix.partner]))
    lam = mix.lam[:, None]
    assert_close(got, lam * own + (1 - lam) * other, "loss float32")
    assert_close(jax_mix.mixed_loss(XENT, logits, labels, None), own, "loss float32")


@pytest.mark.parametrize("form", [jax_mix.mixup, jax_mix.cutmix])
def test_one_line_forms_are_draw_blend_targets(form):
    method = {jax_mix.mixup: jax_mix.MixUp, jax_mix.cutmix: jax_mix.CutMix}[form]
    x = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    y = np.eye(6, dtype=np.float32)
    for options in ({}, {"per": "batch", "fold": False, "partner": "roll"}):
        mix = method(0.7, **options).sample(jax.random.key(5), x.shape)
        got_x, got_y = form(jax.random.key(5), x, y, alpha=0.7, **options)
        assert_within_ulp(got_x, mix.blend(x), np.ones_like(x))
        assert_within_ulp(got_y, mix.targets(y), np.ones_like(y))


def test_gradient_of_a_blend_goes_to_both_samples():
    mix = random_mix(0, 4)
    jacobian = jax.jacobian(lambda x: mix.blend(x))(jnp.ones(4))
    want = np.diag(mix.lam) + (1 - mix.lam)[:, None] * np.eye(4)[mix.partner]
    np.testing.assert_allclose(jacobian, want, rtol=1e-6)


COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("kind", [jax_mix.MixUp, jax_mix.CutMix])
def test_a_batch_split_over_devices(kind, groups, axis_type):
    method = kind(1.0, groups=groups)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis_type,))
    x = np.random.default_rng(0).random((16, 8, 8, 1), np.float32)
    y = np.arange(16, dtype=np.int32)
    mix = method.sample(jax.random.key(0), x.shape)
    want, partners, losses = mix.blend(x), mix.take_partners(y), mix.losses(x[:, 0, 0, 0], x[:, 1, 1, 0])
    np.testing.assert_array_equal(partners, y[mix.partner])
    mixed = jax_mix.mixed_loss(optax.squared_error, x[..., 0], x[..., 0] + 1, mix, dense=False)
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, PartitionSpec("batch"))
        placed, labels = jax.device_put(x, sharding), jax.device_put(y, sharding)
        apply = jax.jit(
            lambda mix, x, y: (
                mix.blend(x),
                mix.take_partners(y),
                mix.losses(x[:, 0, 0, 0], x[:, 1, 1, 0]),
                jax_mix.mixed_loss(optax.squared_error, x[..., 0], x[..., 0] + 1, mix, dense=False),
            )
        )
        got, got_partners, got_losses, got_mixed = apply(mix, placed, labels)
        compiled = apply.lower(mix, placed, labels).compile().as_text()
    assert any(name in compiled for name in COLLECTIVES) == (groups < 8)
    assert_within_ulp(got_losses, losses, np.ones_like(losses))
    assert_close(got_mixed, mixed, "loss float32")
    assert_within_ulp(got, want, np.ones_like(x))
    np.testing.assert_array_equal(got_partners, partners)
    assert got.sharding.is_equivalent_to(sharding, got.ndim)


@pytest.mark.parametrize("kind", [jax_mix.MixUp, jax_mix.CutMix])
@pytest.mark.parametrize("types", [(AxisType.Explicit, AxisType.Auto), (AxisType.Explicit, AxisType.Explicit)])
def test_inside_jit_a_mesh_need_not_be_set(kind, types):
    mesh = jax.make_mesh((4, 2), ("batch", "model"), axis_types=types)
    x = np.random.default_rng(0).random((16, 8, 8, 1), np.float32)
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
    for groups in (1, 4):
        mix = kind(1.0, groups=groups).sample(jax.random.key(0), x.shape)
        got, losses = jax.jit(lambda mix, x: (mix.blend(x), mix.losses(x[:, 0, 0, 0], x[:, 1, 1, 0])))(mix, placed)
        assert_within_ulp(got, mix.blend(x), np.ones_like(x))
        assert_within_ulp(losses, mix.losses(x[:, 0, 0, 0], x[:, 1, 1, 0]), np.ones(16, np.float32))


def test_float64_stays_float64():
    with jax.enable_x64(True):
        x, mix = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3))), random_mix(0, 4)
        lam = mix.lam.astype(np.float64)[:, None]
        got = mix.blend(x)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, lam * x + (1 - lam) * x[mix.partner], rtol=0, atol=1e-15)

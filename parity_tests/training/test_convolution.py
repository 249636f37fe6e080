"""The filter gradient by matrix products against XLA's own: values, and where which of them runs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_mix.training.models import convolution
from jax_mix.training.models.convolution import conv_general_dilated
from parity_tests.tolerances import assert_close

pytestmark = pytest.mark.as_users_run

NHWC = ("NHWC", "HWIO", "NHWC")
# kernel, strides, padding, groups, images, height and width
CASES = {
    "3x3": ((3, 3), (1, 1), ((1, 1), (1, 1)), 1, 5, (8, 7)),
    "3x3 stride 2": ((3, 3), (2, 2), ((1, 1), (1, 1)), 1, 4, (9, 8)),
    "1x1": ((1, 1), (1, 1), ((0, 0), (0, 0)), 1, 3, (5, 4)),
    "1x1 stride 2": ((1, 1), (2, 2), ((0, 0), (0, 0)), 1, 4, (9, 8)),
    "7x7 stride 2, SAME": ((7, 7), (2, 2), "SAME", 1, 2, (11, 9)),
    "2x5 stride 3 and 1, VALID, 2 groups": ((2, 5), (3, 1), "VALID", 2, 3, (8, 9)),
    "a channel a group": ((3, 3), (2, 1), ((1, 1), (1, 1)), 4, 3, (6, 5)),
    "one pixel": ((3, 3), (1, 1), ((1, 1), (1, 1)), 1, 3, (1, 1)),
    "strides longer than the kernel": ((1, 2), (4, 3), ((0, 2), (3, 0)), 1, 3, (6, 7)),
    "padding only": ((3, 3), (1, 1), ((3, 0), (0, 4)), 1, 2, (2, 2)),
    "several parts": ((3, 3), (1, 1), ((1, 1), (1, 1)), 1, 48, (33, 32)),
    "cropping": ((3, 3), (1, 1), ((-1, 0), (1, -2)), 1, 2, (7, 8)),
}


def arrays(case, dtype=np.float32):
    kernel, strides, padding, groups, n, size = CASES[case]
    rng = np.random.default_rng(0)
    x, k = rng.normal(size=(n, *size, 4)), rng.normal(size=(*kernel, 4 // groups, 8))
    static = {"window_strides": strides, "padding": padding, "feature_group_count": groups, "dimension_numbers": NHWC}
    return jnp.asarray(x, dtype), jnp.asarray(k, dtype), static


def gradients(conv, x, k, static):
    y, vjp = jax.vjp(lambda x, k: conv(x, k, **static), x, k)
    g = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
    return y, *jax.jit(vjp)(g)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_xlas(case, dtype):
    with jax.enable_x64(dtype == np.float64):
        x, k, static = arrays(case, dtype)
        ours, xlas = (gradients(conv, x, k, static) for conv in (conv_general_dilated, lax.conv_general_dilated))
        assert [a.dtype for a in ours] == [dtype] * 3
        np.testing.assert_array_equal(ours[0], xlas[0])
        np.testing.assert_array_equal(ours[1], xlas[1])
        tolerance = f"filter gradient {np.dtype(dtype).name}"
        scale = np.max(np.abs(np.asarray(xlas[2], np.float64)))
        assert_close(np.asarray(ours[2], np.float64) / scale, np.asarray(xlas[2], np.float64) / scale, tolerance)


def test_what_is_not_handled_is_xlas():
    x, k, static = arrays("3x3")
    for other in ({"rhs_dilation": (2, 2)}, {"lhs_dilation": (2, 1)}, {"preferred_element_type": np.float32}):
        jaxpr = str(jax.make_jaxpr(functools.partial(conv_general_dilated, **static, **other))(x, k))
        assert "custom_vjp" not in jaxpr
    assert "custom_vjp" in str(jax.make_jaxpr(functools.partial(conv_general_dilated, **static))(x, k))
    nchw = {**static, "dimension_numbers": ("NCHW", "HWIO", "NHWC")}
    y = conv_general_dilated(jnp.moveaxis(x, -1, 1), k, **nchw)
    np.testing.assert_allclose(y, lax.conv_general_dilated(x, k, **static), rtol=1e-5, atol=1e-5)


def test_vmap_and_second_derivatives():
    x, k, static = arrays("3x3 stride 2")

    def curvature(conv, k):
        inner = jax.grad(lambda k: jnp.sum(jnp.sin(conv(x, k, **static))))
        return jax.grad(lambda k: jnp.sum(inner(k) ** 2))(k)

    kernels = jnp.stack([k, 2 * k, -k])
    ours, xlas = (
        jax.vmap(functools.partial(curvature, conv))(kernels)
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    np.testing.assert_allclose(ours, xlas, rtol=1e-3, atol=1e-3 * np.max(np.abs(xlas)))


def filter_gradient_text(platform):
    x, k, static = arrays("3x3")
    gradient = jax.jit(jax.grad(lambda k: jnp.sum(conv_general_dilated(x, k, **static) ** 2)))
    return gradient.trace(k).lower(lowering_platforms=(platform,)).as_text()


def test_only_cpus_do_it_by_matrix_products():
    assert "dot_general" in filter_gradient_text("cpu")
    for platform in ("cuda", "tpu"):
        text = filter_gradient_text(platform)
        assert "dot_general" not in text
        assert text.count("stablehlo.convolution") >= 2


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_batch_that_is_split_over_devices_stays_split(axis_type, monkeypatch):
    monkeypatch.setattr(convolution, "_PART", 1000)  # several parts
    mesh = jax.make_mesh((8,), ("batch",), (axis_type,))
    conv = nnx.Conv(4, 8, (3, 3), conv_general_dilated=conv_general_dilated, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype(np.float32)
    gradient = nnx.jit(nnx.grad(lambda conv, x: jnp.mean(conv(x) ** 2)))
    expected = gradient(conv, jnp.asarray(x))
    with jax.set_mesh(mesh):
        graphdef, state = nnx.split(conv)
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
        step = jax.jit(lambda state, x: nnx.grad(lambda conv, x: jnp.mean(conv(x) ** 2))(nnx.merge(graphdef, state), x))
        text = step.lower(state, split).compile().as_text()
        grads = step(state, split)
    assert set(re.findall(r"\b(all-gather|all-to-all|collective-permute|all-reduce)\(", text)) == {"all-reduce"}
    np.testing.assert_allclose(grads["kernel"][...], expected["kernel"][...], rtol=1e-4, atol=1e-6)

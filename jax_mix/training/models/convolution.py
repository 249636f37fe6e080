"""A convolution whose filter gradient is not slow on CPU; elsewhere it is XLA's own.

    conv = nnx.Conv(16, 32, (3, 3), conv_general_dilated=conv_general_dilated, rngs=rngs)

What is given up, everywhere: forward-mode derivatives (`jax.jvp`), which a function with a gradient of its own has not.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

if TYPE_CHECKING:
    from jaxtyping import Array, Float

_NHWC = ("NHWC", "HWIO", "NHWC")
_PART = 2**18  # numbers on each side of a matrix product: about what a cache holds


def conv_general_dilated(lhs: Any, rhs: Any, window_strides: Any, padding: Any, **others: Any) -> Any:
    """`jax.lax.conv_general_dilated`, with its arguments and its values; only the way of differentiating differs.

    And that only for convolutions of NHWC images without dilation, as `nnx.Conv` asks for them; the rest is XLA's.

    >>> image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    >>> conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")).shape
    (2, 8, 8, 4)
    """
    if not _handled(lhs, rhs, others):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **others)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    static = tuple(window_strides), tuple(map(tuple, padding)), others.get("feature_group_count", 1)
    return _conv(lhs, rhs, *static, others.get("precision"))


def _handled(lhs: Any, rhs: Any, others: dict[str, Any]) -> bool:
    if lhs.ndim != 4 or others.get("dimension_numbers") is None:
        return False
    numbers, nhwc = (lax.conv_dimension_numbers(lhs.shape, rhs.shape, n) for n in (others["dimension_numbers"], _NHWC))
    dilations = [*(others.get("lhs_dilation") or ()), *(others.get("rhs_dilation") or ())]
    # Under explicit axes every matrix product would have to say how it is split.
    explicit = AxisType.Explicit in jax.typeof(lhs).sharding.mesh.axis_types
    rare = (others.get(name) for name in ("preferred_element_type", "out_sharding"))
    return (
        numbers == nhwc
        and all(dilation == 1 for dilation in dilations)
        and others.get("batch_group_count", 1) == 1
        and all(other is None for other in rare)
        and not explicit
    )


def _xla(x: Any, kernel: Any, strides: Any, pads: Any, groups: int, precision: Any) -> Any:
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=_NHWC, feature_group_count=groups, precision=precision
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _conv(x: Any, kernel: Any, strides: Any, pads: Any, groups: int, precision: Any) -> Any:
    return _xla(x, kernel, strides, pads, groups, precision)


def _forward(x: Any, kernel: Any, *static: Any) -> tuple[Any, tuple[Any, Any]]:
    return _xla(x, kernel, *static), (x, kernel)


def _backward(strides: Any, pads: Any, groups: int, precision: Any, saved: tuple[Any, Any], g: Any) -> tuple[Any, Any]:
    x, kernel = saved
    static = strides, pads, groups, precision
    _, input_gradient = jax.vjp(lambda x: _xla(x, kernel, *static), x)

    def by_xla(x: Any, g: Any) -> Any:
        _, filter_gradient = jax.vjp(lambda kernel: _xla(x, kernel, *static), kernel)
        return filter_gradient(g)[0]

    by_matmul = functools.partial(_filter_gradient, shape=kernel.shape, static=static)
    return input_gradient(g)[0], lax.platform_dependent(x, g, cpu=by_matmul, default=by_xla)


_conv.defvjp(_forward, _backward)


def _filter_gradient(
    x: Float[Array, "batch height width in"], g: Float[Array, "batch rows columns out"], shape: Any, static: Any
) -> Float[Array, "kernel_height kernel_width in_of_group out"]:
    """The gradient of the kernel by matrix products, a part of the batch after the other.

    The kernel at (i, j) gets, summed over all positions, the input shifted by i rows and j columns times the cotangent.
    Shifting the input by each j and the cotangent back by each i, all beside each other as channels, gives it for all
    i and j in one product, with kernel_width + kernel_height copies instead of kernel_width * kernel_height.
    """
    n = x.shape[0]
    numbers = x[0].size * shape[1] + g[0].size * shape[0]
    wanted = min(n * numbers // (2 * _PART), n // 8)  # of 8 images or more, so that 8 devices still share each part
    parts = next(parts for parts in range(max(1, wanted), 0, -1) if n % parts == 0)
    one = functools.partial(_filter_gradient_of_part, shape=shape, static=static)
    if parts == 1:
        return one(x, g).astype(x.dtype)
    # Every so manieth image, so that a batch that is split over devices stays split.
    split = [jnp.moveaxis(a.reshape(n // parts, parts, *a.shape[1:]), 1, 0) for a in (x, g)]
    zeros = jnp.zeros(shape, _sum_dtype(x))
    total, _ = lax.scan(lambda total, part: (total + one(*part), None), zeros, tuple(split))
    return total.astype(x.dtype)


def _filter_gradient_of_part(x: Any, g: Any, shape: Any, static: Any) -> Any:
    (row_stride, column_stride), (row_pads, column_pads), groups, precision = static
    kernel_height, kernel_width, in_of_group, out = shape
    height, columns = x.shape[1], g.shape[2]
    dtype = _sum_dtype(x)

    last = (columns - 1) * column_stride + 1
    padded = _pad(x, 2, *column_pads)
    x = _beside([padded[:, :, j : j + last : column_stride] for j in range(kernel_width)], groups)

    by_row = [jnp.zeros((kernel_width, in_of_group, out), dtype)] * kernel_height
    for phase in range(min(row_stride, height)):  # the rows of the input that the same rows of the kernel meet
        of_phase = [i for i in range(kernel_height) if (i - row_pads[0]) % row_stride == phase]
        if not of_phase:
            continue
        x_phase = x[:, phase::row_stride]
        g_phase = _beside([_shift_rows(g, (i - row_pads[0]) // row_stride, x_phase.shape[1]) for i in of_phase], groups)
        product = jnp.stack([_product(x_phase[..., k, :], g_phase[..., k, :], precision) for k in range(groups)])
        product = product.reshape(groups, kernel_width, in_of_group, len(of_phase), out // groups)
        for i, gradient in zip(of_phase, jnp.moveaxis(product, (3, 0), (0, 3)), strict=True):
            by_row[i] = gradient.reshape(kernel_width, in_of_group, out)
    return jnp.stack(by_row)


def _product(x: Any, g: Any, precision: Any) -> Any:
    """`[..., a]` and `[..., b]` to `[a, b]`, summed over all the rest."""
    x, g = (a.reshape(-1, a.shape[-1]) for a in (x, g))
    # XLA would copy one side for an einsum over a group as well, as for one over more axes.
    over_rows = (((0,), (0,)), ((), ()))
    return lax.dot_general(x, g, over_rows, precision=precision, preferred_element_type=_sum_dtype(x))


def _sum_dtype(x: Any) -> Any:
    return jnp.float32 if x.dtype.itemsize < 4 else x.dtype


def _beside(arrays: list[Any], groups: int) -> Any:
    """`[n, rows, columns, channels]` each to `[n, rows, columns, groups, len(arrays) * channels / groups]`."""
    return jnp.concatenate([a.reshape(*a.shape[:3], groups, -1) for a in arrays], axis=-1)


def _shift_rows(g: Any, by: int, height: int) -> Any:
    """`g` moved down by `by` rows, in as many rows as the input has; those beyond are in its padding, and 0."""
    return _pad(g, 1, by, height - by - g.shape[1])


def _pad(a: Any, axis: int, low: int, high: int) -> Any:
    """With zeros; less than none of them crops."""
    config = [(0, 0, 0)] * a.ndim
    config[axis] = (low, high, 0)
    return lax.pad(a, jnp.zeros((), a.dtype), config)

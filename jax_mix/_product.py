"""The blend as a matrix product, in programs for a TPU.

Within a group of n samples `lam * x + (1 - lam) * x[partner]` is W @ x, with W = diag(lam) + diag(1 - lam) P, an n x n
matrix. On a TPU, indexing moves a hidden state several times, from layout to layout, forward and backward, and a branch
around it keeps XLA from joining the blend with what is before and after. The product reads and writes the hidden state
once each way, in any layout; and where nothing is drawn W = 1, which costs less than the branch. Elsewhere indexing
stays: there it is as fast as copying.

In a product 0 * inf and 0 * nan would reach the whole group. So numbers that are not finite are cut to the largest
power of two, whose product with 0 is 0, and W is taken 2**26 times as large, so that with any other weight it
overflows, in the mixtures that it is a part of and in no others. What overflowed is made nan: an infinite number that
stands for nan could be lost in what follows, as in relu or tanh.
"""

from __future__ import annotations

import contextvars
import functools
import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jax_mix._lerp import per_sample
from jax_mix._sharding import explicit_sharding, of_mesh, stays_in_groups

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

# A number takes 2 n operations forward and as many backward. 128 is the side of a TPU's matrix unit, which needs as
# long for less; up to there the product takes no longer than reading and writing the numbers.
LARGEST_GROUP = 128

# "product" or "gather": in every program that is traced; None: the product in those for a TPU, of groups that fit.
_GIVEN = os.environ.get("JAX_MIX_BLEND")
if _GIVEN not in (None, "product", "gather"):
    raise ValueError(f"the environment's JAX_MIX_BLEND must be 'product' or 'gather', got {_GIVEN!r}.")
FORM = contextvars.ContextVar[str | None]("FORM", default=_GIVEN)


def fits(x: Array, groups: int) -> bool:
    """Whether a product may stand for the blend of this array in the program that is traced."""
    form = FORM.get()
    if form == "gather" or not (form or _compiler_there()):
        return False
    if not x.size or not jnp.issubdtype(x.dtype, jnp.floating) or not stays_in_groups(x, groups):
        return False
    # A TPU has no float64, and what stands for it has not its range.
    return form == "product" or (x.shape[0] // groups <= LARGEST_GROUP and jnp.finfo(x.dtype).bits <= 32)


def choose(product: Callable[..., Any], gather: Callable[..., Any], *args: Any) -> Any:
    """What one of the two makes of arrays that fit: `product` in a program for a TPU, or as FORM says."""
    if form := FORM.get():
        return (product if form == "product" else gather)(*args)
    return jax.lax.platform_dependent(*args, tpu=_within("product", product), default=_within("gather", gather))


def _within(form: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, inside of which nothing is left to choose."""

    def chosen(*args: Any) -> Any:
        token = FORM.set(form)
        try:
            return function(*args)
        finally:
            FORM.reset(token)

    return chosen


@functools.cache
def _compiler_there() -> bool:
    """Whether a TPU's compiler is installed: where it is not, both forms need not be traced."""
    return "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None


def blend(x: Array, partner: Array, lam: ArrayLike, groups: int) -> Array:
    """`lam * x + (1 - lam) * x[partner]`, at lam 1 exactly `x` and at lam 0 exactly `x[partner]`.

    Where a sample is infinite or nan, the mixtures that it is a part of are nan, and no others. In float32, so they may
    be from 2**102 (5e30) on, and a `lam` below 2**-25 counts as 0.

    Args:
      x: float `[batch, ...]`; blended in at least float32.
      partner: int `[batch]`, each in the own one of the `groups` equal parts of the batch.
      lam: float `[batch]`, or one for all.
    """
    size = x.shape[0] // groups
    dtype = x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.dtype(jnp.float32)
    index = partner.astype(jnp.int32).reshape(groups, size) % size
    weight = per_sample(jnp.asarray(lam).astype(dtype), x.shape[0], 0).reshape(groups, size)
    if sharding := explicit_sharding(x):
        rows = of_mesh(sharding, sharding.spec[0])
        index, weight = jax.sharding.reshard(index, rows), jax.sharding.reshard(weight, rows)
    parts = x.reshape(groups, size, *x.shape[1:]).astype(dtype)
    return _blend(parts, index, weight).reshape(x.shape).astype(x.dtype)


def take(x: Array, partner: Array, groups: int) -> Array:
    """`x[partner]`, as `blend` makes it at lam 0."""
    return blend(x, partner, 0.0, groups)


@jax.custom_jvp
def _blend(x: Array, index: Array, lam: Array) -> Array:
    scale = 2.0 ** _scale(x.dtype)
    blended = _product(_matrix(index, lam) * scale, _cut(x)) / scale
    return jnp.where(jnp.isfinite(blended), blended, jnp.nan)


def _derivative(primals: tuple[Array, Array, Array], tangents: tuple[Any, Any, Any]) -> tuple[Array, Any]:
    x, index, lam = primals
    by_x, _, by_lam = tangents
    blended = _blend(x, index, lam)
    tangent = jnp.zeros_like(blended)
    if not isinstance(by_x, SymbolicZero):
        tangent = _product(_matrix(index, lam), by_x)
    if not isinstance(by_lam, SymbolicZero):
        difference = x - _blend(x, index, jnp.zeros_like(lam))
        by_lam = jnp.expand_dims(by_lam, tuple(range(2, x.ndim)))
        tangent = tangent + by_lam * jnp.where(jnp.isfinite(difference), difference, 0)
    return blended, tangent


_blend.defjvp(_derivative, symbolic_zeros=True)


def _matrix(index: Array, lam: Array) -> Array:
    """W of each group, `[groups, n, n]`."""
    # What a smaller weight is scaled to would not make the largest power of two overflow; 1 - lam never is smaller.
    lam = jnp.where(lam < 2.0 ** (1 - _scale(lam.dtype)), 0, lam)[..., None]
    number = jnp.arange(index.shape[1], dtype=index.dtype)
    own, partner = jnp.expand_dims(number, (0, 2)) == number[None, None], index[..., None] == number[None, None]
    return jnp.where(own, lam, 0) + jnp.where(partner, 1 - lam, 0)


def _product(matrix: Array, x: Array) -> Array:
    # A TPU multiplies float32 by parts of bfloat16; at this precision the parts hold all bits.
    precision = jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(matrix, x, (((2,), (1,)), ((0,), (0,))), precision=precision)


def _scale(dtype: Any) -> int:
    return int(jnp.finfo(dtype).nmant) + 3


def _cut(x: Array) -> Array:
    """`x`, but not finite or above the largest power of two it is that, with its sign.

    As whole numbers, magnitudes are in their order, with infinity and nan behind all others.
    """
    largest = np.array(2.0 ** (jnp.finfo(x.dtype).maxexp - 1), x.dtype)
    whole = np.dtype(f"uint{8 * largest.nbytes}")
    sign = np.array(-0.0, x.dtype).view(whole)
    bits = jax.lax.bitcast_convert_type(x, whole)
    magnitude = jnp.minimum(bits & ~sign, largest.view(whole))
    return jax.lax.bitcast_convert_type(magnitude | (bits & sign), x.dtype)

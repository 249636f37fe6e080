"""The weighted mean of two arrays, with a weight for each sample, or for each of its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jax_mix._sharding import explicit_sharding, of_mesh

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike


def lerp(own: Array, partners: Array, lam: ArrayLike) -> Array:
    """`lam * own + (1 - lam) * partners` in at least float32, rounded as `torch.lerp` rounds.

    At lam 1 it is `own` and at lam 0 `partners`, also where the other is infinite or nan.
    """
    if jnp.iscomplexobj(own):
        return jax.lax.complex(lerp(own.real, partners.real, lam), lerp(own.imag, partners.imag, lam))
    dtype = own.dtype if jnp.finfo(own.dtype).bits >= 32 else jnp.dtype(jnp.float32)
    lam = column(jnp.asarray(lam).astype(dtype), own)
    return _mean(own.astype(dtype), partners.astype(dtype), lam).astype(own.dtype)


@jax.custom_jvp
def _mean(own: Array, partners: Array, lam: Array) -> Array:
    from_partner = lam < 0.5  # start from whichever is nearer
    base, other = jnp.where(from_partner, partners, own), jnp.where(from_partner, own, partners)
    coefficient = jnp.where(from_partner, lam, lam - 1)
    difference = own - partners
    # Where the difference is not finite, 0 * inf and inf - inf would be nan.
    stays = jnp.where(
        coefficient == 0, ~jnp.isfinite(difference), jnp.isinf(base) & (jnp.isfinite(other) | (other == base))
    )
    return base + coefficient * jnp.where(stays, 0, difference)


def _by_lam(tangent: Array, _: Array, own: Array, partners: Array, lam: Array) -> Array:
    difference = own - partners
    return tangent * jnp.where(jnp.isfinite(difference), difference, 0)


# The derivatives of the formula, lam, 1 - lam and the difference; derived from the code above, they compile slower.
_mean.defjvps(
    lambda tangent, _, own, partners, lam: lam * tangent,
    lambda tangent, _, own, partners, lam: (1 - lam) * tangent,
    _by_lam,
)


def column(value: ArrayLike, x: Array) -> Array:
    """One number for each sample of `x`, or one for all, in a shape that is broadcast against `x`; or of its rank."""
    column = per_sample(value, x.shape[0], 0)
    if sharding := explicit_sharding(x):
        column = jax.sharding.reshard(column, of_mesh(sharding, sharding.spec[0]))
    return jnp.expand_dims(column, tuple(range(column.ndim, x.ndim)))


def per_sample(value: ArrayLike, n: int, rank: int) -> Array:
    """`value`, whose own rank is `rank`, one for each of `n` samples."""
    value = jnp.asarray(value)
    return value if value.ndim > rank else jnp.broadcast_to(value, (n, *value.shape))

"""The mean over an image, or over tokens, before a network's head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def global_mean(x: Float[Array, "batch *positions channels"]) -> Float[Array, "batch channels"]:
    """The mean over all positions: `[batch, ..., channels]` to `[batch, channels]`, summed in float32 or wider.

    >>> global_mean(jnp.array([[[1.0], [2.0], [6.0]]]))
    Array([[3.]], dtype=float32)
    """
    if x.dtype.itemsize < 4:
        # JAX 0.12 on CPU may compile a sum together with all the convolutions before it, in bfloat16 to NaN.
        x = jax.lax.optimization_barrier(x)
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))

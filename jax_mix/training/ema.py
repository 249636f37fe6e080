"""Averaged weights, which are evaluated in the place of the last ones (--ema)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from jaxtyping import Array, Int


def update_average(average: nnx.Module, model: nnx.Module, step: Int[Array, ""], decay: float) -> None:
    """Move the averaged model towards the model after a step: weights, and BatchNorm statistics with them.

    Args:
      average: is updated.
      model: of the same class.
      step: how many steps are done, from 1.
      decay: the share of the average that stays, in [0, 1); less in the first steps, (1 + step) / (10 + step), for the
        initial weights to be forgotten.

    Source: `tf.train.ExponentialMovingAverage` with `num_updates`; timm's `ModelEmaV3` averages statistics too.
    """
    step = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + step) / (10 + step))

    def leaf(mean: Any, new: Any) -> Any:
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return new  # a counter, or a key of Dropout
        return (mean + (1 - kept).astype(mean.dtype) * (new - mean)).astype(mean.dtype)

    nnx.update(average, jax.tree.map(leaf, nnx.state(average), nnx.state(model)))

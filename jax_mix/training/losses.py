"""The loss that is trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


def cross_entropy(label_smoothing: float = 0.0) -> Callable[[Any, Any], Float[Array, " batch"]]:
    """A loss of logits, float `[batch, classes]`, and labels, int `[batch]`; one per example, float32 `[batch]`.

    >>> losses = cross_entropy(label_smoothing=0.1)(jnp.array([[2.0, 0.0]]), jnp.array([0]))
    >>> round(float(losses[0]), 4)
    0.2269

    Args:
      label_smoothing: this share of each target is spread over all classes, in [0, 1].

    Source: `optax.smooth_labels`, fastai's `LabelSmoothingCrossEntropy`.
    """

    def loss(logits: Float[Array, "batch classes"], label: Int[Array, " batch"]) -> Float[Array, " batch"]:
        if logits.dtype.itemsize < 4:
            logits = logits.astype(jnp.float32)
        if label_smoothing == 0:
            return optax.softmax_cross_entropy_with_integer_labels(logits, label)
        target = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(target, label_smoothing))

    return loss

"""The losses that are trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_mix
from jax_mix.training.data.labels import are_several

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

LossName = Literal["cross_entropy", "bce", "bce_sum"]


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of a mixed batch: of logits, float `[batch, classes]`, labels, int `[batch]`, and the batch's draw.

    The labels may be several an image, `[batch, classes]` of 0 and 1, but with "cross_entropy"; they are not smoothed.

    >>> losses = Loss("bce", target_threshold=0.2)(jnp.array([[2.0, 0.0]]), jnp.array([0]), None)
    >>> losses.round(4)
    Array([0.41], dtype=float32)

    Args:
      name: "cross_entropy"; or "bce", the binary cross-entropy of each class by itself against the mixed targets, of
        which the mean over the classes is taken, with "bce_sum" the sum.
      label_smoothing: this share of each label is spread over all classes, before labels are mixed; in [0, 1].
      target_threshold: with "bce", mixed targets above it are 1 and all others 0; None: they stay as they are.
      class_weights: with "cross_entropy", a weight for each class; the mean of the losses is then torch's weighted one.

    Returns:
      One loss for each example, float32 `[batch]`, as optax's losses are.

    Source: `timm.loss.BinaryCrossEntropy` behind `timm.data.Mixup`; torch's `cross_entropy(weight=...)`.
    """

    name: LossName = "cross_entropy"
    label_smoothing: float = 0.0
    target_threshold: float | None = None
    class_weights: tuple[float, ...] | None = None

    def __call__(
        self, logits: Float[Array, "batch classes"], label: Int[Array, " batch"], mix: jax_mix.Mix | None
    ) -> Float[Array, " batch"]:
        if self.name == "cross_entropy":
            weights = None if self.class_weights is None else np.asarray(self.class_weights, np.float32)
            return jax_mix.mixed_loss(cross_entropy(self.label_smoothing), logits, label, mix, class_weights=weights)
        logits = _at_least_float32(logits)
        target = label.astype(logits.dtype) if are_several(label) else _smoothed(label, logits, self.label_smoothing)
        target = target if mix is None else mix.targets(target)
        if self.target_threshold is not None:
            target = (target > self.target_threshold).astype(target.dtype)
        losses = optax.sigmoid_binary_cross_entropy(logits, target)
        return losses.sum(-1) if self.name == "bce_sum" else losses.mean(-1)


CROSS_ENTROPY = Loss()


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
        logits = _at_least_float32(logits)
        if label_smoothing == 0:
            return optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return optax.softmax_cross_entropy(logits, _smoothed(label, logits, label_smoothing))

    return loss


def _at_least_float32(logits: Any) -> Any:
    return logits.astype(jnp.float32) if logits.dtype.itemsize < 4 else logits


def _smoothed(label: Any, logits: Any, label_smoothing: float) -> Any:
    return optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype), label_smoothing)

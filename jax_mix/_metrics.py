"""A metric of training with mixed batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import nnx

from jax_mix._losses import mixed_loss
from jax_mix._mix import Mix

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike


class MixedAccuracy(nnx.metrics.Average):
    """Training accuracy of mixed batches: a hit counts `lam` for the own label and `1 - lam` for the partner's.

    It is low by its nature: at lambda 0.5 no prediction is worth more than a half. Compare it with itself over a run,
    and methods by unmixed test images. Works alone and inside `nnx.MultiMetric`.

    Args:
      logits: of `update`: float `[batch, ..., classes]`.
      labels: of `update`: int `[batch, ...]`, not mixed.
      mix: of `update`: the batch's draw, or None for a batch that was not mixed.
      dense: of `update`: as in `mixed_loss`.
      mask: of `update`: bool `[batch, ...]`, False for what does not count.

    Raises:
      ValueError: `logits` and `labels` are not of one shape, but for the classes.

    Source: the training accuracy of mixup's authors' `train.py`.

    >>> import jax.numpy as jnp, jax_mix
    >>> metric = jax_mix.MixedAccuracy()
    >>> mix = jax_mix.Mix(lam=0.75, partner=jnp.array([1, 0]))
    >>> metric.update(logits=jnp.eye(2), labels=jnp.array([0, 0]), mix=mix)  # a hit, and a miss of both labels
    >>> metric.compute()
    Array(0.5, dtype=float32)
    """

    def __init__(self) -> None:
        super().__init__()

    def update(  # type: ignore[override]
        self,
        *,
        logits: ArrayLike,
        labels: ArrayLike,
        mix: Mix | None = None,
        dense: bool | Sequence[int] | None = None,
        mask: Array | None = None,
        **_: Any,
    ) -> None:
        """Add a batch."""
        super().update(values=mixed_hits(logits, labels, mix, dense=dense), mask=mask)

    def compute(self) -> Array:
        """The accuracy of all batches, float32 `[]`."""
        return self.total[...] / self.count[...].astype(jnp.float32)


def mixed_hits(
    logits: ArrayLike, labels: ArrayLike, mix: Mix | None, *, dense: bool | Sequence[int] | None = None
) -> Array:
    """What `MixedAccuracy` takes the mean of: a number from 0 to 1 for each label, float32 `[batch, ...]`."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.shape[:-1] != labels.shape or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            "labels must be class numbers in the shape of logits without its last axis, got "
            f"{labels.dtype}{list(labels.shape)} for logits of {list(logits.shape)}."
        )

    def hit(logits: Array, labels: Array) -> Array:
        return (logits.argmax(-1) == labels).astype(jnp.float32)

    return mixed_loss(hit, logits, labels, mix, dense=dense)

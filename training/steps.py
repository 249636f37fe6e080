"""Parts of a training step that a run may ask for: label smoothing, accumulated gradients, averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key


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


def accumulate(
    gradients: Callable[[nnx.Module, Key[Array, ""], Any], tuple[Float[Array, ""], nnx.State]],
    model: nnx.Module,
    key: Key[Array, ""],
    batch: Any,
    *,
    parts: int,
) -> tuple[Float[Array, ""], nnx.State]:
    """The mean loss and gradients over the parts of a batch, one after the other: large batches in less memory.

    Each part is a batch of its own: it has its own draw, and BatchNorm normalises by it.

    Args:
      gradients: gives the loss, float `[]`, and the gradients for a model, a key and a batch.
      model: its BatchNorm statistics are updated `parts` times.
      key: split for the parts.
      batch: pytree of arrays `[batch, ...]`.
      parts: how many; divides the batch. Part i is every `parts`-th example from i on, so that where a batch is split
        over devices each part is too.
    """
    split = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0), batch)

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def part(carry: tuple[nnx.Module, nnx.State], key_and_batch: Any) -> tuple[tuple[nnx.Module, nnx.State], Any]:
        model, total = carry
        loss, grads = gradients(model, *key_and_batch)
        return (model, jax.tree.map(jnp.add, total, grads)), loss

    zeros = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    (_, total), losses = part((model, zeros), (jax.random.split(key, parts), split))
    return jnp.mean(losses), jax.tree.map(lambda g: g / parts, total)


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

"""The loss of a mixed batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mix._checks import check_loss, check_no_torch
from jax_mix._lerp import column, lerp
from jax_mix._mix import Mix, check_mix
from jax_mix._pixels import dense_axes
from jax_mix._sharding import explicit_sharding

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike


def mixed_loss(
    loss_fn: Callable[[Any, Any], Any],
    logits: Any,
    labels: Any,
    mix: Mix | None,
    *,
    dense: bool | Sequence[int] | None = None,
    other: Any = None,
    class_weights: ArrayLike | None = None,
    ignore_index: int | None = None,
) -> Array:
    """The per-example loss of a mixed batch: `lam * loss(logits, y) + (1 - lam) * loss(logits, y[partner])`.

    Works for any loss, class numbers included. For losses linear in the targets, as cross-entropy is, it equals
    the loss against `mix.targets(one_hot)`.

    Args:
      loss_fn: takes `logits` and labels, returns one loss per example, `[batch, ...]`, as optax's losses do.
      logits: what the model put out, `[batch, ...]`.
      labels: `[batch, ...]` in any pytree, as `loss_fn` takes them, not mixed.
      mix: the batch's draw, or None for a batch that was not mixed.
      dense: with a box, whether labels that have the images' spatial axes are those of pixels, as masks are (True, or
        those axes of theirs), so that each pixel's loss is of the image that it comes from; or are weighed by `lam` as
        a whole (False). None refuses them.
      other: the labels of a second batch that partners are taken from, as in `Mix.blend`.
      class_weights: float `[classes]`: the losses of each label, an int, are multiplied by its class's weight, and
        scaled so that their mean is torch's weighted mean, `sum(weight * loss) / sum(weight)`: of the own labels, and
        of the partners'.
      ignore_index: a label that counts for nothing, also in that mean.

    Returns:
      `[batch, ...]`, unreduced: the caller takes the mean. Where a label's weight is 0, `loss_fn` gets the other in its
      place: a loss that is infinite for it makes neither the sum nor a gradient infinite or nan.

    Raises:
      TypeError: `mix` is not a `Mix`, or `loss_fn` does not return floats; `class_weights` or `ignore_index` are given
        for labels that are not class numbers.
      ValueError: `loss_fn` does not return one loss per example, or the batch is not this draw's; labels have the
        images' spatial axes and `dense` says nothing.

    Source: mixup's `mixup_criterion`; fastai's `MixHandler.lf`; torch's `cross_entropy`.

    >>> import jax.numpy as jnp, optax, jax_mix
    >>> xent = optax.softmax_cross_entropy_with_integer_labels
    >>> mix = jax_mix.Mix(lam=0.75, partner=jnp.array([1, 0]))
    >>> jax_mix.mixed_loss(xent, jnp.array([[0.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1]), mix).round(4)
    Array([0.6931, 0.6931], dtype=float32)
    """

    def weighted(given: Any, true: Callable[[], Any]) -> Any:
        if class_weights is None and ignore_index is None:
            return loss_fn(logits, given)
        return _torchs_mean(loss_fn, logits, given, true(), class_weights, ignore_index)

    if mix is None:
        return weighted(labels, lambda: labels)
    check_mix(mix)
    check_no_torch(logits, "logits")
    other = mix._check_pair(labels, other, "labels")
    axes = dense_axes(mix, labels, dense, "labels")
    if mix.outside is None and None not in axes:  # every pixel has one label
        pasted = mix.targets(labels, dense=dense, other=other)
        return weighted(pasted, lambda: pasted)
    if mix.outside is not None and any(axes):
        return _pixel_losses(weighted, labels, other, mix, axes)

    def both(own: ArrayLike, other: ArrayLike, axes: tuple[int, ...] | None) -> tuple[Array, Array]:
        if axes is not None:
            return (mix._paste(own, other, axes),) * 2
        own, partner = jnp.asarray(own), mix._take(other)
        lam = column(mix.lam, own)
        return jnp.where(lam > 0, own, partner), jnp.where(lam < 1, partner, own)

    own, partners = _map_pairs(both, labels, other, axes)
    return mix.losses(weighted(own, lambda: labels), weighted(partners, lambda: mix.take_partners(other)))


def _map_pairs(both: Callable[..., tuple[Any, Any]], labels: Any, other: Any, axes: Sequence[Any]) -> tuple[Any, Any]:
    """Of each label and its other what `both` says, as two trees."""
    given = zip(jax.tree.leaves(labels), jax.tree.leaves(other), axes, strict=True)
    own, partners = zip(*(both(*each) for each in given), strict=True)
    tree = jax.tree.structure(labels)
    return jax.tree.unflatten(tree, own), jax.tree.unflatten(tree, partners)


def _pixel_losses(
    weighted: Callable[..., Any], labels: Any, other: Any, mix: Mix, axes: Sequence[tuple[int, ...] | None]
) -> Array:
    """Losses of pixels, each of which weighs its own image's label and the partner's by what it is mixed of."""
    if None in axes:
        raise ValueError("dense=True needs labels of pixels alone, where rows of the draw may be blended.")

    def weight(like: Array, axes: tuple[int, ...]) -> Array:
        outside = column(jnp.asarray(mix.outside, jnp.float32), like)
        return jnp.broadcast_to(jnp.where(mix._mask(like.shape, axes), 0, outside), like.shape)

    def both(own: ArrayLike, other: ArrayLike, axes: tuple[int, ...]) -> tuple[Array, Array]:
        own, partner = jnp.asarray(own), mix._take(other)
        lam = weight(own, axes)
        return jnp.where(lam > 0, own, partner), jnp.where(lam < 1, partner, own)

    own, partners = _map_pairs(both, labels, other, axes)
    losses = weighted(own, lambda: labels), weighted(partners, lambda: mix.take_partners(other))
    for loss in losses:
        check_loss(loss)
    try:
        (found,) = dense_axes(mix, losses[0], True, "the loss")
    except ValueError as error:
        error.add_note("(jax_mix: rows of the draw may be blended, so that the loss must be one per pixel)")
        raise
    assert found is not None
    own_loss, partners_loss = map(jnp.asarray, losses)
    return lerp(own_loss, partners_loss, weight(own_loss, found))


def _torchs_mean(
    loss_fn: Callable[[Any, Any], Any],
    logits: Any,
    given: Any,
    true: Any,
    class_weights: ArrayLike | None,
    ignore_index: int | None,
) -> Array:
    """Losses whose mean is `sum(weight * loss) / sum(weight)`, the weights those of the `true` labels."""
    given, true = _class_numbers(given), _class_numbers(true)
    counts = jnp.ones(true.shape, bool) if ignore_index is None else true != ignore_index
    if ignore_index is not None:
        given, true = (jnp.where(label == ignore_index, 0, label) for label in (given, true))
    weight = counts.astype(jnp.float32)
    if class_weights is not None:
        if np.ndim(class_weights) != 1:
            raise ValueError(f"class_weights must be one float a class, got shape {np.shape(class_weights)}.")
        weight = weight * jnp.asarray(class_weights).at[true].get(out_sharding=explicit_sharding(true))
    losses = jnp.asarray(loss_fn(logits, given))
    check_loss(losses)
    if losses.shape != weight.shape:
        raise ValueError(f"the loss must be one per label, {list(weight.shape)}, got {list(losses.shape)}.")
    weight = weight.astype(losses.dtype)
    return jnp.where(weight > 0, losses, 0) * (weight / weight.mean())


def _class_numbers(labels: Any) -> Array:
    leaves = jax.tree.leaves(labels)
    if len(leaves) != 1 or not jnp.issubdtype(jnp.result_type(leaves[0]), jnp.integer):
        got = ", ".join(str(jnp.result_type(leaf)) for leaf in leaves)
        raise TypeError(f"class_weights and ignore_index need labels that are class numbers, one array, got {got}.")
    return jnp.asarray(leaves[0])

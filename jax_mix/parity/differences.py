"""How far two arrays are apart, whatever order their axes stand in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jax_mix.parity.arrays import same_but_for_splits
from jax_mix.parity.records import Axes

ROUNDED = 1e-6  # an error of arrays that were only rounded to float32
REORDERED = "the same numbers in another order"


class Difference(NamedTuple):
    """The largest difference in units of the largest magnitude, and how the axes were brought in line."""

    error: float  # inf if the shapes are others
    axes: Axes = ()
    note: str = ""


def difference(ours: np.ndarray, theirs: np.ndarray, floor: float = 0.0) -> Difference:
    """Compare an array of Flax with PyTorch's: as it is, with channels last, or with the first two axes swapped.

    >>> difference(np.ones((2, 5, 3)), np.ones((2, 3, 5)))
    Difference(error=0.0, axes=(0, 2, 1), note='')

    Args:
      ours, theirs: arrays.
      floor: the least magnitude that counts as the largest.
    """
    found = []
    for axes in _orders(theirs.ndim):
        arranged = theirs.transpose(axes)
        if same_but_for_splits(arranged.shape, ours.shape):
            found.append(Difference(relative_error(ours, arranged.reshape(ours.shape), floor), axes))
    if not found:
        return Difference(np.inf, (), f"its shape is {list(ours.shape)}, in the original {list(theirs.shape)}")
    best = min(found, key=lambda each: each.error)  # the first of equals
    if best.error > ROUNDED and relative_error(np.sort(ours, None), np.sort(theirs, None), floor) < 1e-9:
        return best._replace(note=REORDERED)
    return best


def relative_error(ours: np.ndarray, theirs: np.ndarray, floor: float = 0.0) -> float:
    """The largest difference, in units of the largest magnitude or of `floor`; inf if either alone is not finite."""
    if ours.dtype == np.bool_ or not ours.size:
        return float(np.any(ours != theirs))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    apart = np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf))
    largest = float(np.max(apart))
    return largest / max(magnitude([theirs]), floor) if largest else 0.0


def magnitude(arrays: Sequence[np.ndarray]) -> float:
    """The largest finite magnitude."""
    finite = [np.abs(a[np.isfinite(a)]) for a in arrays if a.dtype.kind == "f" and a.size]
    return max((float(np.max(a)) for a in finite if a.size), default=0.0) or np.finfo(np.float64).tiny


def _orders(rank: int) -> Iterator[Axes]:
    yield tuple(range(rank))
    if rank >= 3:
        yield (0, *range(2, rank), 1)
        yield (1, 0, *range(2, rank))

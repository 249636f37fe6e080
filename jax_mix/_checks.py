"""Checks of what a user passes: each failure is one sentence with the argument, its value and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np


def is_concrete(value: Any) -> bool:
    """Whether `value` can be looked at now: False for what jit has yet to compute."""
    return not isinstance(value, jax.core.Tracer)


def suggest(name: str, names: Iterable[str], *, limit: int = 12) -> str:
    """The nearest of `names` to `name`, then what there is: the second half of an error message."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    shown = ", ".join(repr(n) for n in names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    return (f"did you mean {' or '.join(map(repr, near))}? " if near else "") + f"There are: {shown or 'none'}."


def shown(value: Any) -> str:
    """`value` on one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def check_choice(argument: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} is {shown(value)}: {suggest(str(value), allowed)}")


def check_alpha(alpha: Any) -> None:
    """`alpha` must be a positive, finite number; a traced one (a schedule inside jit) cannot be looked at."""
    if not is_concrete(alpha):
        return
    if isinstance(alpha, (str, bool, type(None))) or np.ndim(alpha) != 0:
        raise ValueError(f"alpha must be one positive number, got {shown(alpha)}.")
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(
            f"alpha must be positive and finite, got {float(alpha)!r}; to train without mixing, leave it out."
        )


def check_key(key: Any) -> None:
    """`key` must be one key: of `jax.random.key`, or of the old form, two uint32."""
    dtype, shape = getattr(key, "dtype", None), np.shape(key) if hasattr(key, "shape") else None
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed and shape == ()) and not (dtype == np.uint32 and shape == (2,)):
        raise TypeError(f"key must be one key, as jax.random.key(seed) makes it, got {shown(key)}.")


def check_probability(probability: Any) -> None:
    if not is_concrete(probability):
        return
    number = np.ndim(probability) == 0 and np.issubdtype(np.asarray(probability).dtype, np.number)
    if not number or not 0 <= probability <= 1:
        raise ValueError(f"probability must be a number from 0 to 1, got {shown(probability)}.")


def check_groups(groups: Any) -> None:
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1:
        raise ValueError(f"groups must be a whole number of 1 or more, got {shown(groups)}.")


def check_divides(groups: int, n: int) -> None:
    if n % groups:
        raise ValueError(f"groups must divide the batch of {n} samples, got {groups}.")


def check_bool(argument: str, value: Any) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{argument} must be True or False, got {shown(value)}.")


def two_ints(argument: str, value: Any, meaning: str) -> tuple[int, int]:
    """`value` as a tuple of two ints, which is hashable whatever sequence was given."""
    numbers = np.asarray(value)
    if numbers.shape != (2,) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{argument} must be two whole numbers, {meaning}, got {shown(value)}.")
    return int(numbers[0]), int(numbers[1])


def check_spatial(what: str, shape: Sequence[int], axes: tuple[int, int]) -> None:
    """CutMix's images have the two spatial axes, neither of length 0."""
    if len(shape) < 3 or max(axes) >= len(shape) or 0 in (shape[axes[0]], shape[axes[1]]):
        raise ValueError(
            f"CutMix needs two spatial axes, {axes[0]} and {axes[1]} (spatial_axes), got {what} {tuple(shape)}."
        )


def check_same_length(x: Any, y: Any) -> None:
    """`x` and `y` (pytrees, batch first) must hold as many samples."""
    n_x, n_y = batch_size(x, "x"), batch_size(y, "y")
    if n_x != n_y:
        raise ValueError(f"x and y must have the same number of samples, got {n_x} in x and {n_y} in y.")


def batch_size(tree: Any, what: str) -> int:
    """The length of the first axis, the same in every array of `tree`."""
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or None in sizes:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
        raise ValueError(f"{what} must be arrays with one batch axis, first and of one length, got shapes {shapes}.")
    return int(sizes.pop())  # type: ignore[arg-type]

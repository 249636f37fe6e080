"""How classes of unlike numbers of images are made up for: weights of their losses."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from jax_mix._checks import suggest
from jax_mix.training.errors import UserError, require

if TYPE_CHECKING:
    from jaxtyping import Int

BALANCED = "balanced"


def numbers_of(weights: tuple[str, ...]) -> tuple[float, ...] | None:
    """The numbers of `--class-weights`; None: they are balanced.

    >>> numbers_of(("1", "2.5"))
    (1.0, 2.5)

    Raises:
      UserError: they are neither.
    """
    if weights == (BALANCED,):
        return None
    try:
        numbers = tuple(map(float, weights))
    except ValueError:
        word = next(each for each in weights if not _is_number(each))
        raise UserError(
            f"--class-weights is {word!r}: {suggest(word, [BALANCED])} Or a number for each class."
        ) from None
    require(
        bool(numbers) and all(0 < each < math.inf for each in numbers),
        f"--class-weights must be balanced, or a positive number for each class, got {' '.join(weights) or 'none'}.",
    )
    return numbers


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def weights_of(
    weights: tuple[str, ...], label: Int[np.ndarray, " n"], class_names: tuple[str, ...]
) -> tuple[float, ...]:
    """The weight of each class; balanced ones are `n / (classes * images of it)`, over the classes that have images.

    >>> weights_of(("balanced",), np.array([0, 0, 0, 1]), ("cat", "dog"))
    (0.6666666666666666, 2.0)

    Raises:
      UserError: there are not as many as classes.

    Source: `sklearn.utils.class_weight.compute_class_weight`.
    """
    numbers = numbers_of(weights)
    if numbers is not None:
        count = len(class_names)
        require(
            len(numbers) == count, f"--class-weights must be {count} numbers, one for each class, got {len(numbers)}."
        )
        return numbers
    images = Counter(np.asarray(label).tolist())
    return tuple(len(label) / (len(images) * images[k]) if images[k] else 1.0 for k in range(len(class_names)))

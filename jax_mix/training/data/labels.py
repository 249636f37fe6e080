"""What a label is: the number of an image's class, or of several labels a row of 0 and 1, one for each class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int


def are_several(label: Any) -> bool:
    """Whether an image has any number of labels, `[n, classes]` of 0 and 1; else it is of one class, int `[n]`.

    >>> are_several(np.zeros((5, 3))), are_several(np.zeros(5, int))
    (True, False)
    """
    return np.ndim(label) == 2


def as_kept(label: Any) -> Any:
    """Labels in the type that they are kept in: int32 `[n]`, or of several float32 `[n, classes]`."""
    return np.asarray(label).astype(np.float32 if are_several(label) else np.int32)


def counts(label: Any, classes: int) -> Int[np.ndarray, " classes"]:
    """How many images have each label.

    >>> counts(np.array([0, 2, 2]), 3).tolist(), counts(np.array([[1.0, 0, 1], [0, 0, 1]]), 3).tolist()
    ([1, 0, 2], [1, 0, 2])
    """
    label = np.asarray(label)
    return label.sum(0).astype(np.int64) if are_several(label) else np.bincount(label, minlength=classes)

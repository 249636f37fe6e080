"""Which classes are taken for which: the confusion matrix, and what follows from it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jax_mix.training.files import write_atomically

if TYPE_CHECKING:
    from jaxtyping import Int


def confusion_matrix(logits: Any, label: Any) -> Int[np.ndarray, "classes classes"]:
    """How many images of a class (row) are taken for which (column), int64 `[classes, classes]`.

    >>> confusion_matrix(np.array([[2.0, 1], [0, 3], [5, 4]]), np.array([0, 0, 1])).tolist()
    [[1, 1], [1, 0]]

    Args:
      logits: float `[n, classes]`.
      label: int `[n]`.
    """
    classes = logits.shape[1]
    pairs = np.asarray(label, np.int64) * classes + np.argmax(logits, axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def summary(confusion: Int[np.ndarray, "classes classes"], class_names: Sequence[str]) -> dict[str, Any]:
    """What metrics.json has of it: the largest class, which a network may always say, and the accuracy within each.

    >>> found = summary(np.array([[1, 1], [1, 0]]), ("cat", "dog"))
    >>> found["largest_class"]["class"], found["per_class"][0]
    ('cat', {'class': 'cat', 'images': 2, 'accuracy': 0.5})

    Args:
      confusion: as `confusion_matrix` gives it.
      class_names: one for each class.

    Returns:
      "largest_class": its "class" and "share" of the images; "per_class": of each its "class", the number of its
      "images", and the "accuracy" on them, None where there are none.
    """
    images = confusion.sum(1)
    largest = int(images.argmax())
    right = confusion.diagonal()
    return {
        "largest_class": {"class": class_names[largest], "share": float(images[largest] / images.sum())},
        "per_class": [
            {"class": name, "images": int(n), "accuracy": float(k / n) if n else None}
            for name, n, k in zip(class_names, images, right, strict=True)
        ],
    }


def in_words(metrics: Mapping[str, Any]) -> str:
    """A line of accuracy, the share of the largest class, NLL and ECE."""
    largest = metrics["largest_class"]
    return (
        f"accuracy {metrics['accuracy']:.2%} (the largest class, {largest['class']}, is {largest['share']:.2%} of the "
        f"images), NLL {metrics['nll']:.4f}, ECE {metrics['ece']:.4f}"
    )


def write_confusion(
    folder: Path, confusion: Int[np.ndarray, "classes classes"], class_names: Sequence[str], *, title: str
) -> None:
    """Write confusion_matrix.csv, whose first row and column are the names of classes, and the picture of it."""
    from jax_mix.training import plots  # here, as a network is used without pictures

    with write_atomically(folder / "confusion_matrix.csv") as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["is \\ taken for", *class_names])
        rows.writerows([name, *row] for name, row in zip(class_names, confusion.tolist(), strict=True))
    plots.plot_confusion(folder / "confusion_matrix.png", confusion, class_names, title=title)

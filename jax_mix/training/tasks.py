"""What a network is to tell of an image: its one class, or each of the labels that it has.

All that differs between the two is here, or is asked for here: how logits become probabilities, what is measured, and
by what an epoch is the best.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_mix
from jax_mix._metrics import mixed_hits
from jax_mix.training import confusion
from jax_mix.training.data.labels import are_several
from jax_mix.training.errors import require
from jax_mix.training.evaluation import average_precisions

if TYPE_CHECKING:
    from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Task:
    """What images are labelled with, and what follows from it.

    Attributes:
      several: whether an image has any number of labels, float32 `[n, classes]` of 0 and 1; else it is of one class,
        int `[n]`.
      probabilities: what logits become, in a word: "softmax" or "sigmoid".
      of_logits: that function.
      hits: of a mixed batch's logits, labels and draw: a number from 0 to 1 for each image, its training accuracy.
      details: of logits, labels and the classes' names: what else a run's results have.
      measured: what the numbers are called that `measure` gives: first that which is highest in the best epoch, then
        the loss, which is lowest in the best of epochs that are equal.
      in_words: a line of what was measured.
    """

    several: bool
    probabilities: str
    of_logits: Callable[[Any], Any]
    hits: Callable[[Any, Any, Any], Any]
    details: Callable[[Any, Any, Sequence[str]], dict[str, Any]]
    measured: tuple[str, str, str]
    in_words: Callable[[Mapping[str, Any]], str]

    @property
    def best(self) -> str:
        return self.measured[0]

    @property
    def loss(self) -> str:
        return self.measured[1]

    def score(self, record: Mapping[str, Any]) -> tuple[float, float]:
        """By which an epoch is the best; more is better."""
        return record[self.best], -record[self.loss]


def of(label: Any) -> Task:
    """The task of images with these labels."""
    return SEVERAL if are_several(label) else ONE


def of_record(record: Mapping[str, Any]) -> Task:
    """The task of a run, from what it has measured."""
    return SEVERAL if SEVERAL.best in record else ONE


def of_probabilities(name: str) -> Task:
    """The task of a network, from what its probabilities are called."""
    return SEVERAL if name == SEVERAL.probabilities else ONE


def check(config: Any, label: Any) -> None:
    """Raise `UserError` if flags of a `Config` are not for images of several labels, and these are."""
    if not are_several(label):
        return
    loss = config.loss or "cross_entropy"
    require(
        loss != "cross_entropy",
        f"--loss {loss} is for images of one class each, and these have several labels: give --loss bce.",
    )
    for flag, value, why in (
        ("label-noise", config.label_noise or None, "draws a class anew"),
        ("label-smoothing", config.label_smoothing or None, "spreads one label over all classes"),
        ("sampler", config.sampler, "draws classes alike"),
    ):
        require(value is None, f"--{flag} is {value}, which {why}, and images have several labels: drop it.")


def _of_one(logits: Any, label: Any, class_names: Sequence[str]) -> dict[str, Any]:
    return confusion.summary(confusion.confusion_matrix(logits, label), class_names)


def _of_several(logits: Any, label: Any, class_names: Sequence[str]) -> dict[str, Any]:
    """ "per_class": of each label its "class", how many "images" have it, and its "average_precision", or None."""
    label = np.asarray(label)
    found = average_precisions(logits, label)
    return {
        "per_class": [
            {"class": name, "images": int(n), "average_precision": float(each) if n else None}
            for name, n, each in zip(class_names, label.sum(0), found, strict=True)
        ]
    }


def _several_in_words(metrics: Mapping[str, Any]) -> str:
    of_labels, threshold = metrics["label_accuracy"], "at a probability of 0.5"
    return (
        f"mean average precision {metrics['mean_average_precision']:.2%}, BCE {metrics['bce']:.4f}, "
        f"accuracy of labels {of_labels:.2%} {threshold}"
    )


def _hits_of_several(
    logits: Float[Array, "batch classes"], label: Float[Array, "batch classes"], mix: jax_mix.Mix | None
) -> Float[Array, " batch"]:
    """The share of labels that are on the right side of 0.5; of a mixed image, of both images' by their weights."""

    def hit(logits: Any, label: Any) -> Any:
        return ((logits > 0) == (label > 0.5)).astype(jnp.float32).mean(-1)

    return jax_mix.mixed_loss(hit, logits, label, mix)


ONE = Task(False, "softmax", jax.nn.softmax, mixed_hits, _of_one, ("accuracy", "nll", "ece"), confusion.in_words)
SEVERAL = Task(
    True,
    "sigmoid",
    jax.nn.sigmoid,
    _hits_of_several,
    _of_several,
    ("mean_average_precision", "bce", "label_accuracy"),
    _several_in_words,
)

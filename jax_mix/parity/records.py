"""What either side tells of itself when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Seen(NamedTuple):
    """What a layer's first call was given and put out: the arrays among it, in order."""

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]


class Look(NamedTuple):
    """A forward pass."""

    outputs: list[np.ndarray]  # the model's
    layers: dict[str, Seen]  # in the order in which they end


class Draw(NamedTuple):
    """Who is mixed with whom, how much, and where."""

    lam: np.ndarray  # float64 [batch]
    partner: np.ndarray  # int [batch]
    layer: str  # its name, or "input"


class Step(NamedTuple):
    """What a step of training computes, by the side's own names."""

    outputs: list[np.ndarray]
    losses: np.ndarray  # [batch]
    gradients: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


Loss = Callable[[Any, Any], Any]  # the model's output and labels to a loss for each sample, [batch]
Axes = tuple[int, ...]  # the order of PyTorch's axes in Flax's layout

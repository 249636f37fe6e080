"""What tells a layer's calls apart: a number beside its weights, 0, or 0..N-1 where they may be stacked for a scan."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ITERATION = "jax_mix_iteration"  # the name of that number


def shared_length(shapes: list[tuple[int, ...]]) -> int | None:
    """The length of a first axis that all arrays share: the weights may be stacked along it."""
    lengths = {shape[0] if shape else None for shape in shapes}
    return lengths.pop() if len(lengths) == 1 else None


def iterations(length: int | None) -> Any:
    """0 where nothing is stacked, else 0..length-1: known while tracing, and an array that a tracer may index."""
    if length is None:
        return np.int32(0)
    with jax.ensure_compile_time_eval():
        return jnp.arange(length, dtype=jnp.int32)


def warn_called_again(path: str) -> None:
    warnings.warn(
        f"layer {path!r} is called more than once in a forward pass: it is mixed at its first call only.", stacklevel=3
    )

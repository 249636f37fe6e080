"""What tells a layer's calls apart: a number beside its weights, 0, or 0..N-1 where they may be stacked for a scan."""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax
import numpy as np

ITERATION = "jax_mix_iteration"  # the name of that number


def stack_of(shapes: list[tuple[int, ...]], nested: bool) -> tuple[int, ...]:
    """The lengths of the first axes that all arrays share: the weights may be stacked along them.

    One at most, or with `nested` as many as hold no more than a few thousand numbers together, stacks of stacks.
    """
    stack: tuple[int, ...] = ()
    for lengths in zip(*shapes, strict=False):
        longer = (*stack, lengths[0])
        if len(set(lengths)) > 1 or (stack and (not nested or math.prod(longer) > 2**14)):
            break
        stack = longer
    return stack


def iterations(stack: tuple[int, ...]) -> Any:
    """0 where nothing is stacked, else 0, 1, ... along the first axis: known while tracing, and to be indexed there."""
    if not stack:
        return np.int32(0)
    with jax.ensure_compile_time_eval():
        first = np.arange(stack[0], dtype=np.int32)  # not of jnp, which would compile a program for each length
        return jax.device_put(np.broadcast_to(first.reshape(-1, *[1] * (len(stack) - 1)), stack))


def where_in(stack: tuple[int, ...], value: Any) -> tuple[Any, int | None]:
    """What is left of `iterations(stack)`, read: the iteration and how many there are, None where nothing is stacked.

    The iteration is None in a stack of stacks, and where it cannot be told along which axis a scan cut.
    """
    shape = np.shape(value)
    if shape == stack:
        return value if not stack else value[(0,) * len(stack)], None
    if shape == stack[1:] and stack[0] not in stack[1:2]:
        return value if not shape else value[(0,) * len(shape)], stack[0]
    return None, None


def warn_called_again(path: str) -> None:
    warnings.warn(
        f"layer {path!r} is called more than once in a forward pass: it is mixed at its first call only.", stacklevel=3
    )

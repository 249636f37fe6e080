"""Known causes: what two layers were made with, and what runs between layers without being one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jax_mix.parity.differences import difference

# An attribute of Flax's and of PyTorch's layers, and PyTorch's in Flax's terms.
_SETTINGS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("epsilon", "eps", float),
    ("momentum", "momentum", lambda value: None if value is None else 1 - value),
    ("strides", "stride", lambda value: value),
    ("kernel_size", "kernel_size", lambda value: value),
    ("kernel_dilation", "dilation", lambda value: value),
    ("feature_group_count", "groups", int),
    ("num_groups", "num_groups", int),
    ("num_heads", "num_heads", int),
)


def settings(ours: Any, theirs: Any) -> Iterator[str]:
    """What a Flax layer and its original were told differently."""
    for name, original, converted in _SETTINGS:
        if hasattr(ours, name) and hasattr(theirs, original):
            here, there = getattr(ours, name), converted(getattr(theirs, original))
            if not _same(here, there):
                told = f"{original} {getattr(theirs, original)}"
                meant = f", which is {name} {there:g} in Flax" if name == "momentum" and there is not None else ""
                yield f"{name} is {here} here, the original has {told}{meant}"
    pads = getattr(theirs, "padding", None)
    if isinstance(pads, tuple) and hasattr(ours, "padding") and not getattr(theirs, "transposed", False):
        wanted = [(pad, pad) for pad in pads]
        if _padding(ours.padding, len(pads)) != wanted:
            yield f"padding is {ours.padding!r} here, the original's is {wanted}"
    if hasattr(theirs, "bias") and hasattr(ours, "use_bias") and bool(ours.use_bias) != (theirs.bias is not None):
        yield "the original has a bias and this has none" if theirs.bias is not None else "the original has no bias"


def _same(here: Any, there: Any) -> bool:
    if here is None or there is None:
        return here is there
    try:
        return bool(np.all(np.isclose(np.asarray(here, float), np.asarray(there, float), rtol=1e-9, atol=1e-15)))
    except (TypeError, ValueError):
        return True  # nothing that can be told apart


def _padding(value: Any, rank: int) -> Any:
    """Flax's padding as a pair an axis; a name stays one, but for VALID."""
    if value == "VALID":
        return [(0, 0)] * rank
    if isinstance(value, int):
        return [(value, value)] * rank
    if isinstance(value, (list, tuple)):
        return [(pad, pad) if isinstance(pad, int) else tuple(pad) for pad in value]
    return value


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda x: x,
    "ReLU": jax.nn.relu,
    "the exact GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "the tanh approximation of GELU": lambda x: jax.nn.gelu(x, approximate=True),
    "SiLU": jax.nn.silu,
    "tanh": jax.numpy.tanh,
    "sigmoid": jax.nn.sigmoid,
    "ReLU6": jax.nn.relu6,
    "leaky ReLU": jax.nn.leaky_relu,
    "ELU": jax.nn.elu,
    "hard swish": jax.nn.hard_swish,
}


def activations(before: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> str:
    """Which function makes of what a layer put out what the next is given, where each side has another; else ""."""
    named = []
    for after in (ours, theirs):
        if before.size != after.size or before.dtype.kind != "f":
            return ""
        fitting = (n for n, f in _ACTIVATIONS.items() if difference(np.asarray(f(before)), after).error < 1e-9)
        named.append(next(fitting, ""))
    here, there = named
    return f"{here} is applied to it here, {there} in the original" if here and there and here != there else ""

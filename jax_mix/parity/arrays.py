"""What PyTorch's own layers call their arrays, and what Flax's do: names, axes, splits. Nothing is computed.

Every conversion only moves numbers, so that it holds for gradients as it does for weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_mix._checks import shown, suggest

Convert = Callable[[np.ndarray], np.ndarray]


class Part(NamedTuple):
    """What an array of PyTorch, or a part of it, is in Flax: a name under the module's, and its axes' order there."""

    leaf: str
    convert: Convert


class Source(NamedTuple):
    """Where an array of the Flax model comes from."""

    name: str  # of the array in PyTorch
    convert: Convert


class Arrays(NamedTuple):
    """The arrays of both sides in pairs, and what is left."""

    sources: dict[str, Source]  # by the names of the Flax arrays
    left_over: list[str]  # arrays of PyTorch without an array of Flax
    missing: list[str]  # arrays of Flax without a source
    wrong_shapes: dict[str, str]  # by the names of the Flax arrays: what the shapes are
    by_shape: list[str]  # names in PyTorch of those that have another name here and were told by their shape


TORCH_ONLY = ("num_batches_tracked",)
_ATTENTION = ("query", "key", "value")


def alternatives(kinds: frozenset[str], leaf: str, rank: int) -> list[list[Part]]:
    """What the array `leaf` of a PyTorch module may be in Flax, the likeliest first.

    >>> [[part.leaf for part in parts] for parts in alternatives(frozenset({"Linear"}), "weight", 2)]
    [['kernel'], ['weight']]

    Args:
      kinds: names of the module's class and of those that it inherits from.
      leaf: the array's name in the module.
      rank: how many axes it has.
    """
    same = [Part(leaf, np.asarray)]
    if leaf in ("running_mean", "running_var"):
        return [[Part(leaf.removeprefix("running_"), np.asarray)], same]
    if "MultiheadAttention" in kinds and leaf in ("in_proj_weight", "in_proj_bias"):
        which = "kernel" if leaf.endswith("weight") else "bias"
        return [[Part(f"{name}.{which}", _third(k)) for k, name in enumerate(_ATTENTION)], same]
    if "MultiheadAttention" in kinds and (found := re.fullmatch("([qkv])_proj_weight", leaf)):
        return [[Part(f"{_ATTENTION['qkv'.index(found[1])]}.kernel", np.transpose)], same]
    if leaf != "weight":
        return [same]
    if rank == 1:
        return [[Part("scale", np.asarray)], [Part("negative_slope", np.asarray)], same]
    if kinds & {"Embedding", "EmbeddingBag"}:
        return [[Part("embedding", np.asarray)], same]
    if "_ConvTransposeNd" in kinds:
        return [[Part("kernel", _transposed_kernel)], same]
    return [[Part("kernel", _kernel)], same]


def _kernel(array: np.ndarray) -> np.ndarray:
    """[out, in, *window] to [*window, in, out]."""
    return array.transpose(*range(2, array.ndim), 1, 0)


def _transposed_kernel(array: np.ndarray) -> np.ndarray:
    """[in, out, *window] to [*window, in, out], the window turned round: Flax's transposed convolution does not."""
    return np.flip(array, tuple(range(2, array.ndim))).transpose(*range(2, array.ndim), 0, 1)


def _third(k: int) -> Convert:
    return lambda array: np.split(array, 3)[k].T


def fitted(kinds: frozenset[str], leaf: str, array: Any, module: str, flax: Mapping[str, Any]) -> list[Part] | None:
    """The first alternative of which the Flax `module` has each part, of whatever shape; None if there is none."""
    for parts in alternatives(kinds, leaf, array.ndim):
        if all(joined(module, part.leaf) in flax for part in parts):
            return parts
    return None


def fits(
    kinds: frozenset[str], arrays: Mapping[str, Any], module: str, leaves: set[str], flax: Mapping[str, Any]
) -> bool:
    """Whether a PyTorch module's arrays are a Flax module's, `leaves`, all and in as many numbers each."""
    taken: set[str] = set()
    for leaf, array in arrays.items():
        parts = fitted(kinds, leaf, array, module, flax)
        if parts is None or any(flax[joined(module, p.leaf)].size * len(parts) != array.size for p in parts):
            return False
        taken.update(part.leaf for part in parts)
    return taken == leaves


def compiled(argument: str, pattern: Any, *, before: str = "", after: str = "") -> re.Pattern[str]:
    """A user's regular expression.

    Raises:
      ValueError: it is none.
    """
    try:
        return re.compile(f"{before}(?:{pattern}){after}")
    except re.error as error:
        raise ValueError(f"{argument} has {pattern!r}, which is no regular expression ({error}).") from error


def same_but_for_splits(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one shape is the other with axes split, merged, or of length 1 put in: never with axes swapped.

    >>> same_but_for_splits((6, 8), (6, 2, 4)), same_but_for_splits((6, 8), (8, 6))
    (True, False)
    """
    ends, others = (set(np.cumprod(s, dtype=np.int64).tolist()) | {1} for s in (shape, other))
    return math.prod(shape) == math.prod(other) and (ends <= others or others <= ends)


def joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def in_pairs(
    modules: Mapping[str, tuple[frozenset[str], Mapping[str, np.ndarray]]],
    map_: Mapping[str, str],
    flax: Mapping[str, np.ndarray],
    given: Mapping[str, Any],
    left_out: set[str],
) -> Arrays:
    """The arrays of both sides in pairs.

    Args:
      modules: of PyTorch, by name: the names of the classes, and the arrays.
      map_: names of PyTorch's modules to Flax's.
      flax: the Flax model's arrays by name.
      given: the user's `arrays`.
      left_out: PyTorch's modules that are not compared.

    Raises:
      ValueError: `given` has a pattern that matches nothing, or a name that is not there.
    """
    sources: dict[str, Source] = {}
    left_over: list[str] = []
    wrong: dict[str, str] = {}
    unused: set[str | None] = set(given)

    def take(name: str, torch_name: str, array: np.ndarray, convert: Convert) -> None:
        converted, shape = np.asarray(convert(array)), flax[name].shape
        if not same_but_for_splits(converted.shape, shape):
            wrong[name] = f"{list(shape)}, that of the original's {torch_name} would be {list(converted.shape)}"
        else:
            sources[name] = Source(torch_name, lambda array: convert(array).reshape(shape))

    for module, (kinds, arrays) in modules.items():
        for leaf, array in arrays.items():
            name = joined(module, leaf)
            if leaf in TORCH_ONLY:
                continue
            pattern, value = _given(name, given)
            unused.discard(pattern)
            if module in left_out or (pattern is not None and value is None):
                continue
            if isinstance(value, dict):
                default = alternatives(kinds, leaf, array.ndim)[0]
                plain = default[0].convert if len(default) == 1 else np.asarray
                for target, convert in value.items():
                    if target not in flax:
                        told = suggest(target, flax)
                        raise ValueError(f"arrays maps {name!r} to {target!r}, which the Flax model has not: {told}")
                    take(target, name, array, convert or plain)
                continue
            parts = fitted(kinds, leaf, array, map_[module], flax) if module in map_ else None
            if parts is None:
                left_over.append(name)
                continue
            for part in parts:
                take(joined(map_[module], part.leaf), name, array, value or part.convert)
    if unused:
        names = [joined(module, leaf) for module, (_, arrays) in modules.items() for leaf in arrays]
        pattern = sorted(map(str, unused))[0]
        raise ValueError(f"arrays has {pattern!r}, which matches no array of the original: {suggest(pattern, names)}")
    missing = [name for name in flax if name not in sources and name not in wrong]
    by_shape = []
    for module, (_, arrays) in modules.items():
        # A network's own parameters, such as a class token: if one alone of that shape is left on each side.
        theirs: dict[tuple[int, ...], list[str]] = {array.shape: [] for array in arrays.values()}
        for leaf, array in arrays.items():
            if joined(module, leaf) in left_over and leaf not in ("weight", "bias") and module in map_:
                theirs[array.shape].append(joined(module, leaf))
        for shape, names in theirs.items():
            ours = [n for n in missing if n.rpartition(".")[0] == map_.get(module) and flax[n].shape == shape]
            if len(names) == 1 == len(ours):
                sources[ours[0]] = Source(names[0], np.asarray)
                left_over.remove(names[0])
                missing.remove(ours[0])
                by_shape.append(names[0])
    return Arrays(sources, left_over, missing, wrong, by_shape)


def _given(name: str, given: Mapping[str, Any]) -> tuple[str | None, Any]:
    """The user's pattern that is for an array of PyTorch, and a dict of names and functions, a function or None."""
    for pattern, value in given.items():
        if found := compiled("arrays", pattern).fullmatch(name):
            if value is None or callable(value):
                return pattern, value
            targets = {value: None} if isinstance(value, str) else value
            if not isinstance(targets, Mapping) or not all(
                isinstance(target, str) and (convert is None or callable(convert))
                for target, convert in targets.items()
            ):
                raise ValueError(
                    f"arrays must give {pattern!r} a name of the Flax model's, a function, a dict of names and "
                    f"functions, or None, got {shown(value)}."
                )
            return pattern, {found.expand(target): convert for target, convert in targets.items()}
    return None, None

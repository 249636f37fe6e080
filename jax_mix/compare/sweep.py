"""Methods that differ in their alpha alone: which they are, and how many of them are told of in few words."""

from __future__ import annotations

from collections.abc import Iterable

from jax_mix.compare.settings import Comparison
from jax_mix.training.methods import METHODS, as_flags, label

_MANY = 6  # methods: of more a table of columns cannot be read, nor a sentence that names each with its interval
_ENOUGH = 3  # alphas of a method: with fewer there is no curve to see


def family(method: str) -> str:
    """What a method is called but for its alpha; what has other arguments, or parts, is one of its own.

    >>> family("mixup:0.2"), family("mixup:0.2,per=batch")
    ('mixup', 'mixup:0.2,per=batch')
    """
    return as_flags(method)[0]


def many(comparison: Comparison) -> bool:
    """Whether the methods are so many that they are counted and drawn more closely, not told of one by one."""
    return len(comparison.methods) > _MANY


def alpha(comparison: Comparison, method: str) -> float | None:
    """That of a method, its own or the comparison's; None if it has none, or several."""
    name, own = as_flags(method)
    if own is not None or name not in METHODS:
        return own
    return METHODS[name]().alpha if comparison.alpha is None else comparison.alpha


def families(comparison: Comparison) -> dict[str, list[str]]:
    """The methods by family, as they were given; in each from the smallest alpha."""
    of: dict[str, list[str]] = {}
    for method in comparison.methods:
        of.setdefault(family(method), []).append(method)
    return {name: sorted(methods, key=lambda each: alpha(comparison, each) or 0.0) for name, methods in of.items()}


def sweeps(comparison: Comparison) -> dict[str, list[str]]:
    """The families that were run with three alphas or more."""
    return {
        name: methods
        for name, methods in families(comparison).items()
        if len({alpha(comparison, method) for method in methods}) >= _ENOUGH
    }


def told(methods: Iterable[str]) -> str:
    """Methods in few words.

    >>> told(["mixup:0.1", "mixup:0.2", "mixup", "cutmix:1"])
    'MixUp (alpha 0.1, 0.2), MixUp, CutMix, alpha 1'
    """
    groups: dict[tuple[str, bool], list[str]] = {}
    for method in methods:
        groups.setdefault((family(method), ":" in method), []).append(method)
    names = []
    for (name, _), of in groups.items():
        alphas = ", ".join(f"{each:g}" for each in sorted(as_flags(method)[1] or 0.0 for method in of))
        alphas = alphas if len(of) > 1 else ""
        names.append(f"{label(name)} (alpha {alphas})" if alphas else label(of[0]))
    return ", ".join(names)

"""Which module of the Flax model is which of the original's: by the user's rules, by name, by order and shapes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jax_mix._checks import shown, suggest
from jax_mix._paths import under
from jax_mix.parity.arrays import compiled, fits, joined


class Module(NamedTuple):
    """A module of the original."""

    kinds: frozenset[str]  # names of its class and of those that it inherits from
    arrays: Mapping[str, Any]  # its own, not its children's


class Map(NamedTuple):
    """The original's modules and the Flax model's in pairs."""

    modules: dict[str, str]  # names of the original's to names of Flax's
    by_order: list[str]  # those of the original's that order and shapes alone have paired
    left_out: set[str]  # those of the original's that the user has left out
    unsure: dict[str, list[str]]  # those of the original's that fit several of Flax's, and these


def propose(
    theirs: Mapping[str, Module], modules: Iterable[str], arrays: Mapping[str, Any], rules: Mapping[str, str | None]
) -> Map:
    """Pair the modules of both sides.

    Args:
      theirs: the original's modules by name, in the order of running.
      modules: the names of the Flax model's, in the order of running.
      arrays: the Flax model's arrays by name.
      rules: the user's `names`.

    Raises:
      ValueError: a rule matches nothing, or gives a name that is not there.
    """
    modules = list(dict.fromkeys(modules))
    attention = any("MultiheadAttention" in module.kinds for module in theirs.values())
    units = _units(arrays, attention)
    known = list(dict.fromkeys(["", *modules, *units]))
    units = {name: units[name] for name in known if name in units}
    renamed, ruled = _renamed(theirs, rules, known)
    found: dict[str, str] = {"": ""}
    left_out = {name for name, new in renamed.items() if new is None}
    rest = [name for name in theirs if name and name not in left_out]

    def free() -> set[str]:
        return set(known) - set(found.values())

    for name in rest:
        new = renamed[name]
        assert new is not None
        if new in free() and (name in ruled or not theirs[name].arrays or new in units):
            found[name] = new
    # Containers without arrays of their own wait: what is in them says more than a name that only looks alike.
    ours = _by_name(free() & set(units))
    for key, names in _by_name([n for n in rest if n not in found and theirs[n].arrays], renamed).items():
        if len(names) == 1 == len(ours.get(key, ())):
            found[names[0]] = ours[key][0]
    by_order, unsure = _by_order(theirs, [n for n in rest if n not in found and theirs[n].arrays], units, arrays, found)
    _containers(rest, modules, found, units, theirs)
    for name in rest:  # without arrays: what is called the same in a container that is known
        parent, _, last = name.rpartition(".")
        if name not in found and parent in found and joined(found[parent], last) in free():
            found[name] = joined(found[parent], last)
    return Map({name: found[name] for name in theirs if name in found}, by_order, left_out, unsure)


def _units(arrays: Mapping[str, Any], attention: bool) -> dict[str, set[str]]:
    """The Flax modules with arrays, and their names in it; those of query, key and value are the attention's."""
    units: dict[str, set[str]] = defaultdict(set)
    for name in arrays:
        module, _, leaf = name.rpartition(".")
        parent, _, last = module.rpartition(".")
        heads = all(joined(parent, part, "kernel") in arrays for part in ("query", "key", "value"))
        if attention and heads and last in ("query", "key", "value"):
            units[parent].add(f"{last}.{leaf}")
        else:
            units[module].add(leaf)
    return dict(units)


def _renamed(
    theirs: Mapping[str, Module], rules: Mapping[str, str | None], known: list[str]
) -> tuple[dict[str, str | None], set[str]]:
    """Every module's name by the rules, None if it is left out; and those that a rule has changed."""
    attentions = {f"{name}.out_proj": f"{name}.out" for name in theirs if "MultiheadAttention" in theirs[name].kinds}
    renamed: dict[str, str | None] = {name: attentions.get(name, name) for name in theirs}
    used, ends = set(), set()  # rules, and modules whose own name is by a rule, not that of what they are in
    for pattern, new in rules.items():
        if not isinstance(new, str | None):
            raise ValueError(f"names must give {pattern!r} a name of the Flax model's or None, got {shown(new)}.")
        whole = compiled("names", pattern, before=r"(?<![^.])", after=r"(?![^.])")
        for name, now in renamed.items():
            if now and (found := list(whole.finditer(now))):
                used.add(pattern)
                ends |= {name} if found[-1].end() == len(now) else set()
                renamed[name] = None if new is None else whole.sub(new, now).strip(".")
    for pattern in rules:
        if pattern not in used:
            told = suggest(pattern, [name for name in theirs if name])
            raise ValueError(f"names has {pattern!r}, which matches no module of the original: {told}")
    for name in theirs:
        target = renamed[name]
        with_arrays = any(theirs[other].arrays for other in theirs if other == name or under(other, name))
        if target and name in ends and with_arrays and not any(o == target or under(o, target) for o in known):
            told = suggest(target, known[1:])
            raise ValueError(f"names maps {name!r} to {target!r}, which the Flax model has not: {told}")
    ruled = {name for name, new in renamed.items() if new not in (None, attentions.get(name, name))}
    return renamed, ruled


def _by_name(names: Iterable[str], renamed: Mapping[str, str | None] | None = None) -> dict[str, list[str]]:
    """Names by what is left of them without what Flax and PyTorch write in their own ways."""
    grouped = defaultdict(list)
    for name in names:
        plain = (renamed[name] if renamed else name) or ""
        parts = [re.sub(r"[^a-z0-9]", "", part.lower()) for part in plain.split(".")]
        grouped[".".join(part for part in parts if part != "layers")].append(name)
    return grouped


def _by_order(
    theirs: Mapping[str, Module],
    names: list[str],
    units: Mapping[str, set[str]],
    arrays: Mapping[str, Any],
    found: dict[str, str],
) -> tuple[list[str], dict[str, list[str]]]:
    """Pair what fits by its shapes: as many on one side as on the other, in the order of running."""
    taken = set(found.values())
    left = [unit for unit in units if unit not in taken]
    fitting = {
        name: tuple(u for u in left if fits(theirs[name].kinds, theirs[name].arrays, u, units[u], arrays))
        for name in names
    }
    by_order, unsure = [], {}
    for others in dict.fromkeys(fitting.values()):
        alike = [name for name in names if fitting[name] == others]
        if others and len(alike) == len(others):
            found.update(zip(alike, others, strict=True))
            by_order += alike
        elif others:
            unsure.update({name: list(others) for name in alike})
    return by_order, unsure


def _containers(
    rest: list[str],
    modules: list[str],
    found: dict[str, str],
    units: Mapping[str, set[str]],
    theirs: Mapping[str, Module],
) -> None:
    """Pair the containers of the same modules with arrays, from the outer to the inner one."""
    inside = {name: other for name, other in found.items() if name and theirs[name].arrays}

    def grouped(names: Iterable[str], leaves: Mapping[str, str]) -> dict[frozenset[str], list[str]]:
        groups = defaultdict(list)
        for name in sorted(names, key=len):
            if within := frozenset(leaves[leaf] for leaf in leaves if under(leaf, name)):
                groups[within].append(name)
        return groups

    taken = set(found.values())
    free = [name for name in modules if name and name not in taken and name not in units]
    ours = grouped(free, {other: other for other in inside.values()})
    for within, names in grouped([name for name in rest if name not in found], inside).items():
        others = ours.get(within, [])
        if len(names) == len(others):
            found.update(zip(names, others, strict=True))

"""Paths of modules, such as blocks.dense, and names of layers.

A layer's name is the path with a scanned block's iteration, blocks.2.dense, and may end in a selector of some of the
arrays that it puts out, blocks.2.dense[0].
"""

from __future__ import annotations

import re
from collections.abc import Collection


def under(path: str, ancestor: str) -> bool:
    return path.startswith(ancestor + ".")


def with_iteration(path: str, stack: str, iteration: int) -> str:
    return f"{stack}.{iteration}{path[len(stack) :]}"


def split_selector(name: str) -> tuple[str, str | None]:
    """A layer's name and its selector: encoder.0[hidden] is (encoder.0, hidden)."""
    found = re.fullmatch(r"(.+)\[([^\[\]]+)\]", name)
    return (found[1], found[2]) if found else (name, None)


def wanted_paths(names: Collection[str]) -> dict[str, list[tuple[int | None, str]]]:
    """Module path -> (iteration, name): a number in a name is part of the path or the iteration of a stacked block."""
    wanted: dict[str, list[tuple[int | None, str]]] = {}
    for name in names:
        plain, _ = split_selector(name)
        parts = plain.split(".")
        wanted.setdefault(plain, []).append((None, name))
        for i, part in enumerate(parts):
            if part.isdecimal() and i:
                wanted.setdefault(".".join(parts[:i] + parts[i + 1 :]), []).append((int(part), name))
    return wanted


def glob(pattern: str) -> re.Pattern[str]:
    """`*` is any one path segment or a part of it, `**` any number of segments, `?` one character of a segment."""
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    return re.compile("".join({"**": ".*", "*": r"[^.]*", "?": r"[^.]"}.get(part, re.escape(part)) for part in parts))

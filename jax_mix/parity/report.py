"""What a comparison has found: rows, a table of them, and where the two sides first go apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One comparison."""

    rung: str
    what: str  # by the Flax model's name
    error: float  # the largest difference, in units of the largest magnitude; inf where nothing can be compared
    ok: bool
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `jax_mix.parity.compare` has found. `print` shows it; it is true if all is equal.

    Attributes:
      rows: every comparison, in the order of the ladder.
      apart: where the two first go apart, in a sentence or some; "" if they nowhere do.
      layer: the first Flax layer that differs, by name; "" if none does.
      notes: what else is to be known.
      names: the modules that are in pairs, the original's names to the Flax model's.
      weights: the original's arrays as the Flax model has them, by its names, float64.
      tolerance: what an error may be.
    """

    rows: tuple[Row, ...]
    apart: str
    layer: str
    notes: tuple[str, ...]
    names: dict[str, str]
    weights: dict[str, np.ndarray] = dataclasses.field(repr=False)
    tolerance: float

    def __bool__(self) -> bool:
        return all(row.ok for row in self.rows)

    def check(self) -> None:
        """Do nothing if all is equal.

        Raises:
          AssertionError: something differs; the message is the report.
        """
        if not self:
            raise AssertionError(f"\n{self}")

    @property
    def table(self) -> str:
        """A line for each rung: how much was compared, and the worst of it."""
        lines = [("rung", "compared", "largest error", "at", "equal")]
        for rung in dict.fromkeys(row.rung for row in self.rows):
            rows = [row for row in self.rows if row.rung == rung]
            wrong = sum(not row.ok for row in rows)
            worst = max(rows, key=lambda row: row.error)
            error = "" if math.isnan(worst.error) else _number(worst.error)
            at = worst.what if worst.error > 0 else ""
            lines.append((rung, str(len(rows)), error, at, f"NO: {wrong} of them" if wrong else "yes"))
        return _columns(lines)

    @property
    def details(self) -> str:
        """A line for each comparison."""
        lines = [("rung", "what", "error", "equal", "")]
        lines += [(r.rung, r.what, _number(r.error), "yes" if r.ok else "NO", r.note) for r in self.rows]
        return _columns(lines)

    def __str__(self) -> str:
        said = self.apart or "All is equal."
        told = f"Errors are in units of the largest magnitude of what is compared; up to {self.tolerance:.0e} is equal."
        return "\n".join([said, "", self.table, "", told, *self.notes])


def _number(error: float) -> str:
    return "0" if error == 0 else f"{error:.1e}" if math.isfinite(error) else "-"


def _columns(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    rows.insert(1, "  ".join("-" * width for width in widths if width))
    return "\n".join(rows)

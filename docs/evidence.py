"""Write the tables in docs/compare.md, from the committed cells.csv of each comparison in docs/evidence/.

python -m docs.evidence
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from docs import marks
from jax_mix.compare.settings import Comparison
from jax_mix.compare.summary import Found, baseline, find
from jax_mix.training.methods import label

FOLDER = Path(__file__).parent / "evidence"
PAGE = Path(__file__).parent / "compare.md"


_MANY = 6  # methods, of more than which a table has a row for each, and these columns
_COLUMNS = ("last_error", "last_nll", "last_ece")


def table(folder: Path) -> str:
    """Each number of a comparison without mixing, and each method's difference from it."""
    with (folder / "cells.csv").open(newline="", encoding="utf-8") as file:
        rows = [{name: number(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    settings = json.loads((folder / "config.json").read_text())
    comparison = Comparison(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    base = baseline(comparison)
    methods = [base, *(method for method in comparison.methods if method != base)]
    lines = [{found.method: found for found in line} for line in find(comparison, rows)]
    if len(methods) > _MANY:
        lines = [of for of in lines if of[base].claim.key in _COLUMNS and of[base].claim.noise == 0]
    cells = [
        ["lower is better", *map(label, methods)],
        *([title(of[base]), value(of[base]), *(difference(of[method]) for method in methods[1:])] for of in lines),
    ]
    if len(methods) > _MANY:
        cells = list(map(list, zip(*cells, strict=True)))
    head, *body = (f"| {' | '.join(line)} |" for line in cells)
    return "\n".join([head, "|" + "---|" * len(cells[0]), *body])


def number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def title(found: Found) -> str:
    return f"{found.claim.title}, {found.claim.unit}"


def value(found: Found) -> str:
    scale, digits = scale_and_digits(found)
    return f"{scale * found.mean:.{digits}f} ± {scale * found.std:.{digits}f}"


def difference(found: Found) -> str:
    if found.difference is None:
        return "failed"
    scale, digits = scale_and_digits(found)
    mean, low, high = (f"{scale * each:+.{digits}f}" for each in found.difference[:3])
    verdict = found.difference.verdict
    return f"{mean} ({low} to {high}) {f'**{verdict}**' if verdict != 'undecided' else verdict}"


def scale_and_digits(found: Found) -> tuple[float, int]:
    return found.claim.scale, 2 if found.claim.scale == 100 else 3


def with_tables(page: str) -> str:
    """The page with each table between its two marks as the results have it."""
    return marks.with_tables(page, "docs.evidence", lambda name: table(FOLDER / name))


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))

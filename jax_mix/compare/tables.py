"""The tables of a report's numbers: of each method, of each alpha, of each claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jax_mix.compare.settings import Comparison
from jax_mix.compare.summary import Found, baseline
from jax_mix.compare.sweep import alpha, many, sweeps
from jax_mix.training.methods import label


def means(comparison: Comparison, lines: Sequence[Sequence[Found]]) -> dict[str, Any]:
    """The mean and deviation of each method in each of `lines`."""
    rows = [
        {"name": label(method), "values": [_mean_and_std(line[i]) for line in lines]}
        for i, method in enumerate(comparison.methods)
    ]
    return {"columns": [_title(line[0]) for line in lines], "rows": rows}


def swept(found: Sequence[Sequence[Found]]) -> list[Sequence[Found]]:
    """What is shown against alpha."""
    return [line_of(found, key) for key in ("last_error", "last_nll", "last_ece")]


def sweep(comparison: Comparison, found: Sequence[Sequence[Found]]) -> dict[str, Any]:
    """What a sweep of alpha found: a row for each method and number, a column for each alpha; and the best of each."""
    families = sweeps(comparison)
    alphas = sorted({alpha(comparison, method) or 0.0 for methods in families.values() for method in methods})
    rows, best = [], []
    for name, methods in families.items():
        for line in swept(found):
            of = {alpha(comparison, each.method): each for each in line if each.method in methods and each.values}
            low = min((each.mean for each in of.values()), default=math.nan)
            cells = [
                {
                    "text": _mean(of[a]),
                    "verdict": d.verdict if (d := of[a].difference) else "",
                    "best": of[a].mean == low,
                }
                if a in of
                else {"text": "", "verdict": "", "best": False}
                for a in alphas
            ]
            rows.append({"name": f"{label(name)}: {_title(line[0])}", "cells": cells})
        error = [each for each in found[0] if each.method in methods and each.values]
        if error:
            lowest = min(error, key=lambda each: each.mean)
            best.append(f"{label(name)} at alpha {alpha(comparison, lowest.method):g} ({lowest.mean:.2%})")
    return {"alphas": [f"{each:g}" for each in alphas], "rows": rows, "best": best}


def _title(found: Found) -> str:
    return f"{found.claim.title}, {found.claim.unit}"


def _mean(found: Found) -> str:
    return f"{found.claim.scale * found.mean:.{_digits(found)}f}"


def _mean_and_std(found: Found) -> str:
    if not found.values:
        return "failed"
    std = f" ±\N{NO-BREAK SPACE}{found.claim.scale * found.std:.{_digits(found)}f}"
    return _mean(found) + ("" if math.isnan(found.std) else std)


def _digits(found: Found) -> int:
    return 2 if found.claim.scale == 100 else 3


def claims(comparison: Comparison, found: Sequence[Sequence[Found]]) -> dict[str, Any]:
    """Each method's differences from the baseline, a row for each claim, and how many of them are better or worse."""
    others = [method for method in comparison.methods if method != baseline(comparison)]
    rows = []
    counts = {method: dict.fromkeys(("better", "worse", "undecided"), 0) for method in others}
    for line in found:
        cells = []
        for each in line:
            if each.method not in others:
                continue
            if each.difference is None:
                cells.append({"verdict": "", "text": "failed", "interval": ""})
                continue
            scale, digits = each.claim.scale, _digits(each)
            mean, low, high = (f"{scale * value:+.{digits}f}" for value in each.difference[:3])
            counts[each.method][each.difference.verdict] += 1
            cells.append({"verdict": each.difference.verdict, "text": mean, "interval": f"{low} to {high}"})
        rows.append({"name": line[0].claim.title, "cells": cells})
    return {
        "columns": [label(method) for method in others],
        "rows": rows,
        "counts": {label(method): count for method, count in counts.items()},
        "turned": _turned(others, rows) if many(comparison) else [],
    }


def _turned(methods: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table of claims as several, each of a few claims and with a row for each method."""
    parts = [rows[i : i + _CLAIMS_BESIDE] for i in range(0, len(rows), _CLAIMS_BESIDE)]
    return [
        {
            "columns": [row["name"] for row in part],
            "rows": [{"name": label(m), "cells": [row["cells"][i] for row in part]} for i, m in enumerate(methods)],
        }
        for part in parts
    ]


_CLAIMS_BESIDE = 3  # columns with intervals that fit on a phone


def line_of(found: Sequence[Sequence[Found]], key: str, noise: float = 0.0) -> Sequence[Found]:
    """What was found of one claim, by its column and share of wrong labels."""
    return next(line for line in found if (line[0].claim.key, line[0].claim.noise) == (key, noise))

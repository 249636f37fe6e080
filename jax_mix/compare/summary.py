"""What was found: numbers of each run, differences from the baseline seed by seed, and what they say of the claims."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

from jax_mix.compare.settings import Comparison

Record = Mapping[str, Any]


class Interval(NamedTuple):
    """The mean of differences over seeds, and where the true one lies: from `low` to `high`."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """ "better" (lower) or "worse" (higher) if all of the interval is, else "undecided"."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "undecided"

    @property
    def change(self) -> str:
        """The same in words that do not judge."""
        return {"better": "less", "worse": "more", "undecided": "undecided"}[self.verdict]


def interval(differences: Sequence[float], *, among: int = 1, level: float = 0.95) -> Interval:
    """Student's confidence interval of a mean.

    >>> [round(value, 2) for value in interval([-1.0, -2.0, -3.0])]
    [-2.0, -4.48, 0.48, 3]

    Args:
      differences: one for each seed, at least one; of a single one nothing is known.
      among: how many intervals are to be right together, at that level (Bonferroni's correction).
      level: how likely they are, in (0, 1).
    """
    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return Interval(mean, -math.inf, math.inf, n)
    half = float(stats.t.ppf(1 - (1 - level) / among / 2, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


class Claim(NamedTuple):
    """A number by which methods are compared, lower being better, and what the papers say of it."""

    key: str  # its column in cells.csv
    title: str
    noise: float = 0.0  # of the runs it is about
    scale: float = 100.0  # to the unit it is shown in
    unit: str = "%"


def claims(comparison: Comparison) -> list[Claim]:
    """Those that a comparison tests."""
    wrong = [
        Claim("last_error", f"Error after {level:.0%} random labels", level)
        for level in sorted(comparison.noise_levels)
    ]
    attacks = [
        Claim(f"{attack}_{radius:g}", f"Error under {attack.upper()}, radius {radius:g}")
        for attack in ("fgsm", "pgd")
        for radius in sorted(comparison.radii)
    ]
    return [
        Claim("last_error", "Test error"),
        Claim("best_error", "Test error, best epoch"),
        Claim("last_nll", "NLL", scale=1, unit="nats"),
        Claim("last_ece", "Calibration error (ECE)"),
        *wrong,
        *attacks,
        Claim("corrupted", "Error on corrupted images, mean"),
    ]


def row(record: Record) -> dict[str, Any]:
    """A run as a line of cells.csv."""
    line: dict[str, Any] = {name: record[name] for name in ("method", "noise", "seed", "status")}
    line["reason"] = record.get("reason", "")
    line["seconds"] = record.get("seconds", "")
    if record["status"] != "finished":
        return line
    history = record["history"]
    best = min(history, key=lambda epoch: 1 - epoch["accuracy"])  # the first of them
    for name, epoch in {"last": history[-1], "best": best}.items():
        line |= {
            f"{name}_epoch": epoch["epoch"],
            f"{name}_error": 1 - epoch["accuracy"],
            f"{name}_nll": epoch["nll"],
            f"{name}_ece": epoch["ece"],
        }
    if training := record.get("training"):  # runs made before it was measured have none
        line |= {f"train_{name}": value for name, value in training.items() if value is not None}
    if adversarial := record.get("adversarial"):
        for attack in ("fgsm", "pgd"):
            pairs = zip(adversarial["radius"], adversarial[attack], strict=True)
            line |= {f"{attack}_{radius:g}": error for radius, error in pairs}
    if corrupted := record.get("corrupted"):
        errors = {
            f"{name}_{strength:g}": error
            for name, found in corrupted.items()
            for strength, error in zip(found["strength"], found["error"], strict=True)
        }
        line |= {"corrupted": statistics.fmean(errors.values()), **errors}
    return line


class Found(NamedTuple):
    """A claim of one method: its values by seed, and the differences from the baseline's of the same seeds."""

    claim: Claim
    method: str
    values: dict[int, float]
    difference: Interval | None  # of the baseline itself, and where no seed has both: None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def std(self) -> float:
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else math.nan


def baseline(comparison: Comparison) -> str:
    """What the methods are compared with: "none", or the first if that is not among them."""
    return "none" if "none" in comparison.methods else comparison.methods[0]


def find(
    comparison: Comparison, rows: Sequence[Mapping[str, Any]], asked: Sequence[Claim] | None = None
) -> list[list[Found]]:
    """For each claim, those `asked` or all, what was found of each method, in the units of `rows`."""

    def values(claim: Claim, method: str) -> dict[int, float]:
        of_runs = [r for r in rows if r["method"] == method and r["noise"] == claim.noise]
        return {r["seed"]: r[claim.key] for r in of_runs if claim.key in r}

    found = []
    base = baseline(comparison)
    for claim in claims(comparison) if asked is None else asked:
        reference = values(claim, base)
        line = []
        for method in comparison.methods:
            of_method = values(claim, method)
            differences = [of_method[seed] - reference[seed] for seed in of_method if seed in reference]
            difference = None
            if method != base and differences:
                difference = interval(differences, among=len(comparison.methods) - 1)
            line.append(Found(claim, method, of_method, difference))
        found.append(line)
    return found

"""The report: report.html, which needs no other file, and its numbers: cells.csv, differences.csv, report.json."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import PIL.Image

from jax_mix.compare import papers, regime, tables
from jax_mix.compare.figures import DPI, Figures, Picture
from jax_mix.compare.settings import Comparison
from jax_mix.compare.summary import Found, baseline, find, interval, row
from jax_mix.compare.sweep import families, many, sweeps, told
from jax_mix.training import data
from jax_mix.training.files import write_atomically, write_json
from jax_mix.training.methods import label


def write(
    folder: Path,
    comparison: Comparison,
    dataset: data.Dataset,
    records: Sequence[Mapping[str, Any]],
    plane: Mapping[str, Any],
    mixes: Mapping[str, Any],
    command: str,
) -> None:
    """Write the report to `folder`.

    Args:
      folder: of the comparison.
      comparison: what was compared.
      dataset: on what.
      records: of all runs.
      plane: what `planar.compare` found.
      mixes: a draw of each method that mixes, for a batch of `dataset`'s first training images.
      command: that repeats it.
    """
    rows = [row(record) for record in records]
    found = find(comparison, rows)
    _write_csv(folder / "cells.csv", rows)
    _write_csv(folder / "differences.csv", _differences(comparison, found))
    facts = _facts(comparison, dataset, records)
    write_json(
        folder / "report.json",
        {
            "command": command,
            "environment": facts,
            "config": dataclasses.asdict(comparison),
            "differences": _differences(comparison, found),
            "plane": {p: {m: {k: v[k] for k in ("error", "unsure")} for m, v in of.items()} for p, of in plane.items()},
            "runs": records,
        },
    )
    text = _render(folder, comparison, dataset, records, rows, found, plane, mixes, command, facts)
    with write_atomically(folder / "report.html") as path:
        path.write_text(text, encoding="utf-8")


def _render(
    folder: Path,
    comparison: Comparison,
    dataset: data.Dataset,
    records: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    found: list[list[Found]],
    plane: Mapping[str, Any],
    mixes: Mapping[str, Any],
    command: str,
    facts: Mapping[str, Any],
) -> str:
    figures = Figures(folder / "figures", comparison, records)

    def picture(drawn: Picture) -> dict[str, Any]:
        return _embed(folder / "figures", drawn)

    error = found[0]
    drawn = {"boundaries": figures.boundaries(plane)}
    if sweeps(comparison) and any(each.values for each in error):
        drawn["sweep"] = figures.sweep(tables.swept(found))
    if any(each.difference for each in error):
        drawn["differences"] = figures.differences(error)
    if any(each.values for each in error):
        for draw in (figures.reliability, figures.adversarial, figures.corrupted, figures.learning_curves):
            drawn[draw.__name__] = draw()
    if comparison.noise_levels and any(record["status"] == "finished" for record in records):
        drawn["label_noise"] = figures.label_noise()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(
        dataset=dataset.name,
        answer=answer(comparison, error),
        failures=_failures(records),
        pictures={name: picture(each) for name, each in drawn.items()},
        regime=regime.regime(comparison, rows, len(dataset.train.label)),
        cautions=regime.cautions(comparison, error, records),
        by_heart=regime.by_heart(comparison, rows),
        batches=[picture(figures.mixed_batch(each, dataset, mixes[each])) for each in _shown(comparison, mixes)],
        base=label(baseline(comparison)),
        others=len(comparison.methods) - 1,
        images=len(dataset.test.label),
        attacked=min(comparison.attacked, len(dataset.test.label)),
        seeds=comparison.seeds,
        overview=tables.means(comparison, found[:4]),
        fit=tables.means(comparison, regime.fit(comparison, rows)),
        sweep=tables.sweep(comparison, found),
        held=papers.held(found),
        claims=tables.claims(comparison, found),
        ece=_verdicts(tables.line_of(found, "last_ece")),
        nll=_verdicts(tables.line_of(found, "last_nll")),
        error=_verdicts(error),
        noise={
            level: _verdicts(tables.line_of(found, "last_error", level)) for level in sorted(comparison.noise_levels)
        },
        plane=_plane(plane),
        papers=papers.TABLES,
        order=_order(error),
        command=command,
        facts=facts,
        config=json.dumps(comparison.flags, indent=2),
    )


def answer(comparison: Comparison, error: Sequence[Found]) -> dict[str, str]:
    """The first two sentences: which method changes the test error, by how much, how certain that is."""
    base = next(each for each in error if each.method == baseline(comparison))
    others = [each for each in error if each.difference]
    if not others:
        return {"short": "There is no answer.", "long": "No seed has both a method and what it is compared with."}
    n = min(each.difference.n for each in others if each.difference)
    if n < 2:
        told = "; ".join(f"{label(f.method)} {_points(f)}" for f in others)
        return {
            "short": "One seed cannot tell.",
            "long": f"Differences in test error from {label(base.method)}: {told}. Give more --seeds.",
        }
    others.sort(key=lambda each: each.difference.mean if each.difference else 0.0)
    verdicts = {
        word: [each for each in others if each.difference and each.difference.verdict == word] for word in _WORDS
    }
    from_base = f"from the {base.mean:.2%} of {label(base.method)}"
    if better := verdicts["better"]:
        first = better[0]
        short = f"Yes: {label(first.method)} lowers test error to {first.mean:.2%}, {from_base}."
        long = f"The difference is {_points(first)}, with {n} paired seeds. "
        rest = [each for each in others if each is not first]
    elif len(verdicts["worse"]) == len(others):
        short = f"No: every method raises test error, {from_base}."
        long, rest = f"Over {n} paired seeds: ", others
    else:
        short = "Not that these runs could show."
        long = f"No method lowers test error {from_base} by more than chance may, with {n} paired seeds. "
        rest = others
    if many(comparison):
        counts = {word: sum(f.difference.verdict == word for f in rest if f.difference) for word in _WORDS}
        words = {"better": "lower it", "worse": "raise it", "undecided": "are undecided"}
        ends = [f"{n} {words[word] if n > 1 else _WORDS[word]}" for word, n in counts.items() if n]
        return {"short": short, "long": f"{long}Of the {'others' if better else 'methods'} {', '.join(ends)}."}
    ends = [f"{label(f.method)} {_WORDS[f.difference.verdict]} ({_points(f)})" for f in rest if f.difference]
    return {"short": short, "long": long + ("; ".join(ends) + "." if ends else "")}


_WORDS = {"better": "lowers it", "worse": "raises it", "undecided": "is undecided"}


def _points(found: Found) -> str:
    assert found.difference is not None
    mean, low, high = (100 * value for value in found.difference[:3])
    between = f", 95% interval {low:+.2f} to {high:+.2f}" if math.isfinite(low) else ""
    return f"{mean:+.2f} points{between}"


def _shown(comparison: Comparison, mixes: Mapping[str, Any]) -> list[str]:
    """The methods whose mixed images are shown; where they are many, of a family that of the largest alpha alone."""
    if not many(comparison):
        return list(mixes)
    of_families = ([method for method in methods if method in mixes] for methods in families(comparison).values())
    return [methods[-1] for methods in of_families if methods]


def _verdicts(line: Sequence[Found]) -> str:
    """A line of claims in words."""
    words = {"better": "lowered by", "worse": "raised by", "undecided": "undecided for"}
    parts = []
    for verdict, word in words.items():
        methods = [f.method for f in line if f.difference and f.difference.verdict == verdict]
        if methods:
            parts.append(f"{word} {told(methods)}")
    return "; ".join(parts) or "not known"


def _plane(plane: Mapping[str, Any]) -> list[list[str]]:
    """How much of the plane is unsure, and the error, on the two problems: a row for each method."""
    rows = []
    for problem, of in plane.items():
        for method, values in of.items():
            line = [problem, label(method)]
            for key in ("unsure", "error"):
                text = f"{statistics.fmean(values[key]):.1%}"
                if method != "none":
                    change = interval([a - b for a, b in zip(values[key], of["none"][key], strict=True)], among=2)
                    text += f", {100 * change.mean:+.1f} points ({change.change})"
                line.append(text)
            rows.append(line)
    return rows


def _order(error: Sequence[Found]) -> dict[str, Any]:
    """The papers' order of methods by test error, and the one that was found."""
    here, agrees = papers.order(error)
    return {
        "theirs": [label(method) for method in papers.ORDER],
        "ours": [f"{label(each.method)} {each.mean:.2%}" for each in here],
        "best": len(here) < sum(bool(each.values) for each in error),
        "agrees": agrees,
    }


def _failures(records: Sequence[Mapping[str, Any]]) -> list[str]:
    told: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for record in records:
        if record["status"] != "finished":
            told.setdefault((record["method"], record["noise"]), []).append(record)
    return [
        f"{label(method)}{f' with {noise:.0%} random labels' if noise else ''} failed in {len(failed)} of "
        f"{sum((r['method'], r['noise']) == (method, noise) for r in records)} runs: {failed[0]['reason']}"
        for (method, noise), failed in told.items()
    ]


def _differences(comparison: Comparison, found: Sequence[Sequence[Found]]) -> list[dict[str, Any]]:
    """differences.csv, in the units of cells.csv."""
    return [
        {
            "claim": each.claim.title,
            "column": each.claim.key,
            "noise": each.claim.noise,
            "method": each.method,
            "against": baseline(comparison),
            "mean": each.difference.mean,
            "low": each.difference.low if math.isfinite(each.difference.low) else None,
            "high": each.difference.high if math.isfinite(each.difference.high) else None,
            "n": each.difference.n,
            "verdict": each.difference.verdict,
        }
        for line in found
        for each in line
        if each.difference
    ]


def _facts(comparison: Comparison, dataset: data.Dataset, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    runs: dict[str, int] = {}
    for record in records:
        where = record["environment"]
        versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
        on = f"{where['device']}; {where['cores']} cores; Python {where['python']}, {versions}"
        runs[on] = runs.get(on, 0) + 1
    seconds = [record["seconds"] for record in records]
    return {
        "data": str(dataset),
        "runs": f"{len(records)}: {len(comparison.methods)} methods, {comparison.seeds} seeds, "
        f"{1 + len(comparison.noise_levels)} noise levels",
        "hardware and versions": "; and ".join(f"{count} runs on {on}" for on, count in runs.items()),
        "seconds of a run": f"{statistics.fmean(seconds):.1f} on average, {sum(seconds):,.0f} of all",
    }


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _embed(folder: Path, drawn: Picture) -> dict[str, Any]:
    """A figure inside the page, in both themes."""
    light, dark = folder / f"{drawn.name}.png", folder / f"{drawn.name}.dark.png"
    with PIL.Image.open(light) as image:
        width, height = (round(side * 96 / DPI) for side in image.size)  # on screens an inch is 96
    urls = {
        name: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        for name, path in {"light": light, "dark": dark}.items()
    }
    return {"alt": drawn.alt, "width": width, "height": height, **urls}

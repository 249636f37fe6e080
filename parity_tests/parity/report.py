"""Run the parity ladder and write down how far the two sides were apart.

    python -m parity_tests.parity.report         # what pytest runs by default: the ladder
    python -m parity_tests.parity.report runs    # whole runs, 20 of each side and method: half an hour

Writes `benchmarks/results/parity*.DEVICE.json`, and in docs the tables in parity.md and divergence.png.
"""

from __future__ import annotations

import collections
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from benchmarks.measuring import save
from jax_mix.training import data
from parity_tests import evidence
from parity_tests.parity import whole_runs
from parity_tests.tolerances import TOLERANCES

FOLDER = Path(__file__).parent
# What is broken on purpose; what `runs` does; and miniatures of what a GPU computes.
_NO_RUNG = ("test_mutations", "test_whole_runs", "test_accelerator")
PAGE = FOLDER.parents[1] / "docs" / "parity.md"
METHODS = {"manifold": "Manifold Mixup", "cutmix": "CutMix", "mixup": "MixUp", "none": "none"}


def rows() -> list[dict[str, object]]:
    """One for each test file, method, tolerance and dtype: how many comparisons, and the worst."""
    groups = collections.defaultdict(list)
    for c in evidence.comparisons:
        groups[rung(c), method(c), c.tolerance, c.dtype].append(c)
    return [
        {
            "rung": key[0],
            "method": key[1],
            "compared": key[2],
            "dtype": key[3],
            "n": len(group),
            "largest_absolute": max(c.largest_absolute for c in group),
            "largest_relative": max(
                (c.largest_relative for c in group if c.largest_relative is not None), default=None
            ),
            "largest_ulps": max((c.ulps for c in group if c.ulps is not None), default=None),
            "tolerance": tolerance(key[2]),
        }
        for key, group in sorted(groups.items())
    ]


def rung(c: evidence.Comparison) -> str:
    return c.test.split("::")[0].rpartition("/")[2].removeprefix("test_").removesuffix(".py").replace("_", " ")


def method(c: evidence.Comparison) -> str:
    """Named in the test's parameters, its own name or its file's, the nearest first."""
    file, _, rest = c.test.lower().partition("::")
    name, _, parameters = rest.partition("[")
    for where in (parameters, name, file):
        for word, title in METHODS.items():
            if word in where:
                return title
    return "all"


def tolerance(name: str) -> str:
    if name not in TOLERANCES:
        return name  # "1 ulp"
    rtol, atol = TOLERANCES[name]
    parts = [f"{rtol:.0e} relative"] * bool(rtol) + [f"{atol:.0e}"] * bool(atol)
    return " + ".join(parts) or "equal"


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| rung | method | compared | dtype | n | largest absolute | largest relative | allowed |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        largest = (row["largest_absolute"], row["largest_relative"])
        numbers = " | ".join("" if value is None else f"{value:.1e}".replace("0.0e+00", "0") for value in largest)
        first = " | ".join(str(row[name]) for name in ("rung", "method", "compared", "dtype", "n"))
        lines.append(f"| {first} | {numbers} | {row['tolerance']} |")
    return "\n".join(lines)


def plot_divergence(divergence: dict[str, dict[str, list[float]]], path: Path) -> None:
    """For each method, how far the losses of two float32 trainings are apart at each step."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    all_axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, (mix, curves) in zip(all_axes.flat, divergence.items(), strict=True):
        for (name, apart), style in zip(curves.items(), ("-", ":", "--"), strict=True):
            axes.semilogy([max(value, 1e-9) for value in apart], style, label=f"{name} from PyTorch", linewidth=1.2)
        axes.set_title(METHODS[mix])
        axes.grid(alpha=0.3)
    all_axes[0, 0].legend(fontsize="small")
    figure.supxlabel("step")
    figure.supylabel("relative difference of the losses, float32")
    figure.savefig(path, dpi=120)


def runs_table(runs: dict[str, Any]) -> str:
    lines = ["| method | measure | jax_mix | fastai | difference, 90% interval | p |", "|" + "---|" * 6]
    for mix, record in runs.items():
        for measure, d in record["ours less fastai's, 90% interval"].items():
            sides = [[run[measure] for run in record[side]] for side in ("ours", "fastai")]
            means = " | ".join(f"{statistics.mean(side):.4f} ± {statistics.stdev(side):.4f}" for side in sides)
            interval = f"{d['mean']:+.4f} ({d['low']:+.4f} to {d['high']:+.4f})"
            lines.append(f"| {METHODS[mix]} | {measure} | {means} | {interval} | {d['p']:.2f} |")
    return "\n".join(lines)


def write_table(name: str, table: str) -> None:
    """Put it between its two marks in docs/parity.md."""
    start, end = f"<!-- {name}: written by parity_tests.parity.report -->", f"<!-- end of {name} -->"
    before, _, rest = PAGE.read_text().partition(start)
    PAGE.write_text(f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}")


def ladder() -> None:
    found = rows()
    save("parity", {"what": "python -m parity_tests.parity.report", "ladder": found})
    save("parity_trajectories", {"divergence": evidence.results["divergence"]})
    write_table("ladder", table(found))
    plot_divergence(evidence.results["divergence"], PAGE.with_name("divergence.png"))


def runs() -> None:
    with tempfile.TemporaryDirectory() as folder:
        digits = data.load("digits", folder)
        found = {mix: whole_runs.compare(mix, digits) for mix in whole_runs.FASTAI_METHODS}
    write_runs(found)


def write_runs(found: dict[str, Any]) -> None:
    what = f"python -m parity_tests.parity.report runs: {whole_runs.SEEDS} seeds, {whole_runs.EPOCHS} epochs"
    save("parity_whole_runs", {"what": what, "runs": found})
    write_table("runs", runs_table(found))


def main() -> int:
    if sys.argv[1:] == ["runs"]:
        runs()
        return 0
    tests = sorted(str(path) for path in FOLDER.glob("test_*.py") if path.stem not in _NO_RUNG)
    # Unlike the pytest command, this process has imported what pytest's plugins would like to rewrite.
    failed = pytest.main(
        ["-n", "0", "-m", "not long or ladder", "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]
    )
    if not failed:
        ladder()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

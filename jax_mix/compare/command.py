"""The command: reads flags, makes the runs that are missing, writes the report."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from tqdm.auto import tqdm

import jax_mix
from jax_mix.compare import page, planar
from jax_mix.compare.cells import Cells, Record, failed
from jax_mix.compare.seeds import is_faster
from jax_mix.compare.settings import QUICK, Cell, Comparison
from jax_mix.training import data, devices, programs, signals, tasks
from jax_mix.training.build import load, make_model, make_recipe, resolve, split_seed
from jax_mix.training.command_line import parse
from jax_mix.training.errors import Stopped, UserError, require
from jax_mix.training.files import check_writable, locked, remove_half_written, write_json
from jax_mix.training.methods import label
from jax_mix.training.run import check_apart, folder_of


def main(args: Sequence[str]) -> None:
    """`python train.py compare`, with what stands after it."""
    default = Comparison(**QUICK) if "--quick" in args else None
    comparison = parse(args, Comparison, default=default, description=_DESCRIPTION)
    devices.keep_collectives_in_order(processes=False)
    programs.keep(comparison.cache_dir)
    run(comparison, shlex.join(["python", "train.py", "compare", *args]))


_DESCRIPTION = """Train with each method over several seeds, and write a report of what mixing does to your data.

python train.py compare --quick: the digits, in two minutes.

python train.py compare --dataset fashion_mnist --train-images 5000 --methods none manifold:2.0: other data and methods.

The same command goes on where it was cut off. All flags of a run hold for every method alike.
"""


def run(comparison: Comparison, command: str) -> Path:
    """Make the runs that are not there yet, and write the report.

    Args:
      comparison: what is compared.
      command: that repeats it, for the report.

    Returns:
      The path of report.html.

    Raises:
      UserError: something in `comparison` cannot be used, or every run failed.
      Stopped: SIGINT or SIGTERM came.
    """
    start = time.perf_counter()
    folder = folder_of(comparison, "compare-{dataset}")
    if comparison.weights:
        check_apart(comparison.weights, folder)
    check_writable(folder)
    dataset = load(comparison)
    told = "--labels gives images several labels each, and what compare measures is of one: see python train.py."
    require(not tasks.of(dataset.train.label).several, told)
    print(dataset)
    reasons = _impossible(comparison, dataset)
    with locked(folder):
        for each in (folder, folder / "runs"):
            remove_half_written(each)
        found = _make_missing(folder, comparison, dataset, reasons)
        if all(record["status"] == "failed" for record in found):
            raise UserError(f"every run failed: {found[0]['reason']}")
        write_json(folder / "config.json", comparison.flags)
        plane = _plane(folder / "runs" / "plane.json", comparison.seeds)
        page.write(folder, comparison, dataset, found, plane, _mixes(comparison, dataset, reasons), command)
    print(f"wrote {folder / 'report.html'} in {time.perf_counter() - start:.0f} s")
    return folder / "report.html"


def _make_missing(folder: Path, comparison: Comparison, dataset: data.Dataset, reasons: dict[str, str]) -> list[Record]:
    """The records of all runs; those that are not there yet are trained first."""
    every, cells = comparison.cells, Cells(folder / "runs", comparison, dataset)
    records = {cell.name: cells.read(cell) for cell in every}
    missing = [cell for cell in every if records[cell.name] is None]
    print(f"{len(every)} runs, {len(every) - len(missing)} of them made before; results go to {folder}")
    total = sum(cells.steps(cell) for cell in missing if cell.method not in reasons)
    together = comparison.batch_seeds == "on" or (comparison.batch_seeds == "auto" and is_faster(comparison, dataset))
    with signals.catch() as stop, tqdm(total=total, unit="step", smoothing=0.1) as progress:
        for group in _groups(missing, together):
            cell = group[0]
            seeds = ", ".join(str(each.seed) for each in group)
            progress.set_description(f"{label(cell.method)}, {cell.noise:.0%} noise, seed {seeds}")
            with contextlib.redirect_stdout(None):
                if cell.method in reasons:
                    made = [cells.keep(each, failed(reasons[each.method]), 0) for each in group]
                elif together:
                    made = cells.make_together(group, progress)
                else:
                    made = [cells.make(cell, progress)]
            records |= {each.name: record for each, record in zip(group, made, strict=True)}
            if stop.signal:
                raise Stopped(f"stopped by {stop.signal.name}; the same command goes on.", stop.signal)
    return [record for record in records.values() if record is not None]


def _impossible(comparison: Comparison, dataset: data.Dataset) -> dict[str, str]:
    """Methods that this network cannot be trained with, and why; found before anything is trained.

    Raises:
      UserError: that holds for every method, or the user has named the layers; or a batch cannot be split.
    """
    n = len(dataset.train.label)
    require(
        comparison.batch_size <= n,
        f"--batch-size must be at most {n}, all training images; got {comparison.batch_size}.",
    )
    reasons = {}
    model = make_model(comparison, dataset, nnx.Rngs(0))
    for method in comparison.methods:
        config = resolve(comparison.config(method, 0.0, 0))
        try:
            make_recipe(config, model, dataset, 1)
        except UserError as error:
            if comparison.layers is not None or len(comparison.methods) == 1:
                raise
            reasons[method] = str(error)
    return reasons


def _groups(cells: Sequence[Cell], together: bool) -> list[list[Cell]]:
    """The runs that are trained at a time: one, or all seeds of a method and noise level."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.method, cell.noise, None if together else cell.seed), []).append(cell)
    return list(groups.values())


def _plane(path: Path, seeds: int) -> dict[str, Any]:
    """What `planar.compare` finds, computed once."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = json.loads(path.read_text())
        if known["seeds"] == seeds:
            return known["found"]
    found = planar.compare(seeds)
    write_json(path, {"seeds": seeds, "found": found})
    return found


def _mixes(comparison: Comparison, dataset: data.Dataset, reasons: dict[str, str]) -> dict[str, jax_mix.Mix]:
    """A draw of each method that mixes, for the first images; if possible for a hidden layer."""
    model = make_model(comparison, dataset, nnx.Rngs(0))
    shape = (min(comparison.batch_size, len(dataset.train.label)), *dataset.train.image.shape[1:])
    mixes = {}
    for method in comparison.methods:
        config = resolve(comparison.config(method, 0.0, 0))
        if method not in reasons and config.mix != "none":
            drawn: Any = make_recipe(config, model, dataset, 1).method
            draws = [drawn.sample(jax.random.fold_in(split_seed(config)[3], i), shape) for i in range(10)]
            draws = [mix for mix in draws if (mix.lam < 1).any()] or draws  # with none, some batches are not mixed
            hidden = [mix for mix in draws if mix.layer_name != "input"]
            mixes[method] = (hidden or draws)[0]
    return mixes

"""What a run leaves, and where: config.json and about.json from its start, metrics.json and pictures at its end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jax_mix.training import about, data, devices, tasks
from jax_mix.training.build import Prepared, described, split_seed
from jax_mix.training.checkpoints import Checkpoints, differences, steps_in
from jax_mix.training.command_line import parse
from jax_mix.training.config import HERE, MAY_DIFFER, Config
from jax_mix.training.confusion import confusion_matrix, write_confusion
from jax_mix.training.errors import Stopped, UserError, require
from jax_mix.training.evaluation import predict
from jax_mix.training.files import (
    as_file_name,
    check_writable,
    expanded,
    locked,
    printable,
    remove_half_written,
    write_json,
    write_jsonl,
)
from jax_mix.training.loop import best_epoch
from jax_mix.training.methods import file_name

# metrics.json first: without it a run is not finished.
_LEFT = (
    *("metrics.json", "metrics.jsonl", "learning_curve.png", "mixed_batch.png", "failed_step.npz", "config.json"),
    *("confusion_matrix.csv", "confusion_matrix.png", "evaluation", "exported.jax", "weights.safetensors"),
    "best",  # checkpoints; those of the last epochs are asked about first
)


def folder_of(config: Config, default: str) -> Path:
    """Where results go: to `--name` in `--out`; without a name to `default`, in which {dataset} is the data set's.

    >>> folder_of(Config(dataset="./photos/cats"), "{dataset}-mixup-0").as_posix()
    'runs/photos-cats-mixup-0'
    """
    dataset = as_file_name(config.dataset)
    return expanded(config.out) / (config.name or default.format(dataset=dataset))


def choose_folder(config: Config) -> Path:
    """The folder of a new run, or of the one that is resumed; no run is replaced unasked that has come to something.

    Without `--name` the folder is DATASET-MIX-SEED, or the first of DATASET-MIX-SEED-2, -3, ... that holds no finished
    run; with `--resume` or `--overwrite` the last of them that there is.

    Raises:
      UserError: `--name` is that of a finished run; a run that is not finished has a checkpoint there; `--resume` finds
        none; `--weights` are in the folder; or nothing can be written there.
    """
    first = folder_of(config, f"{{dataset}}-{file_name(config.mix)}-{config.seed}")
    if config.name:
        folder = first
        require(
            config.resume or config.overwrite or not _is_finished(folder),
            f"--name: '{folder}' holds a finished run: give this one another --name, or replace it with --overwrite.",
        )
    else:
        numbered = (first.with_name(f"{first.name}-{i}") for i in itertools.count(2))
        there = list(itertools.takewhile(Path.exists, itertools.chain([first], numbered)))
        again = there and (config.resume or config.overwrite or not _is_finished(there[-1]))
        folder = there[-1] if again else first.with_name(f"{first.name}-{len(there) + 1}") if there else first
    begun = (folder / "config.json").exists() or any((folder / "checkpoints").glob("[0-9]*"))
    require(begun or not config.resume, f"--resume: there is no checkpoint in '{folder / 'checkpoints'}'.")
    if not (config.resume or config.overwrite) and (steps := steps_in(folder / "checkpoints")):
        raise UserError(
            f"{'--name: ' if config.name else ''}'{folder}' has the checkpoint of step {steps[-1]} of a run that is "
            f"not finished: with --resume {shlex.quote(str(folder))} it goes on, with --overwrite it is "
            f"replaced; or give this one {'another' if config.name else 'a'} --name."
        )
    if config.weights:
        check_apart(config.weights, folder)
    check_writable(folder)
    return folder


def check_apart(weights: str, folder: Path) -> None:
    """Raise `UserError` if a run would write over the weights that it starts from: it reads them to go on, too."""
    given = expanded(weights)
    ways = (os.path.realpath, os.path.abspath)  # a link in the folder, to what is elsewhere, is in it as well
    inside = any(Path(way(given)).is_relative_to(way(folder)) for way in ways)
    require(
        not inside,
        f"--weights: '{weights}' is the run's own folder, '{folder}', or in it, where the run writes over it: "
        "give this run another --name.",
    )


@contextlib.contextmanager
def locked_run(folder: Path, config: Config) -> Iterator[Executor]:
    """Keep a run's folder for it, until the body ends; with several processes for all of them.

    Yields:
      A thread, for what can be written there beside; the body's end waits for it.

    Raises:
      UserError: another run is at work there, or was just finished.
      Stopped: the body raises it; this one says how the run goes on.
    """
    with contextlib.ExitStack() as stack:

        def keep() -> str:
            stack.enter_context(locked(folder))
            still = choose_folder(config) == folder
            require(still, f"another process has just finished its run in '{folder}': start this one again.")
            return ""

        devices.decided_by_first(keep)
        try:
            yield stack.enter_context(ThreadPoolExecutor(1))
        except Stopped as stopped:
            raise Stopped(f"{stopped}; with --resume {shlex.quote(str(folder))} it goes on.", stopped.number) from None


def _is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").exists()


def write_config(folder: Path, config: Config, *, anew: bool = False) -> None:
    """Write config.json, from which a run can be repeated or continued, before it trains.

    Args:
      folder: of the run; made if it is not there.
      config: with nothing left open.
      anew: what an earlier run in that folder left is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_half_written(folder)
    for path in (folder / name for name in (*_LEFT, *about.LEFT) if anew):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # It tells how to repeat the run, not where: what repeats it goes to a folder of its own.
    write_json(folder / "config.json", dataclasses.asdict(config) | HERE | {"name": None})


def begin(
    folder: Path, prepared: Prepared, beside: Executor, checkpoints: Checkpoints
) -> Callable[[], Future[None]] | None:
    """Write what a run leaves before it trains: about.json, and config.json if it does not go on from a checkpoint.

    Every process calls this; the first writes.

    Returns:
      What has the picture of a mixed batch drawn `beside`, once: with its import that takes a second; None: this is not
      the first process.

    Raises:
      UserError: a run that goes on, and has no checkpoint yet, was begun with other flags.
    """
    if not prepared.config.resume:
        checkpoints.forget(after=0)  # now: a run that is killed before it saves must not go on from another's
    anew = not checkpoints.steps
    if anew and prepared.config.resume:
        devices.decided_by_first(functools.partial(_check_begun, folder, prepared.config))
    if not devices.is_first():
        return None
    if anew:
        write_config(folder, prepared.config, anew=True)
    about.write_about(folder, prepared)
    return functools.cache(functools.partial(beside.submit, _plot_mixed_batch, folder, prepared))


def _check_begun(folder: Path, config: Config) -> str:
    """Raise `UserError` if a run is not what config.json says; where it has a checkpoint, that knows more of it."""
    path = folder.absolute() / "config.json"
    if path.exists():
        begun, now = (dataclasses.asdict(each) for each in (parse(["--config", str(path)], Config), config))
        told = differences(begun, now, MAY_DIFFER)
        require(not told, f"--resume: the run in '{folder}' was begun with {told}.")
    return ""


def _plot_mixed_batch(folder: Path, prepared: Prepared) -> None:
    from jax_mix.training import plots  # here, as its import takes half a second

    config, dataset, _, recipe = prepared
    key = split_seed(config)[3]
    seed = np.asarray(jax.random.key_data(key)).tobytes()
    image, label = data.first_batch(dataset.train, config.batch_size // config.accumulate, seed)
    mix = jax.jit(recipe.method.sample, static_argnums=1)(key, image.shape) if recipe.method else None
    plots.plot_mixed_batch(folder / "mixed_batch.png", image, label, dataset.class_names, mix)


def best_checkpoints(
    folder: Path, config: Config, dataset: data.Dataset
) -> contextlib.AbstractContextManager[Checkpoints | None]:
    """Where the best epoch is kept, if it is."""
    return Checkpoints(folder / "best", described(config, dataset)) if config.keep_best else contextlib.nullcontext()


def metrics_of(history: list[dict[str, float]], details: dict[str, Any], *, keep_best: bool = False) -> dict[str, Any]:
    """What is in metrics.json: what the last epoch has measured; the task's `details`; "history", whole.

    With `keep_best` also "best", the record of that epoch in "history".
    """
    last = {name: history[-1][name] for name in tasks.of_record(history[-1]).measured}
    best = {"best": best_epoch(history)} if keep_best else {}
    return last | best | details | {"history": history}


def write_results(
    folder: Path,
    prepared: Prepared,
    model: nnx.Module,
    history: list[dict[str, float]],
    picture: Callable[[], Future[None]] | None,
) -> dict[str, Any]:
    """Tell what a finished run has come to, and write what it leaves: metrics.json last, by which it is known.

    Every process calls this; the first writes.

    Args:
      folder: of the run.
      prepared: what was trained, on what, and how.
      model: as it was trained.
      history: of its epochs.
      picture: what `begin` has given; None: this is not the first process.

    Returns:
      What is in metrics.json, as `metrics_of` says.
    """
    config, dataset, _, _ = prepared
    task = tasks.of(dataset.test.label)
    model.eval()
    sharding = devices.split(devices.make_mesh(config.devices))
    logits = predict(model, dataset.normalize, dataset.test.image, sharding)
    model.train()
    details = task.details(logits, dataset.test.label, dataset.class_names)
    metrics = metrics_of(history, details, keep_best=config.keep_best)
    print(f"test {task.in_words(metrics)}")
    if picture is None:
        return metrics

    picture().result()  # before what is half-written is removed
    write_config(folder, config)  # what may differ in a run that was resumed
    name = printable(folder.name)
    write_jsonl(folder / "metrics.jsonl", history)  # a run that goes on when all is done has not written it
    from jax_mix.training import plots  # here, as its import takes half a second

    plots.plot_learning_curve(folder / "learning_curve.png", history, title=name)
    if not task.several:
        confusion = confusion_matrix(logits, dataset.test.label)
        write_confusion(folder, confusion, dataset.class_names, title=f"{name}, test images")
    write_json(folder / "metrics.json", metrics)
    if best := metrics.get("best"):
        what = task.best.replace("_", " ")
        which, kept = (", the last,", "") if best is metrics["history"][-1] else ("", ", and is kept too")
        print(f"epoch {best['epoch']}{which} has the highest test {what}, {best[task.best]:.2%}{kept}")
    return metrics

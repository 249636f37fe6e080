"""The training loop: steps, epochs, evaluation, checkpoints, and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm.auto import tqdm

from jax_mix.training import data, devices, sharding, signals, tasks
from jax_mix.training.build import Prepared, make_learner, make_sampler, split_seed
from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.errors import Stopped
from jax_mix.training.evaluation import evaluation
from jax_mix.training.failed_step import is_finite, report_failed_step
from jax_mix.training.logs import Logs
from jax_mix.training.step import pure_step


def train(
    prepared: Prepared,
    checkpoints: Checkpoints | None = None,
    logs: Logs | None = None,
    progress: tqdm[Any] | None = None,
    best: Checkpoints | None = None,
    watched: data.Examples | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> tuple[nnx.Module, list[dict[str, float]]]:
    """Train a model, or go on from a checkpoint with `--resume`, to the same numbers.

    Args:
      prepared: what is trained, on what, and how.
      checkpoints: of this run; None: there are none. Beside them goes the draw of a step that fails.
      logs: of this run; None: there are none.
      progress: a bar that counts the steps of several runs; None: this run has one of its own.
      best: of this run, for the best epoch; None: it is not kept.
      watched: training images that are looked at as they are, neither mixed nor augmented, after each epoch.
      meanwhile: called when a step is on its way, each time, to begin what can be done beside; None: nothing can.

    Returns:
      The model, or that of averaged weights; and for each epoch that was evaluated its "epoch", the "step" it ended
      with, its mean training "loss", the mean "train_accuracy" of batches as they were mixed, and, on the test images,
      what `measure` tells: of one class an image "accuracy", "nll" and "ece"; with `watched` what `evaluate` adds. An
      epoch that a version without it has begun has no "train_accuracy".

    Raises:
      UserError: the checkpoints cannot be used.
      TrainingFailed: the loss, the model or a logit of a test image is no longer finite.
      Stopped: SIGINT or SIGTERM came; the last step is in a checkpoint.
    """
    config, dataset, model, recipe = prepared
    n, *image_size = dataset.train.image.shape
    _, order_key, step_key, *_ = split_seed(config)
    steps = recipe.steps
    epoch_steps = steps // config.epochs
    mesh = devices.make_mesh(config.devices)
    split = devices.split(mesh)
    with sharding.in_host_memory(recipe.split_over):
        learner = make_learner(config, model, steps)
        graphdef, state = nnx.split(learner)
        # Copied: the average shares the model's arrays, and none can be given to a step to write on twice.
        state = jax.jit(functools.partial(jax.tree.map, jnp.copy))(state)  # one program, or each shape is one
    whole = recipe.split_over is None
    state = jax.device_put(state, devices.everywhere(mesh) if whole else sharding.parts(state, mesh))
    nnx.update(learner, state)
    if not whole:
        print(sharding.told(state))

    done, every = 0, config.checkpoint_every or epoch_steps
    history: list[dict[str, float]] = []
    losses: list[Any] = []  # of this epoch so far; on the device, for no step to wait for them
    hits: list[Any] = []  # its training accuracies, likewise
    if checkpoints and config.resume and not checkpoints.steps:
        print("there is no checkpoint yet: from the beginning")
    elif checkpoints and config.resume:
        done, state, saved = checkpoints.restore(state)
        nnx.update(learner, state)
        history, losses, hits = saved["history"], saved["losses"], saved.get("hits", [])
        ended = done == steps or has_ended(history, config.patience)
        print("the run is finished: its results are written again" if ended else f"from step {done}")
    if best and config.resume:
        best.forget(after=done)

    sampler = make_sampler(config, dataset)
    batches = data.batches(
        dataset.train,
        order_key,
        config.batch_size,
        start=done,
        stop=steps,
        sharding=split,
        feed=config.feed,
        workers=config.workers,
        sampler=sampler,
    )
    if progress is None:
        shown: Any = tqdm(total=steps, initial=done, unit="step", disable=not devices.is_first())
    else:
        shown = contextlib.nullcontext(progress)  # it goes on after this run
        progress.n += done
        progress.initial += done  # done before, they tell nothing of the time that is left
    compiling = progress is None and devices.is_first()  # until the first step is done
    with signals.catch() as stop, shown as bar, contextlib.closing(batches):
        for epoch in range(done // epoch_steps + 1, config.epochs + 1):
            if has_ended(history, config.patience):
                break
            mixes = epoch <= config.epochs - config.mix_off_epochs
            epoch_recipe = recipe if mixes else dataclasses.replace(recipe, method=None)
            for batch in itertools.islice(batches, epoch_steps - len(losses)):
                if compiling:
                    bar.set_description("compiling the step")
                key = jax.random.fold_in(step_key, done)
                state, measured = pure_step(graphdef, state, key, batch, dataset.normalize, epoch_recipe)
                if meanwhile:
                    meanwhile()
                losses.append(measured.loss)
                hits.append(measured.accuracy)
                done += 1
                if compiling:
                    _begin_clock(bar)
                    compiling = False
                else:
                    bar.update()
                stopping = stop.agreed(done)
                ends, saves = len(losses) == epoch_steps, done % every == 0 or done == steps or stopping is not None
                found = None
                if ends or saves:
                    nnx.update(learner, state)
                    if ends and config.evaluates(epoch):  # before the losses are waited for, for no pause between
                        found = evaluation(learner.evaluated, dataset, split, watched)
                    losses, hits = ([float(each) for each in values] for values in jax.device_get((losses, hits)))
                    failed = _first_not_finite(losses, state)
                    if failed is not None:
                        index = data.epoch_batches(order_key, epoch, n, config.batch_size, sampler)[failed]
                        step, loss = done - len(losses) + failed, losses[failed]
                        raise report_failed_step(
                            config, tuple(image_size), epoch_recipe, step, index, loss, checkpoints
                        )
                if ends and logs:
                    logs.steps(done, losses)
                if found is not None:
                    mean_loss = float(np.asarray(losses, np.float32).mean())
                    history.append(
                        {"epoch": epoch, "step": done, "loss": mean_loss} | train_accuracy(hits, epoch_steps) | found()
                    )
                    if logs:
                        logs.epoch(history)
                    saves = saves or has_ended(history, config.patience)
                    if best and best_epoch(history) is history[-1]:
                        best.save(done, state, {"history": history, "losses": [], "hits": []})
                        best.wait()  # a run that goes on must find the best epoch of its history
                        saves = True
                    bar.set_postfix(told_of(history[-1]))
                if ends:
                    losses, hits = [], []
                if checkpoints and saves:
                    checkpoints.save(done, state, {"history": history, "losses": losses, "hits": hits})
                if stopping:
                    raise Stopped(f"stopped at step {done} by {stopping.name}", stopping)
    return learner.evaluated, history


def train_accuracy(hits: Sequence[Any], steps: int) -> dict[str, float]:
    """An epoch's, of its steps'; nothing if some were taken by a version that did not measure it."""
    return {"train_accuracy": float(np.asarray(hits, np.float32).mean())} if len(hits) == steps else {}


def told_of(record: dict[str, float]) -> dict[str, str]:
    """An epoch in the progress bar."""
    best = tasks.of_record(record).best
    shown = {"train_accuracy": record.get("train_accuracy"), f"test_{best}": record[best]}
    told = {name: f"{value:.2%}" for name, value in shown.items() if value is not None}
    return {"epoch": f"{record['epoch']:.0f}", "loss": f"{record['loss']:.3f}", **told}


def best_epoch(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The record of the highest test accuracy; of several the one of the lowest NLL, and of these the first.

    Of several labels an image, that of the highest mean average precision, and the lowest BCE.
    """
    return max(history, key=tasks.of_record(history[0]).score)


def has_ended(history: Sequence[dict[str, float]], patience: int | None) -> bool:
    """Whether `patience` epochs have passed since the best one."""
    if not history or patience is None:
        return False
    return history[-1]["epoch"] - best_epoch(history)["epoch"] >= patience


def _begin_clock(bar: tqdm[Any]) -> None:
    """Count a run's first step, and measure time from now on: its compilation tells nothing of the steps to come."""
    bar.unpause()
    bar.update()
    bar.initial = bar.last_print_n = bar.n
    bar.set_description()


def _first_not_finite(losses: list[float], state: Any) -> int | None:
    """Which of the last steps was the first after which not all was finite; None: all is."""
    failed = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if failed is None and not is_finite(state):
        failed = len(losses) - 1  # its loss was finite, its gradients were not
    return failed

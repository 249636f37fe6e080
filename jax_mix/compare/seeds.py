"""Several seeds trained as one: their networks are stacked, and each step is taken by all of them, under vmap.

Small steps of matrix products are two to three times as fast so; convolutions are not, on CPU even slower: under vmap
each network has filters of its own, and XLA's convolutions in groups are slow. benchmarks/seeds.py measures it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm.auto import tqdm

from jax_mix.training import data, devices, signals
from jax_mix.training.balance import BALANCED
from jax_mix.training.build import make_learner, make_model, make_recipe, make_sampler, split_seed
from jax_mix.training.config import Config
from jax_mix.training.errors import Stopped, TrainingFailed
from jax_mix.training.evaluation import evaluate
from jax_mix.training.step import Learner, Recipe, pure_step

Trained = tuple[nnx.Module, list[dict[str, float]]]  # a network and its history, as train gives them


def is_faster(config: Config, dataset: data.Dataset) -> bool:
    """Whether seeds are trained as one where the user leaves that open: on one device, and without convolutions.

    Not with balanced class weights: with wrong labels each seed has its own.
    """
    if config.class_weights == (BALANCED,):
        return False
    model = make_model(config, dataset, nnx.Rngs(0))
    convolutions = any(isinstance(module, nnx.Conv) for _, module in nnx.iter_graph(model))
    return devices.make_mesh(config.devices).size == 1 and config.feed != "grain" and not convolutions


def train_seeds(
    configs: Sequence[Config],
    datasets: Sequence[data.Dataset],
    progress: tqdm[Any],
    watched: Sequence[data.Examples] | None = None,
) -> list[Trained | TrainingFailed]:
    """What `train` does with each of `configs`, but for rounding: the draws are the same.

    There are no checkpoints. All images are kept on one device.

    Args:
      configs: as `resolve` gives them, the same but for "seed".
      datasets: one for each, the same but for training labels; with balanced class weights for these too.
      progress: is advanced by the steps of each.
      watched: training images of each that are looked at as they are after each epoch; None: none.

    Returns:
      For each the network and its history, or why it failed; the others go on then.

    Raises:
      UserError: a layer is unknown.
      Stopped: SIGINT or SIGTERM came.
    """
    config, dataset = configs[0], datasets[0]
    n, size = len(dataset.train.label), config.batch_size
    epoch_steps = n // size
    steps = config.epochs * epoch_steps
    keys = [split_seed(each) for each in configs]
    samplers = [make_sampler(config, each) for each in datasets]
    learners = [
        make_learner(each, make_model(each, dataset, nnx.Rngs(key[0])), steps)
        for each, key in zip(configs, keys, strict=True)
    ]
    recipe = make_recipe(config, learners[0].model, dataset, steps)
    graphdef = nnx.split(learners[0])[0]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.state(learner) for learner in learners))
    image, label = jnp.asarray(dataset.train.image), jnp.stack([jnp.asarray(each.train.label) for each in datasets])

    histories: list[list[dict[str, float]]] = [[] for _ in configs]
    failures: dict[int, TrainingFailed] = {}
    with signals.catch() as stop:
        for epoch in range(1, config.epochs + 1):
            mixes = epoch <= config.epochs - config.mix_off_epochs
            first = (epoch - 1) * epoch_steps
            orders = zip(keys, samplers, strict=True)
            index = np.stack([data.epoch_batches(key[1], epoch, n, size, sampler) for key, sampler in orders])
            states, measured = _epoch(
                graphdef,
                recipe if mixes else dataclasses.replace(recipe, method=None),
                states,
                jnp.stack([key[2] for key in keys]),
                jnp.arange(first, first + epoch_steps, dtype=jnp.uint32),
                index,
                image,
                label,
                dataset.normalize,
            )
            progress.update(epoch_steps * len(configs))
            if stop.signal:
                raise Stopped(f"stopped by {stop.signal.name}; the same command goes on.", stop.signal)
            for i, (each, history) in enumerate(zip(configs, histories, strict=True)):
                loss, accuracy = (float(np.asarray(values[i], np.float32).mean()) for values in measured)
                if i in failures or not math.isfinite(loss):
                    told = f"the loss became {loss} in epoch {epoch}: --learning-rate {each.learning_rate}"
                    failures.setdefault(i, TrainingFailed(f"{told} may be too high."))
                    continue
                if not config.evaluates(epoch):
                    continue
                try:
                    seen = None if watched is None else watched[i]
                    found = evaluate(_learner(graphdef, states, i).evaluated, dataset, None, seen)
                except TrainingFailed as error:
                    failures[i] = error
                    continue
                record = {"epoch": epoch, "step": first + epoch_steps, "loss": loss, "train_accuracy": accuracy}
                history.append({**record, **found})
    return [
        failures[i] if i in failures else (_learner(graphdef, states, i).evaluated, history)
        for i, history in enumerate(histories)
    ]


def _learner(graphdef: Any, states: Any, i: int) -> Learner:
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[i], states))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _epoch(
    graphdef: Any,
    recipe: Recipe,
    states: Any,
    keys: Any,
    steps: Any,
    index: Any,
    image: Any,
    label: Any,
    normalize: data.Normalize,
) -> tuple[Any, Any]:
    """All steps of an epoch, of all seeds: `steps` uint32 `[steps]`, `index` int32 `[seeds, steps, batch]`."""

    def of_seed(state: Any, key: Any, index: Any, label: Any) -> tuple[Any, Any]:
        def one(state: Any, step_and_index: Any) -> tuple[Any, Any]:
            step, rows = step_and_index
            batch = data.Examples(image[rows], label[rows])
            return pure_step(graphdef, state, jax.random.fold_in(key, step), batch, normalize, recipe)

        return jax.lax.scan(one, state, (steps, index))

    return jax.vmap(of_seed)(states, keys, index, label)

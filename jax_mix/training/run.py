"""What a run leaves in its folder: config.json, metrics.json and two pictures."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from jax_mix.training import data, plots
from jax_mix.training.build import split_seed
from jax_mix.training.config import HERE, Config
from jax_mix.training.files import write_json
from jax_mix.training.step import Recipe


def folder_of(config: Config, default: str) -> Path:
    """Where results go: to `--name` in `--out`; without a name to `default`, in which {dataset} is the data set's.

    >>> folder_of(Config(dataset="./photos/cats"), "{dataset}-mixup-0").as_posix()
    'runs/photos-cats-mixup-0'
    """
    dataset = re.sub(r"[^\w.-]+", "-", config.dataset).strip("-.")
    return Path(config.out) / (config.name or default.format(dataset=dataset))


def metrics_of(history: list[dict[str, float]]) -> dict[str, Any]:
    """What is in metrics.json: the last epoch's "accuracy", "nll" and "ece", and the whole "history"."""
    return {name: history[-1][name] for name in ("accuracy", "nll", "ece")} | {"history": history}


def write_results(
    folder: Path, config: Config, dataset: data.Dataset, recipe: Recipe, history: list[dict[str, float]]
) -> None:
    """Write what a finished run leaves.

    Args:
      folder: of the run; made if it is not there.
      config: as `resolve` gives it.
      dataset: what was trained on.
      recipe: of the steps.
      history: a record of each epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    method = recipe.method
    used = dataclasses.replace(config, layers=getattr(method, "layers", None), **HERE)
    # It tells how to repeat the run; not where, or what repeats it with other flags would replace it.
    write_json(folder / "config.json", dataclasses.asdict(used) | {"name": None})
    write_json(folder / "metrics.json", metrics_of(history))
    plots.plot_learning_curve(folder / "learning_curve.png", history, title=folder.name)
    image, label = (np.asarray(array[: config.batch_size // config.accumulate]) for array in dataset.train)
    mix = method.sample(split_seed(config)[3], image.shape) if method else None
    plots.plot_mixed_batch(folder / "mixed_batch.png", image, label, dataset.class_names, mix)

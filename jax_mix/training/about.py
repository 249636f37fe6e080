"""What must be known of a run to use its network: about.json, and a copy of a model's own file."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import jax_mix
from jax_mix.training import cropping, methods, tasks
from jax_mix.training.build import Prepared, told_data
from jax_mix.training.checkpoints import resuming
from jax_mix.training.environment import environment
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import write_atomically, write_json

_FILE, _SOURCE = "about.json", "source"  # of these the second is a folder
LEFT = (_FILE, _SOURCE)


@dataclasses.dataclass(frozen=True)
class About:
    """What a network was trained on, and how it is made.

    Attributes:
      class_names: one for each logit.
      image_shape: height, width and channels of its images.
      mean, std: of each channel of the uint8 training images.
      bits: that are in use in 16-bit images.
      model, width, dtype: the flags of the network.
      source: where the copy of the model's own file is, below the run's folder; None: the model has no such file.
      beside: the folder in which that file was, for what it imports from there.
      layers: where Manifold Mixup mixed besides the input; None: it was no method that was trained with.
      averaged: whether it is the averaged weights that are evaluated.
      dataset: the name of the data, and their fingerprint.
      versions: of Python and the packages.
      loss: what was trained with.
      probabilities: what they are of the logits, after any loss: "softmax", also of the logits of a binary
        cross-entropy, whose sigmoids say of each class by itself how likely it is. Given that an image is of one class
        alone, those of the sigmoids are the softmax. Where an image has any number of labels: "sigmoid".
      test_crop: the part of an image's shorter side that is kept; None: all, as in the runs before there was one.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bits: int
    model: str
    width: int | None
    dtype: str
    source: str | None
    beside: str | None
    layers: tuple[str, ...] | None
    averaged: bool
    dataset: str
    versions: dict[str, str]
    loss: str = "cross_entropy"
    probabilities: str = "softmax"
    test_crop: float | None = None


def write_about(folder: Path, prepared: Prepared) -> None:
    """Write about.json, and a copy of the file that `--model file.py:Class` names, as it is now.

    Args:
      folder: of the run.
      prepared: what is trained.
    """
    config, dataset = prepared.config, prepared.dataset
    file, _, attribute = config.model.rpartition(":")
    source = beside = None
    if file.endswith(".py"):
        path = Path(file)
        source, beside = f"{_SOURCE}/{path.name}:{attribute}", str(path.parent.absolute())
        (folder / _SOURCE).mkdir(exist_ok=True)
        with write_atomically(folder / _SOURCE / path.name) as temporary:
            shutil.copyfile(path, temporary)
    found = environment()
    about = About(
        class_names=dataset.class_names,
        image_shape=dataset.train.image.shape[1:],
        mean=tuple(np.asarray(dataset.normalize.mean).tolist()),
        std=tuple(np.asarray(dataset.normalize.std).tolist()),
        bits=config.bits or 16,
        model=config.model,
        width=config.width,
        dtype=config.dtype,
        source=source,
        beside=beside,
        layers=_layers(prepared.recipe.method),
        averaged=config.ema is not None,
        dataset=told_data(config, dataset),
        versions={"python": found["python"], "jax_mix": jax_mix.__version__, **found["versions"]},
        loss=config.loss or "cross_entropy",
        probabilities=tasks.of(dataset.train.label).probabilities,
        test_crop=None if (crops := cropping.of(config)) is None else crops.test_crop,
    )
    write_json(folder / _FILE, dataclasses.asdict(about))


def read_about(folder: Path) -> About:
    """What is known of the run in `folder`.

    Raises:
      UserError: it has no such file, as runs of before have none, or that is not as it was written.
    """
    path = folder / _FILE
    try:
        values = json.loads(path.read_text())
        about = About(**{name: _tuple(value) for name, value in values.items()})
        _check(about)
    except FileNotFoundError:
        raise UserError(
            f"'{folder}' has no {_FILE}, which says how images are prepared, and was not written by earlier versions: "
            f"{resuming(folder)} writes it, and trains nothing."
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"'{path}' is not as it was written ({error}): {resuming(folder)} writes it again.") from error
    return about


def read_metrics(folder: Path) -> dict[str, Any]:
    """What is in metrics.json of the finished run in `folder`.

    Raises:
      UserError: there is no run, or it is not finished, or the file is damaged.
    """
    if not (folder / "config.json").is_file():
        near = difflib.get_close_matches(folder.name, _runs(folder.absolute().parent), 1)
        meant = f"; did you mean '{folder.parent / near[0]}'?" if near else "."
        raise UserError(f"there is no run in '{folder}': a run's folder has a config.json{meant}")
    require(not (folder / "report.html").exists(), f"'{folder}' holds a comparison: its runs keep no networks.")
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        int(metrics["history"][-1]["step"])
    except FileNotFoundError:
        raise UserError(f"the run in '{folder}' is not finished: {resuming(folder)} goes on with it.") from None
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(
            f"'{folder / 'metrics.json'}' is not as it was written ({error}): {resuming(folder)} writes it again."
        ) from error
    return metrics


def _layers(method: Any) -> tuple[str, ...] | None:
    """Those of all Manifold Mixup in it."""
    each_has = [each.layers for each in methods.every(method) if isinstance(each, jax_mix.ManifoldMixup)]
    return tuple(dict.fromkeys(layer for layers in each_has for layer in layers)) if each_has else None


def _runs(folder: Path) -> list[str]:
    return [path.parent.name for path in folder.glob("*/config.json")]


def _check(about: About) -> None:
    """Raise ValueError, or another error, if a value is none that `write_about` writes."""
    height, width, channels = about.image_shape
    numbers = [*about.mean, *about.std]
    if not (len(about.mean) == len(about.std) == channels and all(math.isfinite(number) for number in numbers)):
        raise ValueError("mean and std must be of each channel")
    if min(height, width, channels, *about.std) <= 0 or not all(isinstance(name, str) for name in about.class_names):
        raise ValueError("image_shape, std or class_names cannot be right")
    if about.probabilities not in (tasks.ONE.probabilities, tasks.SEVERAL.probabilities):
        raise ValueError("probabilities must be softmax or sigmoid")
    if about.test_crop is not None and not 0 < about.test_crop <= 1:
        raise ValueError("test_crop must be positive, and at most 1")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

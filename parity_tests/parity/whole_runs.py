"""Whole runs on the digits, fastai against train.py, each with its own random numbers: how alike they end."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.stats
import torch
from fastai.basics import Callback, DataLoader
from fastai.callback.mixup import CutMix, MixUp
from fastai.losses import CrossEntropyLossFlat
from flax import nnx

from jax_mix.training import evaluation, loop
from jax_mix.training.build import prepare
from jax_mix.training.config import Config
from jax_mix.training.data import Dataset
from jax_mix.training.models import PreActResNet
from torch_ref import convert, fitting, models
from torch_ref.manifold_mixup import ManifoldMixup

SEEDS, EPOCHS = 20, 20
# Differences of means that would not matter, and that a run must rule out: two of 360 test images, and of NLL and ECE
# less than the methods differ among themselves.
MARGINS = {"accuracy": 2 / 360, "nll": 0.02, "ece": 0.015}

FASTAI_METHODS = {
    "none": lambda: [],
    "mixup": lambda: [MixUp(0.4)],
    "manifold": lambda: [ManifoldMixup(0.4, layers=("layer1", "layer2"))],
    "cutmix": lambda: [CutMix(1.0)],
}


def our_run(mix: str, seed: int, dataset: Dataset, epochs: int) -> dict[str, float]:
    """Test accuracy, NLL and ECE of train.py's own training."""
    _, history = loop.train(prepare(Config(mix=mix, seed=seed, epochs=epochs, devices=1), dataset))
    return {name: history[-1][name] for name in ("accuracy", "nll", "ece")}


def fastai_run(mix: str, seed: int, dataset: Dataset, epochs: int) -> dict[str, float]:
    """The same by fastai: its Learner, DataLoader, optimizer, schedule and callback, on the torch twin."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - ManifoldMixup's layer
    config = Config()
    channels, classes = dataset.train.image.shape[-1], len(dataset.class_names)
    model = models.PreActResNet(channels, classes, width=config.width)
    convert.copy_to_torch(PreActResNet(channels, classes, width=config.width, rngs=nnx.Rngs(1000 + seed)), model)

    def normalized(image):
        return torch.tensor(np.moveaxis(np.asarray(dataset.normalize(image)), -1, 1))

    images, labels = normalized(dataset.train.image), torch.tensor(np.asarray(dataset.train.label), dtype=torch.int64)
    black = normalized(np.zeros_like(dataset.train.image[:1]))[0, :, 0, 0]
    loader = DataLoader(
        list(zip(images, labels, strict=True)), bs=config.batch_size, shuffle=True, drop_last=True, num_workers=0
    )
    learner = fitting.learner(
        model,
        CrossEntropyLossFlat(),
        loader,
        opt_func=fitting.OPTIMIZERS[config.optimizer],
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    fitting.fit(learner, config.schedule, epochs=epochs, cbs=[RandomShift(black), *FASTAI_METHODS[mix]()])
    model.eval()
    with torch.no_grad():
        logits = model(normalized(dataset.test.image))
    measures = {"accuracy": evaluation.accuracy, "nll": evaluation.nll, "ece": evaluation.ece}
    return {name: float(measure(jnp.asarray(logits), dataset.test.label)) for name, measure in measures.items()}


class RandomShift(Callback):
    """`random_shift` of jax_mix.training.data on a batch: each image moved by up to an eighth, at least a pixel."""

    order, run_valid = -1, False  # before the callback that mixes

    def __init__(self, black: torch.Tensor) -> None:
        self.black = black  # a normalised pixel

    def before_batch(self) -> None:
        n, _, height, width = self.x.shape
        reach = max(1, min(height, width) // 8)
        padded = self.black[:, None, None].expand(n, -1, height + 2 * reach, width + 2 * reach).clone()
        padded[:, :, reach : reach + height, reach : reach + width] = self.x
        corners = torch.randint(0, 2 * reach + 1, (n, 2)).tolist()
        shifted = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)]
        self.learn.xb = (torch.stack(shifted),)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two samples' means, ours less fastai's: Welch's interval, and Mann and Whitney's p of no difference."""

    mean: float
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, ours: list[float], theirs: list[float], confidence: float) -> Difference:
        interval = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(confidence)
        p = scipy.stats.mannwhitneyu(ours, theirs).pvalue
        return cls(float(np.mean(ours) - np.mean(theirs)), float(interval.low), float(interval.high), float(p))


def compare(mix: str, dataset: Dataset) -> dict[str, Any]:
    """Train `SEEDS` times on each side."""
    ours, theirs = ([run(mix, seed, dataset, EPOCHS) for seed in range(SEEDS)] for run in (our_run, fastai_run))
    return record(ours, theirs)


def record(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> dict[str, Any]:
    """The runs of both sides, and for each measure the difference of their means."""
    differences = {m: Difference.of([r[m] for r in ours], [r[m] for r in theirs], 0.9) for m in MARGINS}
    return {
        "ours": ours,
        "fastai": theirs,
        "ours less fastai's, 90% interval": {m: dataclasses.asdict(d) for m, d in differences.items()},
    }


def assert_alike(record: dict[str, Any]) -> None:
    for measure, margin in MARGINS.items():
        difference = record["ours less fastai's, 90% interval"][measure]
        # Two one-sided t-tests at 5%: the 90% interval lies within the margin, so a larger difference is rejected.
        assert -margin < difference["low"] < difference["high"] < margin, measure
        # And none is found: at 1% for all comparisons together.
        assert difference["p"] > 0.01 / (len(MARGINS) * len(FASTAI_METHODS)), measure

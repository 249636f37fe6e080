"""Whole runs, each side with its own random numbers: `fastai_run` and `our_run` train the same and must end alike."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import torch
from fastai.basics import Callback, DataLoader
from fastai.callback.mixup import CutMix, MixUp
from fastai.losses import CrossEntropyLossFlat
from flax import nnx

import train
from torch_ref import convert, fitting, models
from torch_ref.manifold_mixup import ManifoldMixup
from training import evaluation
from training.data import Dataset
from training.models import PreActResNet

FASTAI_METHODS = {
    "none": lambda: [],
    "mixup": lambda: [MixUp(0.4)],
    "manifold": lambda: [ManifoldMixup(0.4, layers=("layer1", "layer2"))],
    "cutmix": lambda: [CutMix(1.0)],
}


def our_run(mix: str, seed: int, dataset: Dataset, epochs: int) -> dict[str, float]:
    """Test accuracy, NLL and ECE of train.py's own training."""
    _, _, history = train.train(train.Config(mix=mix, seed=seed, epochs=epochs), dataset)
    return {name: history[-1][name] for name in ("accuracy", "nll", "ece")}


def fastai_run(mix: str, seed: int, dataset: Dataset, epochs: int) -> dict[str, float]:
    """The same by fastai: its Learner, DataLoader, optimizer, schedule and callback, on the torch twin."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - ManifoldMixup's layer
    config = train.Config()
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
    """`training.data.random_shift` on a batch: each image moved by up to an eighth of its size, at least a pixel."""

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

"""The same training on both sides, step by step: initial weights, batches and draws are shared, nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import torch
from fastai.basics import Callback, DataLoader
from fastai.callback.mixup import CutMix, MixUp
from fastai.losses import CrossEntropyLossFlat
from flax import nnx
from torch.distributions import Beta

import jax_mix
import train
from torch_ref import convert, fitting, models, recording
from torch_ref.manifold_mixup import ManifoldMixup
from training.models import PreActResNet

LAYERS = ("input", "layer1", "layer2")
CALLBACKS = {
    "none": lambda: None,
    "mixup": lambda: MixUp(0.4),
    "manifold": lambda: ManifoldMixup(0.4, layers=LAYERS[1:]),
    "cutmix": lambda: CutMix(1.0),
}
# A rate for each optimizer at which training is neither idle nor chaotic.
RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}


@dataclasses.dataclass(frozen=True)
class Setup:
    """What both sides share. `images` NHWC `[steps, batch, height, width, channels]`, `labels` `[steps, batch]`."""

    images: np.ndarray
    labels: np.ndarray
    mix: str = "manifold"
    optimizer: str = "sgd"
    schedule: str = "one_cycle"
    width: int = 8

    @property
    def rates(self) -> dict[str, float]:
        return {"learning_rate": RATES[self.optimizer], "weight_decay": 0.01}

    def model(self) -> torch.nn.Module:
        """The twin with its initial weights, in the dtype of the images."""
        torch.manual_seed(0)
        model = models.PreActResNet(self.images.shape[-1], 10, width=self.width)
        return model.to(torch.tensor(self.images[:0]).dtype)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    losses: np.ndarray  # [steps]
    parameters: dict[str, np.ndarray]  # by Flax's names, after the last step; BatchNorm statistics too
    mixes: Sequence[jax_mix.Mix | None]


def fastai_trajectory(setup: Setup, *, threads: int = 1, channels_last: bool = False) -> Trajectory:
    """fastai's Learner on the batches of `setup`; `threads` and `channels_last` change only the order of summation."""
    model, callback = setup.model(), CALLBACKS[setup.mix]()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    dtype = next(model.parameters()).dtype
    if isinstance(
        getattr(callback, "distrib", None), Beta
    ):  # float32 else, which torch.lerp refuses to mix with others
        alpha = callback.distrib.concentration1.to(dtype)
        callback.distrib = Beta(alpha, alpha)
    images = torch.tensor(np.moveaxis(setup.images, -1, 2)).flatten(0, 1)
    labels = torch.tensor(setup.labels, dtype=torch.int64).flatten()
    loader = DataLoader(list(zip(images, labels, strict=True)), bs=setup.images.shape[1], num_workers=0)
    draws = recording._Draws()
    keep = Keep(draws, callback, setup.images.shape[2:4])
    cbs = [recording._Listen(draws), callback, recording._Listen(draws, stop=True), keep] if callback else [keep]
    before = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)  # CutMix divides whole numbers
    np.random.seed(0)
    try:
        with draws:
            fitting.fit(
                model, class_loss(), loader, optimizer=setup.optimizer, schedule=setup.schedule, cbs=cbs, **setup.rates
            )
    finally:
        torch.set_num_threads(before[0])
        torch.set_default_dtype(before[1])
    return Trajectory(np.array(keep.losses), convert.flax_from_torch(convert.torch_arrays(model)), keep.mixes)


def class_loss() -> torch.nn.Module:
    """Cross-entropy that fastai mixes as its own CrossEntropyLossFlat, which computes in float32 only."""
    loss = torch.nn.CrossEntropyLoss()
    loss.y_int = True
    return loss


class Keep(Callback):
    order, run_valid = 100, False

    def __init__(self, draws, callback, size):
        self.draws, self.callback, self.size = draws, callback, size
        self.losses, self.mixes = [], []

    def after_batch(self):
        self.losses.append(self.loss.item())
        self.mixes.append(self.mix() if self.callback else None)
        self.draws.kept.clear()

    def mix(self):
        partner = self.draws.results("randperm")[0].astype(np.int32)
        if (box := self.draws.box()) is not None:
            return jax_mix.Mix.from_box(partner, np.array(box, np.int32), self.size)
        lam = self.draws.results("_sample_dirichlet")[0][..., 0]
        lam = np.maximum(lam, 1 - lam)
        if isinstance(self.callback, ManifoldMixup):
            return jax_mix.Mix(lam, partner, layer=np.int32(LAYERS.index(self.callback.layer_name)), layers=LAYERS)
        return jax_mix.Mix(lam, partner)


def our_trajectory(setup: Setup, mixes: Sequence[jax_mix.Mix | None]) -> Trajectory:
    """`train.update` on the same batches, draws and initial weights."""
    model = PreActResNet(setup.images.shape[-1], 10, width=setup.width, rngs=nnx.Rngs(0))
    convert.copy_to_flax(setup.model(), model)
    config = train.Config(optimizer=setup.optimizer, schedule=setup.schedule, **setup.rates)
    optimizer = train.make_optimizer(config, model, len(setup.images))
    step = nnx.jit(train.update)
    losses = [
        step(model, optimizer, jnp.asarray(image), jnp.asarray(label, jnp.int32), mix)
        for image, label, mix in zip(setup.images, setup.labels, mixes, strict=True)
    ]
    return Trajectory(np.asarray(jax.device_get(losses)), convert.flax_arrays(model), mixes)

"""The same training on both sides, step by step: initial weights, batches and draws are shared, nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import torch
from fastai.callback.mixup import CutMix, MixUp
from flax import nnx
from torch.distributions import Beta

import jax_mix
from jax_mix.training.build import make_learner
from jax_mix.training.config import Config
from jax_mix.training.models import PreActResNet
from jax_mix.training.step import apply_gradients, loss_and_gradients
from parity_tests.parity.twins import CrossEntropy
from torch_ref import convert, fitting, models, recording
from torch_ref.manifold_mixup import ManifoldMixup

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


# The same arithmetic, summed in other orders. Which of them a machine's PyTorch really sums in another order depends on
# its processor.
ORDERS = ("channels last", "without oneDNN")


def fastai_trajectory(setup: Setup, *, order: str | None = None) -> Trajectory:
    """fastai's Learner on the batches of `setup`; `order` is one of `ORDERS`, None: as PyTorch sums by itself."""
    model, callback = setup.model(), CALLBACKS[setup.mix]()
    if order == "channels last":
        model = model.to(memory_format=torch.channels_last)
    dtype = next(model.parameters()).dtype
    if isinstance(
        getattr(callback, "distrib", None), Beta
    ):  # float32 else, which torch.lerp refuses to mix with others
        alpha = callback.distrib.concentration1.to(dtype)
        callback.distrib = Beta(alpha, alpha)
    images, labels = np.moveaxis(setup.images, -1, 2), setup.labels.astype(np.int64)
    loader = fitting.in_order(np.concatenate(images), np.concatenate(labels), images.shape[1])
    learner = fitting.learner(
        model, CrossEntropy(), loader, opt_func=fitting.OPTIMIZERS[setup.optimizer], **setup.rates
    )
    one_dnn = without_one_dnn() if order == "without oneDNN" else contextlib.nullcontext()
    with recording.one_thread(), recording.default_dtype(dtype), one_dnn:
        recordings = recording.record(lambda cbs: fitting.fit(learner, setup.schedule, cbs=cbs), callback)
    losses = np.array([r.loss for r in recordings])
    mixes = [traced_layer(r.mix()) for r in recordings]
    return Trajectory(losses, convert.flax_from_torch(convert.torch_arrays(model)), mixes)


@contextlib.contextmanager
def without_one_dnn() -> Iterator[None]:
    """PyTorch's own convolutions, by its im2col and matrix products."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")  # it tells everyone, once
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def traced_layer(mix: jax_mix.Mix | None) -> jax_mix.Mix | None:
    """The same draw with its layer as a number, so that one compiled step serves all layers."""
    if mix is None or mix.box is not None:
        return mix
    return dataclasses.replace(mix, layer=np.int32(LAYERS.index(mix.layer)), layers=LAYERS)


def our_trajectory(setup: Setup, mixes: Sequence[jax_mix.Mix | None]) -> Trajectory:
    """train.py's step on the same batches, draws and initial weights."""
    model = PreActResNet(setup.images.shape[-1], 10, width=setup.width, rngs=nnx.Rngs(0))
    convert.copy_to_flax(setup.model(), model)
    config = Config(optimizer=setup.optimizer, schedule=setup.schedule, **setup.rates)
    learner = make_learner(config, model, len(setup.images))

    graphdef, state = nnx.split(learner)

    @jax.jit  # nnx.jit would take the learner apart at each of hundreds of steps
    def step(state, image, label, mix):
        learner = nnx.merge(graphdef, state)
        measured, grads = loss_and_gradients(learner.model, image, label, mix)
        apply_gradients(learner.model, learner.optimizer, grads)
        return nnx.state(learner), measured.loss

    losses = []
    for image, label, mix in zip(setup.images, setup.labels, mixes, strict=True):
        state, loss = step(state, image, label.astype(np.int32), mix)
        losses.append(loss)
    nnx.update(learner, state)
    return Trajectory(np.asarray(jax.device_get(losses)), convert.flax_arrays(model), mixes)

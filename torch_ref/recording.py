"""Run a fastai callback on one batch in a real Learner; record, from outside, what it drew and what it made of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from fastai.basics import (
    SGD,
    Callback,
    CancelStepException,
    DataLoader,
    DataLoaders,
    Learner,
    Recorder,
)
from torch.overrides import TorchFunctionMode

from jax_mix import Mix


@dataclasses.dataclass
class Recording:
    """One training batch as a fastai callback mixed it, in torch's own layout (NCHW)."""

    lam_drawn: np.ndarray  # what Beta gave, before folding or clipping: [batch], or [1] (CutMix)
    partner: np.ndarray  # [batch]
    centre: tuple[int, int] | None  # CutMix: (row, column)
    box: tuple[int, int, int, int] | None  # CutMix: (y1, x1, y2, x2), as fastai clipped it
    layer: str  # Manifold Mixup: where, else "input"
    lam: np.ndarray  # what the callback left in `lam`: [batch], or [1] (CutMix)
    x: np.ndarray  # what the model was called with
    y: np.ndarray  # what the loss was called with
    logits: np.ndarray
    loss: np.ndarray
    grads: dict[str, np.ndarray]  # by parameter, of the loss or, if it was not reduced, of its mean
    statistics: dict[str, np.ndarray]  # the model's buffers after the batch, BatchNorm's among them

    def mix(self) -> Mix:
        """The same draw for jax_mix: lambda from Beta's sample or from the box, not from the callback's `lam`."""
        partner = self.partner.astype(np.int32)
        if self.box is not None:
            return Mix.from_box(partner, np.array(self.box, np.int32), self.x.shape[2:])
        return Mix(np.maximum(self.lam_drawn, 1 - self.lam_drawn), partner, layer=self.layer)


def learner(model: torch.nn.Module, loss_func: Any, x: np.ndarray, y: np.ndarray) -> Learner:
    """A fastai Learner whose data are the one batch `x` `[batch, ...]`, `y` `[batch, ...]`."""
    # A list of samples, all in one batch and in order: nothing but a callback draws.
    loader = DataLoader(list(zip(torch.tensor(x), torch.tensor(y), strict=True)), bs=len(x), num_workers=0)
    dls = DataLoaders(loader, loader, device=torch.device("cpu"))
    learner = Learner(dls, model, loss_func, opt_func=SGD)
    learner.remove_cb(Recorder)  # its running mean is in float32, and refuses a loss in float64
    return learner


def run(
    callback: Any,
    model: torch.nn.Module,
    loss_func: Any,
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int = 0,
) -> Recording:
    """One batch in training through `model` under `callback`, which is used as it is, and back. No step is taken.

    Args:
      callback: a fastai callback that mixes.
      model: called in training mode; only its BatchNorm statistics change.
      loss_func: as `fastai.basics.Learner` takes it.
      x: float images `[batch, channels, height, width]`; copied first, for fastai's CutMix writes into its batch.
      y: targets `[batch, ...]`, class numbers or floats.
      seed: of torch and of numpy.

    Source: fastai's training loop, `fastai.learner.Learner`.
    """
    draws, made = _Draws(), _Made(callback)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the layer is drawn from numpy's global state, as in ManifoldMixupV2
    with draws, _one_thread():
        learner(model, loss_func, x, y).fit(1, cbs=[_Listen(draws), callback, _Listen(draws, stop=True), made])
    return Recording(
        lam_drawn=draws.results("_sample_dirichlet")[0][..., 0],
        partner=draws.results("randperm")[0],
        centre=draws.centre(),
        box=draws.box(),
        layer=getattr(callback, "layer_name", "input"),
        grads=made.grads,
        statistics=made.statistics,
        **made.arrays,
    )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Without it, on a busy machine, each small operation waits 10 ms for its other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Draws(TorchFunctionMode):
    """Keeps the results of torch's random functions, and of `clamp`, whose four results are CutMix's box."""

    KEPT = ("_sample_dirichlet", "randperm", "randint", "clamp")  # Beta samples as Dirichlet

    def __init__(self) -> None:
        super().__init__()
        self.listening = False
        self.kept: list[tuple[str, np.ndarray]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if self.listening and name in self.KEPT:
            self.kept.append((name, result.numpy().copy()))
        return result

    def results(self, name: str) -> list[np.ndarray]:
        return [result for kept, result in self.kept if kept == name]

    def centre(self) -> tuple[int, int] | None:
        column_row = [int(result.item()) for result in self.results("randint")]
        return (column_row[1], column_row[0]) if column_row else None

    def box(self) -> tuple[int, int, int, int] | None:
        box = [int(result.item()) for result in self.results("clamp")]
        return (box[1], box[0], box[3], box[2]) if box else None


class _Listen(Callback):
    """Draws count from just before the mixing callback's `before_batch` to just after it."""

    run_valid = False

    def __init__(self, draws: _Draws, *, stop: bool = False) -> None:
        self.draws, self.stop, self.order = draws, stop, 1 if stop else -1

    def before_batch(self) -> None:
        self.draws.listening = not self.stop


class _Made(Callback):
    """Keeps what the callback made of the batch, after every other callback has run."""

    order, run_valid = 100, False

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self.arrays: dict[str, np.ndarray] = {}
        self.grads: dict[str, np.ndarray] = {}
        self.statistics: dict[str, np.ndarray] = {}

    def after_loss(self) -> None:
        made = {"x": self.xb[0], "y": self.yb[0], "lam": self.callback.lam, "logits": self.pred}
        made["loss"] = self.learn.loss
        self.arrays = {name: value.detach().numpy().copy() for name, value in made.items()}

    def before_backward(self) -> None:
        self.learn.loss_grad = self.learn.loss_grad.mean()

    def before_step(self) -> None:
        parameters, buffers = self.model.named_parameters(), self.model.named_buffers()
        self.grads = {name: p.grad.numpy().copy() for name, p in parameters if p.grad is not None}
        self.statistics = {name: value.numpy().copy() for name, value in buffers}
        raise CancelStepException


@contextlib.contextmanager
def replayed(function: Callable[..., Any], results: Iterator[torch.Tensor]) -> Iterator[None]:
    """Within it, each call of a torch function, say `torch.randint`, gives the next of `results` instead."""

    class Replay(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return next(results) if func is function else func(*args, **(kwargs or {}))

    with Replay():
        yield

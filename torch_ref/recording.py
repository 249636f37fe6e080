"""Run a fastai callback in a real Learner; record, from outside, what it drew and what it made of each batch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from fastai.basics import Callback, CancelStepException
from torch.overrides import TorchFunctionMode

from jax_mix import Mix
from torch_ref import fitting


@dataclasses.dataclass
class Recording:
    """One training batch as a fastai callback mixed it, in torch's own layout (NCHW)."""

    lam_drawn: np.ndarray | None  # what Beta gave, before folding or clipping: [batch], or [1] (CutMix)
    partner: np.ndarray | None  # [batch]
    centre: tuple[int, int] | None  # CutMix: (row, column)
    box: tuple[int, int, int, int] | None  # CutMix: (y1, x1, y2, x2), as fastai clipped it
    layer: str  # Manifold Mixup: where, else "input"
    lam: np.ndarray | None  # what the callback left in `lam`: [batch], or [1] (CutMix)
    own_x: np.ndarray  # what the DataLoader gave
    own_y: np.ndarray
    x: np.ndarray  # what the model was called with
    y: np.ndarray  # what the loss was called with
    logits: np.ndarray
    loss: np.ndarray
    grads: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # by parameter; `run` fills these two
    statistics: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # BatchNorm's, after the batch

    def mix(self) -> Mix | None:
        """The same draw for jax_mix: lambda from Beta's sample or from the box, not from the callback's `lam`."""
        if self.partner is None or self.lam_drawn is None:
            return None
        partner = self.partner.astype(np.int32)
        if self.box is not None:
            return Mix.from_box(partner, np.array(self.box, np.int32), self.x.shape[2:])
        return Mix(np.maximum(self.lam_drawn, 1 - self.lam_drawn), partner, layer=self.layer)


@dataclasses.dataclass
class Given:
    """A draw to put into a fastai callback in place of its own."""

    lam: np.ndarray  # what Beta is to give: [batch], or [1] (CutMix)
    partner: np.ndarray  # [batch]
    centre: tuple[int, int] | None = None  # CutMix: (row, column)

    def results(self) -> dict[str, list[torch.Tensor]]:
        """What each of torch's functions is to return, call by call."""
        lam = torch.tensor(self.lam)
        row_column = [] if self.centre is None else [torch.tensor([at]) for at in self.centre]
        return {
            "_sample_dirichlet": [torch.stack([lam, 1 - lam], dim=-1)],  # Beta samples as Dirichlet
            "randperm": [torch.tensor(self.partner, dtype=torch.int64)],
            "randint": row_column[::-1],  # fastai draws the column first
        }


def record(
    fit: Callable[[list[Callback]], Any], callback: Any, *, given: Sequence[Given] = (), seed: int = 0
) -> list[Recording]:
    """Every training batch of a fit under `callback`, which is used as it is.

    Args:
      fit: runs a Learner's `fit` with the fastai callbacks that it gets.
      callback: a fastai callback that mixes, or None.
      given: for each batch a draw to use in place of the callback's own; none by default.
      seed: of torch and of numpy.

    Source: fastai's training loop, `fastai.learner.Learner`.
    """
    draws = _Draws([g.results() for g in given])
    keep = _Keep(draws, callback)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the layer is drawn from numpy's global state, as in ManifoldMixupV2
    with draws:
        fit([_Before(draws, keep), keep, *([callback, _After(draws)] if callback else [])])
    return keep.recordings


def run(
    callback: Any,
    model: torch.nn.Module,
    loss_func: Any,
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int = 0,
    given: Given | None = None,
) -> Recording:
    """One batch in training through `model` under `callback`, which is used as it is, and back. No step is taken.

    Args:
      callback: a fastai callback that mixes.
      model: called in training mode; only its BatchNorm statistics change.
      loss_func: as `fastai.basics.Learner` takes it. Gradients are of the loss or, if it is not reduced, its mean.
      x: float images `[batch, channels, height, width]`; copied first, for fastai's CutMix writes into its batch.
      y: targets `[batch, ...]`, class numbers or floats.
      seed: of torch and of numpy.
      given: a draw to use in place of the callback's own.
    """
    learner, back = fitting.learner(model, loss_func, fitting.in_order(x, y, len(x))), _BackwardOnly()
    with one_thread():
        (recording,) = record(
            lambda cbs: learner.fit(1, cbs=[*cbs, back]), callback, given=[given] if given else [], seed=seed
        )
    return dataclasses.replace(recording, grads=back.grads, statistics=back.statistics)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Without it, on a busy machine, each small operation waits 10 ms for its other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """CutMix's lambda is a quotient of whole numbers: of this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Draws(TorchFunctionMode):
    """Keeps the results of torch's random functions, and of `clamp`, whose four results are CutMix's box."""

    KEPT = ("_sample_dirichlet", "randperm", "randint", "clamp")

    def __init__(self, given: list[dict[str, list[torch.Tensor]]]) -> None:
        super().__init__()
        self.listening = False
        self.given = given  # for each batch and function, results to give in place of its own
        self.kept: dict[str, list[np.ndarray]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if not self.listening or name not in self.KEPT:
            return func(*args, **(kwargs or {}))
        given = self.given[0].get(name) if self.given else None
        result = func(*args, **(kwargs or {})) if given is None else given.pop(0)
        self.kept.setdefault(name, []).append(result.numpy().copy())
        return result

    def next_batch(self) -> dict[str, list[np.ndarray]]:
        """What was kept of this batch."""
        kept, self.kept, self.given = self.kept, {}, self.given[1:]
        return kept


class _Before(Callback):
    """Just before the mixing callback's `before_batch`: keeps the batch, and from here on its draws."""

    order, run_valid = -1, False

    def __init__(self, draws: _Draws, keep: _Keep) -> None:
        self.draws, self.keep = draws, keep

    def before_batch(self) -> None:
        self.keep.own = {"own_x": self.xb[0].numpy().copy(), "own_y": self.yb[0].numpy().copy()}
        self.draws.listening = True


class _After(Callback):
    """Just after it: what is drawn now is not the callback's."""

    order, run_valid = 1, False

    def __init__(self, draws: _Draws) -> None:
        self.draws = draws

    def before_batch(self) -> None:
        self.draws.listening = False


class _Keep(Callback):
    """Keeps what the callback drew and what it made of each batch, after every other callback has run."""

    order, run_valid = 100, False

    def __init__(self, draws: _Draws, callback: Any) -> None:
        self.draws, self.callback = draws, callback
        self.recordings: list[Recording] = []
        self.own: dict[str, np.ndarray] = {}

    def after_loss(self) -> None:
        kept = self.draws.next_batch()
        column_row = [int(at.item()) for at in kept.get("randint", [])]
        x1_y1_x2_y2 = [int(at.item()) for at in kept.get("clamp", [])]
        made = {"x": self.xb[0], "y": self.yb[0], "logits": self.pred, "loss": self.learn.loss}
        if self.callback:
            made["lam"] = self.callback.lam
        self.recordings.append(
            Recording(
                lam_drawn=kept["_sample_dirichlet"][0][..., 0] if kept else None,
                partner=kept["randperm"][0] if kept else None,
                centre=(column_row[1], column_row[0]) if column_row else None,
                box=tuple(x1_y1_x2_y2[i] for i in (1, 0, 3, 2)) if x1_y1_x2_y2 else None,  # type: ignore[arg-type]
                layer=getattr(self.callback, "layer_name", "input"),
                **{"lam": None, **self.own, **{name: value.detach().numpy().copy() for name, value in made.items()}},
            )
        )


class _BackwardOnly(Callback):
    """Takes gradients, of the mean if the loss is not reduced, and keeps them; takes no step."""

    order, run_valid = 100, False

    def before_backward(self) -> None:
        self.learn.loss_grad = self.learn.loss_grad.mean()

    def before_step(self) -> None:
        parameters, buffers = self.model.named_parameters(), self.model.named_buffers()
        self.grads = {name: p.grad.numpy().copy() for name, p in parameters if p.grad is not None}
        self.statistics = {name: value.numpy().copy() for name, value in buffers}
        raise CancelStepException

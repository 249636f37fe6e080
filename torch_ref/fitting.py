"""fastai's own training loop, optimizers and schedules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import fastai.callback.schedule  # noqa: F401 - gives Learner its fit_one_cycle
import torch
from fastai.basics import SGD, Adam, Callback, DataLoader, DataLoaders, Learner, TrainEvalCallback

OPTIMIZERS = {  # by the names that train.py has for them
    "sgd": partial(SGD, mom=0.9, decouple_wd=False),
    "adam": partial(Adam, decouple_wd=False),
    "adamw": partial(Adam, decouple_wd=True),
}


def in_order(x: Any, y: Any, batch_size: int) -> DataLoader:
    """A DataLoader of the samples `x` `[n, ...]` and `y` `[n, ...]` in their order, of which it keeps a copy."""
    return DataLoader(list(zip(torch.tensor(x), torch.tensor(y), strict=True)), bs=batch_size, num_workers=0)


def learner(
    model: torch.nn.Module,
    loss_func: Any,
    loader: Any,
    *,
    opt_func: Any = SGD,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
) -> Learner:
    """A fastai Learner on the CPU.

    Args:
      model: trained in place.
      loss_func: as `fastai.basics.Learner` takes it.
      loader: fastai's or torch's, of (x, y).
      opt_func: fastai's, say one of `OPTIMIZERS`.
      learning_rate: the peak of a schedule, or the constant.
      weight_decay: fastai's `wd`.

    Source: `fastai.learner.Learner`.
    """
    dls = DataLoaders(loader, DataLoader([], bs=1, num_workers=0), device=torch.device("cpu"))
    return Learner(
        dls,
        model,
        loss_func,
        opt_func,
        lr=learning_rate,
        wd=weight_decay,
        default_cbs=False,  # the others only show and record, and fastai's Recorder cannot do so in float64
        cbs=TrainEvalCallback(),
    )


def fit(learner: Learner, schedule: str, *, epochs: int = 1, cbs: Sequence[Callback] = ()) -> None:
    """fastai's `fit` for the schedule "constant", its `fit_one_cycle` for "one_cycle", at the learner's rate."""
    (learner.fit_one_cycle if schedule == "one_cycle" else learner.fit)(epochs, cbs=list(cbs))

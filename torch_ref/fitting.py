"""fastai's own training loop, optimizers and schedules, set up from the names that train.py's Config has for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import fastai.callback.schedule  # noqa: F401 - gives Learner its fit_one_cycle
import torch
from fastai.basics import SGD, Adam, Callback, DataLoader, DataLoaders, Learner, TrainEvalCallback

OPTIMIZERS = {
    "sgd": partial(SGD, mom=0.9, decouple_wd=False),
    "adam": partial(Adam, decouple_wd=False),
    "adamw": partial(Adam, decouple_wd=True),
}


def fit(
    model: torch.nn.Module,
    loss_func: Any,
    loader: Any,
    *,
    optimizer: str,
    schedule: str,
    learning_rate: float,
    weight_decay: float,
    epochs: int = 1,
    cbs: Sequence[Callback] = (),
) -> Learner:
    """Train `model` in place on the CPU.

    Args:
      model: trained in place.
      loss_func: as `fastai.basics.Learner` takes it.
      loader: fastai's or torch's, of (x, y).
      optimizer: "sgd", "adam" or "adamw".
      schedule: "one_cycle" or "constant".
      learning_rate: the peak, or the constant.
      weight_decay: fastai's `wd`.
      epochs: passes over `loader`.
      cbs: fastai callbacks.

    Source: `fastai.learner.Learner.fit`, `fastai.callback.schedule.fit_one_cycle`.
    """
    dls = DataLoaders(loader, DataLoader([], bs=1, num_workers=0), device=torch.device("cpu"))
    learner = Learner(
        dls,
        model,
        loss_func,
        OPTIMIZERS[optimizer],
        lr=learning_rate,
        wd=weight_decay,
        default_cbs=False,  # the others only show and record, and fastai's Recorder cannot do so in float64
        cbs=TrainEvalCallback(),
    )
    (learner.fit_one_cycle if schedule == "one_cycle" else learner.fit)(epochs, cbs=list(cbs))
    return learner

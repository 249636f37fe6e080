"""Optimizers and schedules, as fastai's: `Learner(opt_func=SGD or Adam)` with `fit` or `fit_one_cycle`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["one_cycle", "cosine", "step", "constant"]


@functools.cache  # the same object for the same run, so that what is compiled for one serves the next
def make(
    optimizer: OptimizerName,
    schedule: ScheduleName,
    *,
    learning_rate: float,
    weight_decay: float,
    steps: int,
    milestones: tuple[float, ...] = (0.5, 0.75),
) -> optax.GradientTransformation:
    """The optimizer that fastai calls SGD or Adam, on one of its schedules.

    | optimizer | fastai                                | weight decay is added to |
    |-----------|---------------------------------------|--------------------------|
    | sgd       | `partial(SGD, mom=0.9, decouple_wd=False)` | the gradient        |
    | adam      | `partial(Adam, decouple_wd=False)`    | the gradient             |
    | adamw     | `Adam`                                | the step                 |

    Kernels decay, biases and scales of norms do not (fastai's `wd_bn_bias=False`).

    Args:
      optimizer: "sgd", "adam" or "adamw".
      schedule: "one_cycle": the rate goes from a 25th up and down to 1/100,000 of `learning_rate`, momentum (Adam's b1)
        from 0.95 to 0.85 and back. With the others momentum stays at 0.9. "cosine": the rate falls to 0 along half a
        cosine. "step": it is divided by 10 at each milestone. "constant": it stays.
      learning_rate: the peak, the start, or the constant.
      weight_decay: 0 for none.
      steps: of the whole run.
      milestones: where "step" divides, as parts of the run in (0, 1).

    Returns:
      An optax transformation whose `update` needs the parameters.

    Source: `fastai.optimizer.SGD`, `Adam`; `fastai.callback.schedule.fit_one_cycle`; the steps of mixup's and CutMix's
    papers, at a half and three quarters (Manifold Mixup's authors: at a third and two thirds).
    """
    rate: float | optax.Schedule = learning_rate
    momentum: float | optax.Schedule = 0.9
    if schedule == "one_cycle":
        rate = one_cycle(steps, learning_rate / 25, learning_rate, learning_rate / 1e5)
        momentum = one_cycle(steps, 0.95, 0.85, 0.95)
    elif schedule == "cosine":
        rate = optax.cosine_decay_schedule(learning_rate, steps)
    elif schedule == "step":
        at = [round(part * steps) for part in milestones]
        rate = optax.piecewise_constant_schedule(learning_rate, {step: 0.1 ** at.count(step) for step in at})

    def transformation(rate: Any, momentum: Any) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(weight_decay, mask=_kernels)
        adam = optax.scale_by_adam(b1=momentum, b2=0.99, eps=1e-5)
        parts = {"sgd": [decay, optax.trace(momentum)], "adam": [decay, adam], "adamw": [adam, decay]}[optimizer]
        return optax.chain(*parts, optax.scale_by_learning_rate(rate))

    return optax.inject_hyperparams(transformation)(rate=rate, momentum=momentum)


def one_cycle(steps: int, start: float, peak: float, end: float, *, pct_start: float = 0.25) -> Callable[[Any], Any]:
    """fastai's `combined_cos`: a cosine from `start` to `peak` in the first `pct_start`, then one to `end`.

    >>> rate = one_cycle(100, 0.04, 1.0, 0.0)
    >>> [round(float(rate(step)), 3) for step in (0, 25, 50, 99)]
    [0.04, 1.0, 0.75, 0.0]

    Args:
      steps: of the whole cycle; step `i` is at `i / steps`, later ones stay at the last.
      start: value at step 0.
      peak: value at `pct_start * steps`.
      end: value that the step after the last would have.
      pct_start: where the peak is, in (0, 1).

    Returns:
      A schedule: step number, int `[]`, to value, float `[]`.

    Source: `fastai.callback.schedule.combined_cos`.
    """
    # A table, for fastai's numbers to the last digit: it computes the position in float32 and the cosine in float64.
    peak_at = np.float32(pct_start)
    position = (np.arange(steps) / steps).astype(np.float32)
    rising = position < peak_at
    within = np.where(rising, position / peak_at, (position - peak_at) / (1 - peak_at)).astype(np.float64)
    first, last = np.where(rising, start, peak), np.where(rising, peak, end)
    values = first + (1 + np.cos(np.pi * (1 - within))) * (last - first) / 2
    # Cast here: JAX keeps what it made of an array, and with x64 switched off later would give float64 again.
    return lambda step: jnp.asarray(values.astype(jnp.result_type(float)))[jnp.minimum(step, steps - 1)]


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)  # not norms' scales, nor biases

"""Optimizers and schedules: fastai's `SGD` and `Adam` with `fit` or `fit_one_cycle`; timm's LAMB, and its warm-up."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

OptimizerName = Literal["sgd", "adam", "adamw", "lamb"]
ScheduleName = Literal["one_cycle", "fine_tune", "cosine", "step", "constant"]
_NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm, nnx.InstanceNorm, nnx.RMSNorm)


class Body(NamedTuple):
    """How all of a network but its head learns; names are paths of modules, joined by dots.

    Attributes:
      head: the name of the head.
      norms: the names of the norms, which learn while the rest is frozen.
      frozen: for how many steps, from the first.
      rate: of learning after them, as a part of the head's.
    """

    head: str
    norms: frozenset[str]
    frozen: int
    rate: float


def body_of(model: nnx.Module, head: str, *, frozen: int, rate: float) -> Body:
    """The `Body` of a model whose head is the module `head`."""
    modules = nnx.iter_modules(model)
    norms = frozenset(".".join(map(str, path)) for path, module in modules if isinstance(module, _NORMS))
    return Body(head, norms, frozen, rate)


@functools.cache  # the same object for the same run, so that what is compiled for one serves the next
def make(
    optimizer: OptimizerName,
    schedule: ScheduleName,
    *,
    learning_rate: float,
    weight_decay: float,
    steps: int,
    milestones: tuple[float, ...] = (0.5, 0.75),
    body: Body | None = None,
    warmup: int = 0,
    clip_norm: float | None = None,
    beta2: float | None = None,
    epsilon: float | None = None,
    layer_rates: tuple[tuple[str, float], ...] | None = None,
) -> optax.GradientTransformation:
    """The optimizer that fastai calls SGD or Adam, or timm's LAMB, on a schedule.

    | optimizer | fastai                                | weight decay is added to |
    |-----------|---------------------------------------|--------------------------|
    | sgd       | `partial(SGD, mom=0.9, decouple_wd=False)` | the gradient        |
    | adam      | `partial(Adam, decouple_wd=False)`    | the gradient             |
    | adamw     | `Adam`                                | the step                 |
    | lamb      | timm's `Lamb`                         | the step, before its norm is taken |

    Kernels decay, biases and scales of norms do not (fastai's `wd_bn_bias=False`).

    Args:
      optimizer: "sgd", "adam", "adamw" or "lamb".
      schedule: "one_cycle": the rate goes from a 25th up and down to 1/100,000 of `learning_rate`, momentum (Adam's b1)
        from 0.95 to 0.85 and back. With the others momentum stays at 0.9. "cosine": the rate falls to 0 along half a
        cosine. "step": it is divided by 10 at each milestone. "constant": it stays. "fine_tune": two cycles, one of the
        steps in which the body is frozen, and one of the rest at half the rate, from a fifth of it.
      learning_rate: the peak, the start, or the constant.
      weight_decay: 0 for none.
      steps: of the whole run.
      milestones: where "step" divides, as parts of the run in (0, 1).
      body: what learns more slowly, or is frozen for some steps; None: all learns alike. While the body is frozen its
        norms learn at a tenth of the rate; then momentum, and Adam's averages, begin anew. "fine_tune" needs it.
      warmup: steps, from the first, in which the rate goes in a straight line from a thousandth of `learning_rate` to
        all of it; after them it is what the schedule has there, which begins with the first step all the same.
      clip_norm: gradients whose norm, that of all parameters together, is larger are scaled down to it; None: none are.
      beta2: how much of Adam's mean of squared gradients stays; None: 0.99, fastai's, with "lamb" 0.999, timm's.
      epsilon: what Adam adds to its root; None: 1e-5, fastai's, with "lamb" 1e-6, timm's.
      layer_rates: of each parameter, by its path joined by dots, its part of the rate; None: all have all of it.

    Returns:
      An optax transformation whose `update` needs the parameters.

    Source: `fastai.optimizer.SGD`, `Adam`; `fastai.callback.schedule.fit_one_cycle`, `fine_tune`, with `freeze` and
    `train_bn` of `fastai.learner.Learner`; the steps of mixup's and CutMix's papers, at a half and three quarters
    (Manifold Mixup's authors: at a third and two thirds); `timm.optim.Lamb`; the warm-up of
    `timm.scheduler.CosineLRScheduler`, by updates; `torch.nn.utils.clip_grad_norm_`.
    """
    rate: float | optax.Schedule = learning_rate
    momentum: float | optax.Schedule = 0.9
    if schedule == "one_cycle":
        rate = one_cycle(steps, learning_rate / 25, learning_rate, learning_rate / 1e5)
        momentum = one_cycle(steps, 0.95, 0.85, 0.95)
    elif schedule == "fine_tune":
        assert body is not None
        rest, half = steps - body.frozen, learning_rate / 2
        first = one_cycle(body.frozen, learning_rate / 25, learning_rate, learning_rate / 1e5, pct_start=0.99)
        second = one_cycle(rest, half / 5, half, half / 1e5, pct_start=0.3)
        rate = _one_after_the_other(first, second, body.frozen)
        first, second = (one_cycle(n, 0.95, 0.85, 0.95, pct_start=p) for n, p in ((body.frozen, 0.99), (rest, 0.3)))
        momentum = _one_after_the_other(first, second, body.frozen)
    elif schedule == "cosine":
        rate = optax.cosine_decay_schedule(learning_rate, steps)
    elif schedule == "step":
        at = [round(part * steps) for part in milestones]
        rate = optax.piecewise_constant_schedule(learning_rate, {step: 0.1 ** at.count(step) for step in at})

    if warmup:
        rate = _warmed_up(rate, learning_rate, warmup)
    b2, eps = (0.999, 1e-6) if optimizer == "lamb" else (0.99, 1e-5)
    b2, eps = b2 if beta2 is None else beta2, eps if epsilon is None else epsilon

    def transformation(rate: Any, momentum: Any) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(weight_decay, mask=_kernels)
        adam = optax.scale_by_adam(b1=momentum, b2=b2, eps=eps)
        # As timm's: gradients are clipped, and what does not decay is not scaled by its norm, which optax.lamb does.
        trust = [optax.masked(optax.scale_by_trust_ratio(), _kernels)] if weight_decay else []
        parts: dict[str, list[Any]] = {
            "sgd": [decay, optax.trace(momentum)],
            "adam": [decay, adam],
            "adamw": [adam, decay],
            "lamb": [_clipped(1.0, added=0.0), adam, decay, *trust],
        }
        first = [] if clip_norm is None else [_clipped(clip_norm, added=1e-6)]
        last = [] if layer_rates is None else [_by_layer(dict(layer_rates))]
        return optax.chain(*first, *parts[optimizer], optax.scale_by_learning_rate(rate), *last)

    if body is None:
        return optax.inject_hyperparams(transformation)(rate=rate, momentum=momentum)
    frozen, after = body.frozen, body.rate

    def with_body(rate: Any, momentum: Any, of_body: Any, of_norms: Any, anew: Any) -> optax.GradientTransformation:
        return optax.chain(_started_anew(transformation(rate, momentum), anew), _scaled(body, of_body, of_norms))

    return optax.inject_hyperparams(with_body)(
        rate=rate,
        momentum=momentum,
        of_body=lambda step: jnp.where(step < frozen, 0.0, after),
        of_norms=lambda step: jnp.where(step < frozen, 0.1, after),
        anew=lambda step: jnp.where(step == frozen, 1.0, 0.0),
    )


def _started_anew(inner: optax.GradientTransformation, anew: Any) -> optax.GradientTransformation:
    """`inner`, whose state is that of its beginning in a step in which `anew`, float `[]`, is not 0."""

    def update(updates: Any, state: Any, params: Any) -> Any:
        state = jax.tree.map(lambda first, now: jnp.where(anew > 0, first, now), inner.init(params), state)
        return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def _scaled(body: Body, of_body: Any, of_norms: Any) -> optax.GradientTransformation:
    """The updates of a body and of its norms times numbers, float `[]`; 0 leaves parameters exactly as they are."""

    def scale(path: Any, update: Any) -> Any:
        names = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        above = {".".join(names[:count]) for count in range(len(names))}
        if body.head in above:
            return update
        by = of_norms if above & body.norms else of_body
        return jnp.where(by == 0, jnp.zeros_like(update), update * by.astype(update.dtype))

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates))


def _clipped(most: float, *, added: float) -> optax.GradientTransformation:
    """Gradients whose norm is above `most`, of all of them together, scaled down to it; `added` to the norm before."""

    def clip(updates: Any, params: Any) -> Any:
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(update)) for update in jax.tree.leaves(updates)))
        by = jnp.minimum(1.0, most / (norm + added))
        return jax.tree.map(lambda update: update * by.astype(update.dtype), updates)

    return optax.stateless(clip)


def _by_layer(rates: dict[str, float]) -> optax.GradientTransformation:
    """The update of each parameter times its part of the rate."""

    def scale(path: Any, update: Any) -> Any:
        return update * rates[jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")]

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates))


def _warmed_up(rate: Any, peak: float, steps: int) -> Callable[[Any], Any]:
    """In the first `steps` a line from a thousandth of `peak` to all of it, in the place of what `rate` has there."""
    first = peak / 1000

    def warmed(step: Any) -> Any:
        return jnp.where(step < steps, first + step * ((peak - first) / steps), rate(step) if callable(rate) else rate)

    return warmed


def _one_after_the_other(first: Callable[[Any], Any], second: Callable[[Any], Any], count: int) -> Callable[[Any], Any]:
    """The schedule `first` for `count` steps, then `second`."""
    return lambda step: jnp.where(step < count, first(step), second(jnp.maximum(step - count, 0)))


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

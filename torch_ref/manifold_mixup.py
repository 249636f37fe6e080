"""Manifold Mixup as a fastai callback, with the semantics of ManifoldMixupV2."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fastai.basics import Callback, NoneReduce
from fastai.callback.mixup import reduce_loss
from torch.distributions import Beta


class ManifoldMixup(Callback):
    """Blend the samples' hidden states at a random layer, and their targets or losses. Pass it to `fit(cbs=...)`.

    Each batch draws, in this order: partners, one lambda a sample, folded to max(lam, 1-lam), and a layer, uniform
    over the input and `layers`. That layer's output is blended at its first call in the forward pass.

    Nothing is left behind by an exception, Ctrl-C included: the learner's loss function is never replaced, and
    `fit` lets go of its callbacks in any case, which removes the hook.

    Args:
      alpha: Beta's parameter.
      layers: names of the model's modules, as `model.get_submodule` takes them.
      use_input: whether the input is among the layers.

    Source: arXiv:1806.05236, section 2; semantics of ManifoldMixupV2's `ManifoldMixup`, first call only included.
    """

    run_valid = False

    def __init__(self, alpha: float = 0.4, *, layers: Sequence[str], use_input: bool = True) -> None:
        self.distribution = Beta(torch.tensor(float(alpha)), torch.tensor(float(alpha)))
        self.layers, self.use_input = tuple(layers), use_input
        self.layer_name = "input"  # the one last drawn
        self._hook: Any = None
        self._warned = False

    @property
    def learn(self) -> Any:
        return self._learn

    @learn.setter
    def learn(self, learn: Any) -> None:
        # `fit(cbs=...)` sets it to None in a `finally`: fastai has no event for exceptions that are not its own.
        if learn is None and self._learn is not None:
            self._remove_hook()
        object.__setattr__(self, "_learn", learn)

    _learn: Any = None

    def before_batch(self) -> None:
        n = len(self.yb[0])
        self.partner = torch.randperm(n).to(self.yb[0].device)
        lam = self.distribution.sample((n,)).to(self.yb[0].device)
        self.lam = torch.maximum(lam, 1 - lam)
        index = np.random.randint(-1 if self.use_input else 0, len(self.layers))  # noqa: NPY002 - V2's own source
        self.layer_name = "input" if index < 0 else self.layers[index]

        if index < 0:
            self.learn.xb = tuple(self._blend(x) for x in self.xb)
        else:
            self._called = False
            self._hook = self.model.get_submodule(self.layer_name).register_forward_hook(self._at_layer)
        self.partner_yb = tuple(y[self.partner] for y in self.yb)
        self._stacked = getattr(self.loss_func, "y_int", False)  # class numbers: the losses are blended instead
        if not self._stacked:
            self.learn.yb = tuple(self._blend(y) for y in self.yb)

    def _at_layer(self, module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if not self._called:
            self._called = True
            return self._blend(output)
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self.layer_name!r} is called again: it is mixed at its first call only.", stacklevel=2)
        return None

    def _blend(self, x: torch.Tensor) -> torch.Tensor:
        return self._lerp(x, x[self.partner])

    def _lerp(self, own: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
        """`lam * own + (1 - lam) * partners`, in float32 also under mixed precision; `[batch, ...]`."""
        dtype = torch.promote_types(own.dtype, torch.float32)
        lam = self.lam.to(dtype).reshape(-1, *[1] * (own.ndim - 1))
        return torch.lerp(partners.to(dtype), own.to(dtype), lam).to(own.dtype)

    def after_loss(self) -> None:
        if not self._stacked:
            return
        with NoneReduce(self.loss_func) as loss_func:
            losses = self._lerp(loss_func(self.pred, *self.yb), loss_func(self.pred, *self.partner_yb))
        self.learn.loss_grad = reduce_loss(losses, getattr(self.loss_func, "reduction", "mean"))
        self.learn.loss = self.learn.loss_grad.clone()

    def after_batch(self) -> None:
        self._remove_hook()

    def after_fit(self) -> None:  # fastai's own Cancel exceptions skip `after_batch`
        self._remove_hook()

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

"""The methods by the names that --mix knows."""

from __future__ import annotations

from typing import Any

import jax_mix
from jax_mix._explain import told_where

Method = jax_mix.MixUp | jax_mix.ManifoldMixup | jax_mix.CutMix
METHODS: dict[str, Any] = {
    "mixup": jax_mix.MixUp,
    "manifold": jax_mix.ManifoldMixup,
    "cutmix": jax_mix.CutMix,
}


def told(method: Method | None) -> str:
    """What is mixed where, as one line.

    >>> told(jax_mix.ManifoldMixup(0.4, layers=("layer1",)))
    "Manifold Mixup, alpha 0.4. Each batch is mixed at one of 2 places, drawn at random: 'input' or 'layer1'."
    """
    if method is None:
        return "no mixing"
    if isinstance(method, jax_mix.ManifoldMixup):
        return f"Manifold Mixup, alpha {method.alpha:g}. {told_where(method.places)}"
    return f"{type(method).__name__}, alpha {method.alpha:g}"

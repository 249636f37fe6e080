"""The methods by the names that --mix knows."""

from __future__ import annotations

from typing import Any

import jax_mix

Method = jax_mix.MixUp | jax_mix.ManifoldMixup | jax_mix.CutMix
METHODS: dict[str, Any] = {
    "mixup": jax_mix.MixUp,
    "manifold": jax_mix.ManifoldMixup,
    "cutmix": jax_mix.CutMix,
}

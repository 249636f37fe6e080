"""MixUp, Manifold Mixup and CutMix for JAX and Flax: draw, mix, loss.

>>> import jax, jax.numpy as jnp, jax_mix
>>> image, target = jax_mix.mixup(jax.random.key(0), jnp.ones((4, 8, 8, 1)), jnp.eye(4), alpha=0.4)
"""

from jax_mix._forward import forward
from jax_mix._functional import cutmix, manifold_mixup, mixup
from jax_mix._layers import Layer, list_layers
from jax_mix._methods import CutMix, ManifoldMixup, MixUp
from jax_mix._mix import Mix, mixed_loss
from jax_mix._points import LinenMixPoint, MixPoint

__all__ = [
    "CutMix",
    "Layer",
    "LinenMixPoint",
    "ManifoldMixup",
    "Mix",
    "MixPoint",
    "MixUp",
    "cutmix",
    "forward",
    "list_layers",
    "manifold_mixup",
    "mixed_loss",
    "mixup",
]
__version__ = "0.1.0"

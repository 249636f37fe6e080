"""MixUp, Manifold Mixup and CutMix for JAX and Flax: draw, mix, loss.

Methods, whose `sample` draws:  MixUp, CutMix, ManifoldMixup, OutputMixup; OneOf of several
A draw, and what it does:       Mix, its blend and targets
Models, mixed inside:           forward; list_layers, of Layer; MixPoint and LinenMixPoint mark a place
Losses and metrics:             mixed_loss, MixedAccuracy
One line, a batch in and out:   mixup, cutmix, manifold_mixup
Other libraries' own numbers:   recipes
Pictures:                       plot

>>> import jax, jax.numpy as jnp, jax_mix
>>> image, target = jax_mix.mixup(jax.random.key(0), jnp.ones((4, 8, 8, 1)), jnp.eye(4), alpha=0.4)
"""

from jax_mix import plot as plot
from jax_mix import recipes as recipes
from jax_mix._cutmix import CutMix
from jax_mix._forward import forward
from jax_mix._functional import cutmix, manifold_mixup, mixup
from jax_mix._layers import Layer, list_layers
from jax_mix._losses import mixed_loss
from jax_mix._methods import ManifoldMixup, MixUp, OutputMixup
from jax_mix._metrics import MixedAccuracy
from jax_mix._mix import Mix
from jax_mix._one_of import OneOf
from jax_mix._points import LinenMixPoint, MixPoint

__all__ = [
    "CutMix",
    "Layer",
    "LinenMixPoint",
    "ManifoldMixup",
    "Mix",
    "MixPoint",
    "MixUp",
    "MixedAccuracy",
    "OneOf",
    "OutputMixup",
    "cutmix",
    "forward",
    "list_layers",
    "manifold_mixup",
    "mixed_loss",
    "mixup",
]
__version__ = "0.1.0"

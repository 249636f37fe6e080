"""Marks that a user may put in a model, where it may be mixed."""

from __future__ import annotations

from typing import Any

from flax import linen, nnx


class MixPoint(nnx.Module):
    """A mark in an NNX model: what passes through it may be mixed. It changes nothing by itself.

    With marks in a model, `ManifoldMixup(alpha).bind(model, image)` chooses them and nothing else.

    Args:
      x: any arrays. Returns them as they are.

    Source: ManifoldMixupV2's `ManifoldMixupModule`.

    >>> import jax, jax_mix
    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), jax_mix.MixPoint(), nnx.Linear(8, 2, rngs=rngs))
    >>> jax_mix.ManifoldMixup(0.4).bind(model, jax.ShapeDtypeStruct((2, 4), "float32")).layers
    ('layers.1',)
    """

    def __call__(self, x: Any) -> Any:
        return x


class LinenMixPoint(linen.Module):
    """A mark in a Linen model: what passes through it may be mixed. It changes nothing by itself.

    Args:
      x: any arrays. Returns them as they are.

    Source: ManifoldMixupV2's `ManifoldMixupModule`.

    >>> import jax, jax_mix
    >>> from flax import linen as nn
    >>> model = nn.Sequential([nn.Dense(8), jax_mix.LinenMixPoint(), nn.Dense(2)])
    >>> image = jax.ShapeDtypeStruct((2, 4), "float32")
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), image)
    >>> jax_mix.ManifoldMixup(0.4).bind(model, image, variables=variables).layers
    ('layers_1',)
    """

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return x

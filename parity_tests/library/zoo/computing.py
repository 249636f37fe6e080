"""What mixing at a layer gives, found by computing, without any analysis."""

import jax
import numpy as np
from flax import nnx

import jax_mix

PARTNER = np.array([2, 3, 1, 0])  # nobody is their own


def partners_of(tree):
    """The arguments of the partners: all arrays that carry the batch are permuted."""
    is_batch = lambda a: isinstance(a, jax.Array) and a.shape[:1] == PARTNER.shape  # noqa: E731
    return jax.tree.map(lambda a: a[PARTNER] if is_batch(a) else a, tree)


def compiled(model, variables, kwargs, layers):
    """`jax_mix.forward` with those partners, one program for all layers: call(layer, lam, args, kwargs)."""
    flags = {name: value for name, value in kwargs.items() if not isinstance(value, jax.Array)}
    graphdef, state = nnx.split(model) if isinstance(model, nnx.Module) else (None, variables)

    def run(state, layer, lam, args, kwargs):
        x, *others = args
        mix = jax_mix.Mix(lam, PARTNER, layer=layer, layers=layers)
        if graphdef is None:
            return jax_mix.forward(model, x, mix, *others, variables=state, **kwargs, **flags)
        return jax_mix.forward(nnx.merge(graphdef, state), x, mix, *others, **kwargs, **flags)

    program = jax.jit(run)

    def call(layer, lam, args, kwargs):
        arrays = {name: value for name, value in kwargs.items() if name not in flags}
        return jax.device_get(program(state, np.int32(layers.index(layer)), np.float32(lam), args, arrays))

    return call


def distance(got, want):
    """The largest difference of two trees of outputs, each in units of its largest value."""
    far = jax.tree.map(lambda a, b: np.max(np.abs(a - b)) / np.max(np.abs(b)), got, want)
    return max(jax.tree.leaves(far))

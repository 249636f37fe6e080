"""The zoo itself: every model runs, and what is told about its layers is so, found by computing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_mix
from parity_tests.library.zoo import ZOO, in_evaluation
from parity_tests.tolerances import assert_close

N = 4
PARTNER = jnp.array([2, 3, 1, 0])  # nobody is their own
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiling is what takes time


def compiled(model, variables, args, kwargs):
    """`jax_mix.forward` as one program of the draw, with the weights and the batch as arguments."""
    flags = {name: value for name, value in kwargs.items() if not isinstance(value, jax.Array)}
    arrays = {name: value for name, value in kwargs.items() if name not in flags}
    graphdef, state = nnx.split(model) if isinstance(model, nnx.Module) else (None, variables)

    def run(state, mix, args, arrays):
        x, *others = args
        if graphdef is None:
            return jax_mix.forward(model, x, mix, *others, variables=state, **arrays, **flags)
        return jax_mix.forward(nnx.merge(graphdef, state), x, mix, *others, **arrays, **flags)

    program = jax.jit(run, compiler_options=QUICK)
    return lambda mix: program(state, mix, args, arrays)


def distance(a, b):
    """The largest difference of two trees of outputs, in units of the largest value of each output."""
    far = jax.tree.map(lambda a, b: np.max(np.abs(a - b)) / np.max(np.abs(b)), jax.device_get(a), jax.device_get(b))
    return max(jax.tree.leaves(far))

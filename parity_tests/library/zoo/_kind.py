"""What one entry of the zoo tells, and how its model is built with weights that hide nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Kind(NamedTuple):
    """A model, what it is called with, and what its owner knows about its layers.

    A layer is a cut if every path from the batch to the outputs passes through its output.

    Attributes:
      name: of the kind.
      make: from a seed, the model and its variables, which are None for NNX.
      inputs: from a batch size, the arguments: a tuple and keyword arguments.
      owner: the layers that the model's owner would choose for Manifold Mixup.
      cuts, not_cuts: some that certainly are cuts, or are not.
      options: "eval", keyword arguments that switch BatchNorm and Dropout to inference (NNX: `model.eval()` does);
        "also", layers that an owner would not mind among the chosen ones.
    """

    name: str
    make: Callable[[int], tuple[Any, Any]]
    inputs: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
    owner: frozenset[str]
    cuts: frozenset[str]
    not_cuts: frozenset[str]
    options: dict[str, Any]


def kind(name, make, inputs, owner, cuts, not_cuts, **options):
    """A `Kind` whose layers are named in strings, with spaces between them."""
    names = (frozenset(text.split()) for text in (owner, cuts, not_cuts))
    options["also"] = frozenset(options.get("also", "").split())
    options.setdefault("eval", {})
    return Kind(name, make, inputs, *names, options)


def in_evaluation(kind, seed=0, n=4):
    """Model, variables, arguments and keyword arguments, with BatchNorm and Dropout in inference mode."""
    model, variables = kind.make(seed)
    if isinstance(model, nnx.Module):
        model.eval()
    args, kwargs = kind.inputs(n)
    return model, variables, args, kwargs | kind.options["eval"]


def make_nnx(cls, *args, **kwargs):
    def make(seed):
        shapes = nnx.eval_shape(lambda: cls(*args, rngs=nnx.Rngs(seed), **kwargs))
        return nnx.merge(nnx.graphdef(shapes), _filled(nnx.state(shapes), seed)), None

    return make


def make_linen(model, *shapes, **kwargs):
    """`shapes` and `kwargs` are what `init` needs."""

    def make(seed):
        variables = jax.eval_shape(lambda key, *x: model.init(key, *x, **kwargs), jax.random.key(seed), *shapes)
        return model, _filled(variables, seed)

    return make


def _filled(shapes, seed):
    """Weights drawn for these shapes: no branch, scale or statistic is one that would vanish or change nothing."""
    rng = np.random.default_rng(seed)

    def fill(path, shape):
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.zeros((*shape.shape, 2), jnp.uint32))
        if not jnp.issubdtype(shape.dtype, jnp.inexact):
            return jnp.zeros(shape.shape, shape.dtype)
        parts = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        name = parts[-2] if parts[-1] == "value" else parts[-1]
        value = rng.normal(size=shape.shape)
        if name in ("scale", "gamma"):
            value = 1 + 0.3 * value
        elif name == "var":
            value = np.exp(0.3 * value)
        elif name in ("bias", "mean"):
            value = 0.2 * value
        elif len(shape.shape) > 1:
            value *= 1.4 / np.sqrt(np.prod(shape.shape[:-1]))
        return jnp.asarray(value, shape.dtype)

    return jax.tree.map_with_path(fill, shapes)


def floats(*shape):
    """Inputs of one float array, `[n, *shape]`."""
    return lambda n: ((normal(n, *shape),), {})


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


def tokens(n, length, vocabulary=11, seed=0):
    return jnp.asarray(np.random.default_rng([seed, n, length]).integers(1, vocabulary, (n, length)), jnp.int32)

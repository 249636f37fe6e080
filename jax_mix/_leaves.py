"""Which arrays of a layer's output are mixed: those that are a batch of floats, less those that it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_mix._checks import suggest


def mixed_leaves(output: Any, inputs: Any, n: int, selector: str | None = None, what: str = "the layer") -> list[bool]:
    """For each leaf of a layer's output, whether it is mixed.

    A leaf is if it is a batch of `n` floats. One that is the very array that the layer was given, such as a mask that
    is handed on, is not, unless no other is left. A selector names one leaf, or all in a part of the tree.

    Args:
      output: what the layer put out, arrays or shapes in any pytree.
      inputs: what it was called with.
      n: the batch's size.
      selector: the name of a leaf, as `leaf_names` has them, or the start of several; None for all.
      what: how the layer is called in an error.

    Returns:
      A bool for each leaf, in the order of `jax.tree.leaves`. All are False if there is no batch of floats.

    Raises:
      ValueError: there is no such leaf, or it is no batch of floats.
    """
    leaves = flatten(output)[0]
    batches = [_is_batch(leaf, n) for leaf in leaves]
    if selector is not None:
        names = leaf_names(output)
        selected = [name == selector or name.startswith(selector + ".") for name in names]
        chosen = [batch and here for batch, here in zip(batches, selected, strict=True)]
        if not any(chosen):
            mixable = [name for name, batch in zip(names, batches, strict=True) if batch and name]
            told = f"is no batch of {n} floats: {shapes(output)}. " if any(selected) else "is not in its output: "
            raise ValueError(f"{what} has the selector [{selector}], which {told}{suggest(selector, mixable)}")
        return chosen
    given = {id(leaf) for leaf in flatten(inputs)[0]}
    made = [batch and id(leaf) not in given for batch, leaf in zip(batches, leaves, strict=True)]
    return made if any(made) else batches


def map_leaves(function: Callable[[list[Any]], list[Any]], tree: Any, chosen: Sequence[bool]) -> Any:
    """The tree with its chosen leaves, as one list, put through a function; the others are untouched."""
    leaves, structure = flatten(tree)
    changed = iter(function([leaf for leaf, here in zip(leaves, chosen, strict=True) if here]))
    full = [next(changed) if here else leaf for leaf, here in zip(leaves, chosen, strict=True)]
    return jax.tree.unflatten(structure, full)


def leaf_names(tree: Any) -> list[str]:
    """What each leaf is called in a selector: its keys, joined by dots."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_node)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


def shapes(output: Any) -> str:
    """A layer's output for an error message."""
    return str(jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}" if hasattr(a, "dtype") else type(a).__name__, output))


def _is_batch(leaf: Any, n: int) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact) and tuple(leaf.shape[:1]) == (n,)


def _is_node(value: Any) -> bool:
    return isinstance(value, (nnx.Pytree, nnx.Variable))  # a state of the model that is handed around, no activation


def flatten(tree: Any) -> Any:
    return jax.tree.flatten(tree, is_leaf=_is_node)

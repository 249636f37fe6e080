"""Running a Linen model with some of its modules' outputs going through a hook."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from flax.core import meta
from flax.core.scope import union_filters

from jax_mix._call import Call
from jax_mix._checks import is_concrete
from jax_mix._iterations import ITERATION, iterations, shared_length, warn_called_again
from jax_mix._paths import under

if TYPE_CHECKING:
    from jax_mix._running import Hook

_CALLED = "jax_mix_called"


def run_linen(call: Call, hook: Hook, paths: Collection[str] | None, uncertain: set[str]) -> Any:
    model, variables = call.model, dict(call.variables)
    lengths: dict[str, int] = {}
    if "params" in variables:
        variables["params"] = _with_iterations(variables["params"], "", paths, lengths)
    # Whether each layer was called is state, a collection of its own: remat and jit carry it from call to call.
    variables[_CALLED] = _nested(paths or (), np.int32(0))
    mutable = call.kwargs.get("mutable", False)
    options = {**call.kwargs, "mutable": union_filters(mutable, _CALLED)}
    # A scan does not carry it; there a layer's calls are counted per trace, each of which has a root scope of its own.
    called_in_trace: set[tuple[Any, str]] = set()

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = next_fun(*args, **kwargs)
        module, path = context.module, ".".join(context.module.path) if context.module.scope else ""
        if context.method_name != "__call__" or not path or not (paths is None or path in paths):
            return output
        scope = module.scope
        carried = scope.is_mutable_collection(_CALLED) and scope.has_variable(_CALLED, _CALLED)
        before = scope.get_variable(_CALLED, _CALLED) if carried else (scope.root, path) in called_in_trace
        if is_concrete(before) and before:
            warn_called_again(path)
            return output
        iteration, stacked = _linen_iteration(scope, path, lengths)
        if not carried and stacked is None:
            uncertain.add(path)
        if not is_concrete(before):
            iteration = jnp.where(before == 0, iteration, -1)
        called_in_trace.add((scope.root, path))
        if carried:
            scope.put_variable(_CALLED, _CALLED, np.int32(1))
        return hook(path, type(module), iteration, stacked, output, (args, kwargs))

    with linen.intercept_methods(intercept):
        output, updates = model.apply(variables, *call.args, method=call.method, **options)
    if mutable is False:
        return output
    return output, _without(updates, (_CALLED, ITERATION))


def _without(tree: Any, names: Collection[str]) -> Any:
    """A nested dict without our own entries."""
    if not hasattr(tree, "items"):
        return tree
    return {name: _without(child, names) for name, child in tree.items() if name not in names}


def _nested(paths: Collection[str], value: Any) -> dict[str, Any]:
    """A collection that holds `value` for the module at each path."""
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        for part in path.split("."):
            node = node.setdefault(part, {})
        node[_CALLED] = value
    return tree


def _with_iterations(params: Any, prefix: str, paths: Collection[str] | None, lengths: dict[str, int]) -> Any:
    """`params` with the iteration 0..N-1 beside every module's weights that may be stacked to N."""
    params = dict(params)
    for name, child in params.items():
        path = f"{prefix}.{name}" if prefix else name
        if not hasattr(child, "items") or not (paths is None or any(p == path or under(p, path) for p in paths)):
            continue
        child = _with_iterations(child, path, paths, lengths)
        own = [leaf for key, leaf in child.items() if key != ITERATION]
        length = shared_length([np.shape(leaf) for leaf in jax.tree.leaves(meta.unbox(own))])
        if length is not None:
            child[ITERATION] = iterations(length)
            lengths[path] = length
        params[name] = child
    return params


def _linen_iteration(scope: Any, path: str, lengths: dict[str, int]) -> tuple[Any, int | None]:
    """The scan iteration a module is in, read off the nearest scope that carries one."""
    while scope is not None:
        if scope.has_variable("params", ITERATION):
            value = scope.get_variable("params", ITERATION)
            if np.ndim(value) == 0:
                return value, lengths[".".join(scope.path)]
            break
        scope = scope.parent
    return np.int32(0), None

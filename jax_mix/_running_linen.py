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
from jax_mix._iterations import ITERATION, iterations, stack_of, warn_called_again, where_in
from jax_mix._paths import under

if TYPE_CHECKING:
    from jax_mix._running import Hook

_CALLED = "jax_mix_called"


def run_linen(call: Call, hook: Hook, paths: Collection[str] | None, uncertain: set[str], nested: bool) -> Any:
    model, variables = call.model, dict(call.variables)
    stacks: dict[str, tuple[int, ...]] = {}
    if "params" in variables:
        variables["params"] = _with_iterations(variables["params"], "", paths, stacks, nested)
    # Whether each layer was called is state, a collection of its own: remat and jit carry it from call to call.
    variables[_CALLED] = _nested(paths or (), np.int32(0))
    mutable = call.kwargs.get("mutable", False)
    options = {**call.kwargs, "mutable": union_filters(mutable, _CALLED)}
    # A scan does not carry it; there a layer's calls are counted per trace, each of which has a root scope of its own.
    called_in_trace: set[tuple[Any, str]] = set()

    running: list[str] = []  # paths of calls that have not returned

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module, path = context.module, ".".join(context.module.path) if context.module.scope else ""
        wanted = context.method_name == "__call__" and path and (paths is None or path in paths)
        if not wanted or path in running:  # a module that shares its scope with what it wraps (nn.share_scope) is both
            return next_fun(*args, **kwargs)
        running.append(path)
        try:
            output = next_fun(*args, **kwargs)
        finally:
            running.pop()
        scope = module.scope
        carried = scope.is_mutable_collection(_CALLED) and scope.has_variable(_CALLED, _CALLED)
        before = scope.get_variable(_CALLED, _CALLED) if carried else (scope.root, path) in called_in_trace
        if is_concrete(before) and before:
            warn_called_again(path)
            return output
        iteration, stacked = _linen_iteration(scope, stacks)
        if not carried and stacked is None:
            uncertain.add(path)
        if not is_concrete(before) and iteration is not None:
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


def _with_iterations(
    params: Any, prefix: str, paths: Collection[str] | None, stacks: dict[str, tuple[int, ...]], nested: bool
) -> Any:
    """`params` with the iteration 0..N-1 beside every module's weights that may be stacked to N."""
    params = dict(params)
    for name, child in params.items():
        path = f"{prefix}.{name}" if prefix else name
        if not hasattr(child, "items") or not (paths is None or any(p == path or under(p, path) for p in paths)):
            continue
        child = _with_iterations(child, path, paths, stacks, nested)
        own = [leaf for key, leaf in child.items() if key != ITERATION]
        if stack := stack_of([np.shape(leaf) for leaf in jax.tree.leaves(meta.unbox(own))], nested):
            child[ITERATION] = iterations(stack)
            stacks[path] = stack
        params[name] = child
    return params


def _linen_iteration(scope: Any, stacks: dict[str, tuple[int, ...]]) -> tuple[Any, int | None]:
    """The scan iteration a module is in, read off the nearest scope that carries one."""
    while scope is not None:
        if scope.has_variable("params", ITERATION):
            iteration, stacked = where_in(stacks[".".join(scope.path)], scope.get_variable("params", ITERATION))
            return (np.int32(0), None) if stacked is None and iteration is not None else (iteration, stacked)
        scope = scope.parent
    return np.int32(0), None

"""Running an NNX model with some of its modules' outputs going through a hook."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import errors, linen, nnx

from jax_mix._call import Call
from jax_mix._checks import is_concrete
from jax_mix._intercepting import TAP, intercepted, set_attribute
from jax_mix._iterations import ITERATION, iterations, stack_of, warn_called_again, where_in
from jax_mix._running_linen import run_linen

if TYPE_CHECKING:
    from jax_mix._running import Hook


def call_nnx(model: Any, call: Call) -> Any:
    """Call `model`, or a copy of it, as `call` says."""
    if call.method is None or isinstance(call.method, str):
        function = model if call.method is None else getattr(model, call.method)
        return function(*call.args, **call.kwargs)
    return call.method(model, *call.args, **call.kwargs)


def run_nnx(call: Call, hook: Hook, paths: Collection[str] | None, uncertain: set[str], nested: bool) -> Any:
    model: nnx.Module = call.model
    copy = nnx.clone(model, variables=False)  # new modules, the same Variables
    originals, copies = _nodes(model), _nodes(copy)
    points = []
    for path, module in copies.items():
        name = ".".join(map(str, path))
        if not path or (paths is not None and name not in paths):
            continue
        if not isinstance(module, nnx.Module) or not callable(module):
            continue
        if isinstance(module, nnx.bridge.ToNNX):  # takes all its attributes for the Linen module's variables
            continue
        kind, stack = _nnx_iteration(copies, path, nested)
        point = _Tap(name, hook, stack)
        set_attribute(module, TAP, point)
        set_attribute(module, ITERATION, kind(iterations(stack)))
        points.append((module, point))
    if isinstance(copy, nnx.bridge.ToNNX):
        set_attribute(copy, "to_nnx__module", _mixing(copy.to_nnx__module, hook, paths, uncertain, nested))
        set_attribute(copy, "to_nnx__jax_mix", object())  # one of its kind: caches must not mix up two calls
    before = {path: dict(vars(module)) for path, module in copies.items()}
    try:
        with intercepted({type(module) for module, _ in points}):
            y = call_nnx(copy, call)
    finally:
        for _, point in points:
            point.hook = None  # a compilation cache may keep the point: it must not keep the tracers
    for module, point in points:
        value = vars(module)[ITERATION].get_value()
        if point.called and is_concrete(value) and np.all(np.asarray(value) >= 0):
            uncertain.add(point.path)
    original_of = {id(copies[path]): original for path, original in originals.items()}
    for path, module in copies.items():  # attributes that the forward pass set, sown Variables among them
        for attribute, value in vars(module).items():
            changed = before[path].get(attribute, _Tap) is not value
            if changed and attribute not in (TAP, ITERATION) and not attribute.startswith("_pytree__"):
                value = original_of.get(id(value), value)
                data = module._pytree__nodes.get(attribute, False)
                set_attribute(originals[path], attribute, nnx.data(value) if data else value)
        for attribute in before[path].keys() - vars(module).keys():
            nnx.Pytree.__delattr__(originals[path], attribute)
    return y


def _mixing(
    module: linen.Module, hook: Hook, paths: Collection[str] | None, uncertain: set[str], nested: bool
) -> linen.Module:
    """The Linen module of a model that is one in `nnx.bridge.ToNNX`, which runs it by `apply`: here a mixed one."""

    def apply(variables: Any, *args: Any, method: Any = None, **options: Any) -> Any:
        call = Call(module, variables, method, args, options, ())
        return run_linen(call, hook, paths, uncertain, nested)

    copy = module.clone()
    object.__setattr__(copy, "apply", apply)
    return copy


def _nodes(model: nnx.Module) -> dict[Any, nnx.Pytree]:
    """The modules of a model, and what else holds attributes, such as `nnx.List`, by their paths."""
    return {path: node for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Pytree)}


def _nnx_iteration(
    modules: dict[Any, nnx.Pytree], path: tuple[Any, ...], nested: bool
) -> tuple[type[nnx.Variable], tuple[int, ...]]:
    """The Variable type for a module's iteration, and the lengths its weights may be stacked to.

    Both are those of its own Variables, or for a module without any, of the nearest module around it: a scan
    that cuts those cuts the iteration too.
    """
    for end in range(len(path), -1, -1):
        if (module := modules.get(path[:end])) is None:
            continue
        variables = [v for _, v in nnx.iter_graph(module) if isinstance(v, nnx.Variable)]
        variables = [v for v in variables if not isinstance(v, nnx.RngState) and hasattr(v.get_value(), "shape")]
        if variables:
            return type(variables[0]), stack_of([v.get_value().shape for v in variables], nested)
    return nnx.Variable, ()


@dataclasses.dataclass(eq=False)  # a static attribute of the module, one of its kind: caches must not mix up two calls
class _Tap:
    path: str
    hook: Hook | None
    stack: tuple[int, ...]
    called: bool = False

    def __call__(self, module: nnx.Module, output: Any, inputs: Any) -> Any:
        if self.hook is None:
            return output  # kept after its forward pass, and called in another
        variable = vars(module)[ITERATION]
        value = variable.get_value()
        value = np.asarray(value) if is_concrete(value) else value  # jax.numpy's operations would be traced inside jit
        iteration, stacked = where_in(self.stack, value)
        if iteration is not None and is_concrete(iteration) and iteration < 0:
            warn_called_again(self.path)
            return output
        self.called = True
        output = self.hook(self.path, type(module), iteration, stacked, output, inputs)
        with contextlib.suppress(errors.TraceContextError):  # inside a bare jax transform that only reads the module
            variable.set_value(np.full(np.shape(value), -1, np.int32))
        return output

"""Running an NNX model with some of its modules' outputs going through a hook."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import errors, nnx

from jax_mix._call import Call
from jax_mix._checks import is_concrete
from jax_mix._intercepting import TAP, intercepted, set_attribute
from jax_mix._iterations import ITERATION, iterations, shared_length, warn_called_again

if TYPE_CHECKING:
    from jax_mix._running import Hook


def call_nnx(model: Any, call: Call) -> Any:
    """Call `model`, or a copy of it, as `call` says."""
    if call.method is None or isinstance(call.method, str):
        function = model if call.method is None else getattr(model, call.method)
        return function(*call.args, **call.kwargs)
    return call.method(model, *call.args, **call.kwargs)


def run_nnx(call: Call, hook: Hook, paths: Collection[str] | None, uncertain: set[str]) -> Any:
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
        kind, length = _nnx_iteration(copies, path)
        point = _Tap(name, hook, length)
        set_attribute(module, TAP, point)
        set_attribute(module, ITERATION, kind(iterations(length)))
        points.append((module, point))
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
                set_attribute(originals[path], attribute, original_of.get(id(value), value))
        for attribute in before[path].keys() - vars(module).keys():
            nnx.Pytree.__delattr__(originals[path], attribute)
    return y


def _nodes(model: nnx.Module) -> dict[Any, nnx.Pytree]:
    """The modules of a model, and what else holds attributes, such as `nnx.List`, by their paths."""
    return {path: node for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Pytree)}


def _nnx_iteration(modules: dict[Any, nnx.Pytree], path: tuple[Any, ...]) -> tuple[type[nnx.Variable], int | None]:
    """The Variable type for a module's iteration, and the length its weights may be stacked to.

    Both are those of its own Variables, or for a module without any, of the nearest module around it: a scan
    that cuts those cuts the iteration too.
    """
    for end in range(len(path), -1, -1):
        if (module := modules.get(path[:end])) is None:
            continue
        variables = [v for _, v in nnx.iter_graph(module) if isinstance(v, nnx.Variable)]
        variables = [v for v in variables if not isinstance(v, nnx.RngState) and hasattr(v.get_value(), "shape")]
        if variables:
            return type(variables[0]), shared_length([v.get_value().shape for v in variables])
    return nnx.Variable, None


@dataclasses.dataclass(eq=False)  # a static attribute of the module, one of its kind: caches must not mix up two calls
class _Tap:
    path: str
    hook: Hook | None
    length: int | None
    called: bool = False

    def __call__(self, module: nnx.Module, output: Any, inputs: Any) -> Any:
        if self.hook is None:
            return output  # kept after its forward pass, and called in another
        variable = vars(module)[ITERATION]
        value = variable.get_value()
        value = np.asarray(value) if is_concrete(value) else value  # jax.numpy's operations would be traced inside jit
        stacked = self.length if self.length is not None and np.ndim(value) == 0 else None
        iteration = value if np.ndim(value) == 0 else value[0]
        if is_concrete(iteration) and iteration < 0:
            warn_called_again(self.path)
            return output
        self.called = True
        output = self.hook(self.path, type(module), iteration, stacked, output, inputs)
        with contextlib.suppress(errors.TraceContextError):  # inside a bare jax transform that only reads the module
            variable.set_value(np.full(np.shape(value), -1, np.int32))
        return output

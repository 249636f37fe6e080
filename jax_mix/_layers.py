"""Finding a model's layers."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr

from jax_mix._call import Call, as_call
from jax_mix._checks import suggest
from jax_mix._paths import under, with_iteration
from jax_mix._running import Hook, fresh, run
from jax_mix._tracing import program_of, with_shapes

if TYPE_CHECKING:
    from jaxtyping import PyTree

_MARK = "jax_mix_layer"  # marks a layer's output in a program


class Layer(NamedTuple):
    """One layer of a model: its name, the module's type, and the shapes and dtypes it puts out."""

    name: str
    type: type
    output: PyTree[jax.ShapeDtypeStruct]
    path: str  # the name without the iteration of a scanned block
    looped: bool  # a loop runs it with the same weights each time: it cannot be mixed at one call alone


def list_layers(
    model: Any, *args: Any, variables: Any = None, method: Any = None, mixed: Any = (), **kwargs: Any
) -> tuple[Layer, ...]:
    """The layers of a model, in the order in which they first run.

    The model is traced on shapes alone: nothing is computed and nothing changes.

    Args:
      model: a Flax NNX model, or a Flax Linen module with its `variables`.
      *args, **kwargs: an example of what the model is called with; arrays or `jax.ShapeDtypeStruct`s.
      variables: a Linen model's variables, arrays or shapes.
      method, mixed: as in `forward`.

    Returns:
      A tuple of `Layer(name, type, output, path, looped)`.

    Raises:
      TypeError: `model` is no Flax model.
      ValueError: there is no example input; or the model's blocks are scanned in a way that cannot be followed.

    Source: the modules that a forward hook of PyTorch would see.

    >>> import jax, jax_mix
    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    >>> for layer in jax_mix.list_layers(model, jax.ShapeDtypeStruct((16, 4), "float32")):
    ...     print(layer.name, layer.type.__name__, layer.output.shape)
    layers.0 Linear (16, 8)
    layers.2 Linear (16, 2)
    """
    return find_layers(as_call(model, args, kwargs, variables, method, mixed))


def find_layers(call: Call) -> tuple[Layer, ...]:
    """`list_layers` of a call."""
    call = with_shapes(call)
    found: dict[str, tuple[type, int | None, Any]] = {}
    nested_stacks: set[str] = set()

    def hook(path: str, type_: type, iteration: Any, stacked: int | None, output: Any, inputs: Any) -> Any:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype) if hasattr(a, "dtype") else a, output)
        found.setdefault(path, (type_, stacked, shapes))
        if iteration is None:
            nested_stacks.add(path)
        mark = functools.partial(checkpoint_name, name=f"{_MARK}:{path}")  # to find it in the jaxpr; an identity
        return jax.tree.map(lambda a: mark(a) if isinstance(a, jax.Array) else a, output)

    given = (call.variables, call.args, call.kwargs)
    leaves, tree = jax.tree.flatten(given, is_leaf=lambda a: isinstance(a, nnx.Pytree))
    is_array = [isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)) for leaf in leaves]

    arrays = [leaf for a, leaf in zip(is_array, leaves, strict=True) if a]

    def trace(arrays: list[Any], hook: Hook | None, nested: bool = False) -> None:
        # Copies of what NNX mutates (the model, Rngs) belong to this trace alone.
        remaining = iter(arrays)
        full = [next(remaining) if a else fresh(leaf) for a, leaf in zip(is_array, leaves, strict=True)]
        variables, args, kwargs = jax.tree.unflatten(tree, full)
        copy = dataclasses.replace(call, model=fresh(call.model), variables=variables, args=args, kwargs=kwargs)
        run(copy, hook, None, nested=nested)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the model is really run
        program, _, _ = program_of(trace, arrays, hook, restart=found.clear)

    in_loops = _in_loops(program.jaxpr) | nested_stacks
    layers = []
    for path, (type_, stacked, output) in found.items():
        if stacked is None:
            layers.append(Layer(path, type_, output, path, path in in_loops))
            continue
        ancestors = [p for p in found if under(path, p) and found[p][1] is not None]
        names = [with_iteration(path, min([path, *ancestors], key=len), i) for i in range(stacked)]
        layers.extend(Layer(name, type_, output, path, False) for name in names)
    return tuple(layers)


def _in_loops(jaxpr: Jaxpr, looped: bool = False) -> set[str]:
    """The paths of marked outputs that a program computes inside of a loop."""
    paths = set()
    for equation in jaxpr.eqns:
        name = str(equation.params.get("name", ""))
        if looped and name.startswith(_MARK + ":"):
            paths.add(name.removeprefix(_MARK + ":"))
        inside = looped or equation.primitive.name in ("scan", "while")
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: isinstance(v, Jaxpr)):
            inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
            if isinstance(inner, Jaxpr):
                paths |= _in_loops(inner, inside)
    return paths


def in_loop(what: str) -> str:
    return (
        f"{what} runs in a loop with the same weights each time (or with weights stacked along another axis than the "
        "first, or in a stack of stacks), where it cannot be mixed at one call alone: mix outside of the loop."
    )


def not_found(what: str, name: str, model: Any, found: tuple[Layer, ...]) -> str:
    """Why `name`, called `what` in the message, is not among the layers `found`."""
    names = [l.name for l in found]
    if not isinstance(model, nnx.Module) or isinstance(model, nnx.bridge.ToNNX):
        return f"{what} is not among the layers that run: {suggest(name, names)}"  # Linen's exist while they run
    paths = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    if name in paths and isinstance(paths[name], nnx.bridge.ToNNX):
        return f"{what} is a Linen module inside nnx.bridge.ToNNX, which cannot be mixed: put a MixPoint after it."
    if name in paths:
        told = "Only its __call__ counts, looked up in its class while the model runs, not kept from before."
        return f"{what} never runs in this forward pass: {suggest(name, names)} {told}"
    module: Any = model
    for part in name.split("."):
        items = module if hasattr(module, "__len__") and part.isdecimal() else ()
        module = items[int(part)] if items and int(part) < len(items) else getattr(module, part, None)
    for path, same in paths.items():
        if same is module:
            return f"{what} is another name of {path!r}: use that."
    return f"{what} is not in the model: {suggest(name, names)}"

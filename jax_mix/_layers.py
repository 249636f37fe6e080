"""Finding a model's layers."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen, nnx

from jax_mix._call import Call, as_call
from jax_mix._checks import suggest
from jax_mix._cuts import Flows, mark
from jax_mix._leaves import flatten, leaf_names, map_leaves, mixed_leaves
from jax_mix._mix import INPUT, OUTPUT
from jax_mix._paths import under, with_iteration
from jax_mix._running import Hook, fresh, run
from jax_mix._tracing import program_of, with_shapes


class Layer(NamedTuple):
    """One layer of a model, and what mixing there would mean."""

    name: str
    type: type
    output: Any  # the shapes and dtypes it puts out, a tree of jax.ShapeDtypeStruct
    path: str  # the name without the iteration of a scanned block
    looped: bool  # a loop runs it with the same weights each time: it cannot be mixed at one call alone
    batch: bool  # it puts out a batch of floats that depends on what the model is called with
    cut: bool  # every path of the batch to the model's output goes through it: mixing there is exact
    around: str  # else: what goes around it
    same_as: str  # mixing there is the same as at "input", "<output>" or this earlier layer; "" if at none


@dataclasses.dataclass(frozen=True)
class Found:
    """The layers of a model, and what choosing among them needs to know besides."""

    layers: tuple[Layer, ...]
    arguments: tuple[str, ...]  # those that are batches, go into the output and are not mixed at the input
    but_for_arguments: frozenset[str]  # names of layers that nothing goes around but those
    selectors: dict[str, str]  # the one leaf that is a batch, by the names of layers of which others look like one
    told: bool  # whether `around` is told of every layer
    with_leaves: Callable[
        [dict[str, list[bool]]], Found
    ]  # the same, if of these paths' outputs these leaves are mixed, told


class _Ran(NamedTuple):
    """What a module's first call put out."""

    type: type
    stacked: int | None
    output: Any
    leaves: list[bool]  # those that are mixed


def list_layers(
    model: Any, *args: Any, variables: Any = None, method: Any = None, mixed: Any = (), **kwargs: Any
) -> tuple[Layer, ...]:
    """The layers of a model, in the order in which they first run, and what mixing at each would mean.

    The model is traced on shapes alone: nothing is computed and nothing changes.

    Args:
      model: a Flax NNX model, or a Flax Linen module with its `variables`.
      *args, **kwargs: an example of what the model is called with; arrays or `jax.ShapeDtypeStruct`s. Those whose
        first axis is as long as that of the first argument are batches too.
      variables: a Linen model's variables, arrays or shapes.
      method, mixed: as in `forward`.

    Returns:
      A tuple of `Layer(name, type, output, path, looped, batch, cut, around, same_as)`.

    Raises:
      TypeError: `model` is no Flax model.
      ValueError: there is no example input; or the model's blocks are scanned in a way that cannot be followed.

    Source: the modules that a forward hook of PyTorch would see. Cuts are this library's own.

    >>> import jax, jax_mix
    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    >>> for layer in jax_mix.list_layers(model, jax.ShapeDtypeStruct((16, 4), "float32")):
    ...     print(layer.name, layer.type.__name__, layer.output.shape, layer.cut, layer.same_as)
    layers.0 Linear (16, 8) True input
    layers.2 Linear (16, 2) True <output>
    """
    return find_layers(as_call(model, args, kwargs, variables, method, mixed)).layers


def find_layers(call: Call, *, tell: bool = True) -> Found:
    """What `list_layers` tells of a call, and a little more. What goes around a layer, the most work, if `tell`."""
    call = with_shapes(call)
    n = _length(call.inputs)
    found: dict[str, _Ran] = {}
    nested_stacks: set[str] = set()

    def hook(path: str, type_: type, iteration: Any, stacked: int | None, output: Any, inputs: Any) -> Any:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype) if hasattr(a, "dtype") else a, output)
        found.setdefault(path, _Ran(type_, stacked, shapes, mixed_leaves(output, inputs, n)))
        if iteration is None:
            nested_stacks.add(path)
            return output
        batches = mixed_leaves(output, (), n)  # all that a selector may name
        at = [i for i, batch in enumerate(batches) if batch]
        return map_leaves(lambda leaves: [mark(path, i, a) for i, a in zip(at, leaves, strict=True)], output, batches)

    given = (call.variables, call.args, call.kwargs)
    entries, tree = jax.tree_util.tree_flatten_with_path(given, is_leaf=lambda a: isinstance(a, nnx.Pytree))
    leaves = [leaf for _, leaf in entries]
    is_array = [isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)) for leaf in leaves]
    arrays = [leaf for a, leaf in zip(is_array, leaves, strict=True) if a]
    at = [_argument(path) for a, (path, _) in zip(is_array, entries, strict=True) if a]
    batched = [here is not None and np.shape(a)[:1] == (n,) for here, a in zip(at, arrays, strict=True)]
    # Source 0 is what is mixed at the input; each other argument that is a batch is one of its own.
    others = list(dict.fromkeys(here for here, b in zip(at, batched, strict=True) if b and here not in call.mixed))
    sources = [
        None if not b else 0 if here in call.mixed else 1 + others.index(here)
        for here, b in zip(at, batched, strict=True)
    ]

    def trace(arrays: list[Any], hook: Hook | None, nested: bool = False) -> list[Any]:
        # Copies of what NNX mutates (the model, Rngs) belong to this trace alone.
        remaining = iter(arrays)
        full = [next(remaining) if a else fresh(leaf) for a, leaf in zip(is_array, leaves, strict=True)]
        variables, args, kwargs = jax.tree.unflatten(tree, full)
        copy = dataclasses.replace(call, model=fresh(call.model), variables=variables, args=args, kwargs=kwargs)
        y = run(copy, hook, None, nested=nested)
        if isinstance(call.model, linen.Module) and kwargs.get("mutable", False) is not False:
            y = y[0]  # the other is what changed of the variables
        return [leaf for leaf in jax.tree.leaves(y) if isinstance(leaf, jax.Array)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the model is really run
        program, outputs, trace = program_of(trace, arrays, hook, restart=found.clear)
        fixed, counts = _on_a_longer_batch(trace, arrays, batched, found, outputs, n)

    stacked = {path: ran.stacked for path, ran in found.items()}

    def described(chosen: dict[str, list[bool]], tell: bool = True) -> Found:
        ran = {path: r._replace(leaves=chosen.get(path, r.leaves)) for path, r in found.items()}
        unmixed = {(path, i) for path, r in ran.items() for i, mixed in enumerate(r.leaves) if not mixed}
        flows = Flows(program, sources, stacked, counts, fixed | unmixed)
        arguments = [call.name_of(here) for here in others if here is not None]
        return _described(ran, flows, arguments, nested_stacks, described, tell)

    return described({}, tell)


def _described(
    found: dict[str, _Ran], flows: Flows, arguments: list[str], nested_stacks: set[str], again: Any, tell: bool
) -> Found:
    order: dict[str, list[tuple[str, int, str]]] = {}  # the outermost stack of some paths -> (path, iteration, name)
    for path, ran in found.items():
        stack = min([path, *(p for p in found if under(path, p) and found[p].stacked is not None)], key=len)
        iterations = [(path, i, with_iteration(path, stack, i)) for i in range(ran.stacked or 0)]
        order.setdefault(stack, []).extend([(path, 0, path)] if ran.stacked is None else iterations)
    listed = [entry for entries in order.values() for entry in sorted(entries, key=lambda e: e[1])]  # stable
    names = {flows.number(path, iteration): name for path, iteration, name in listed}

    layers: list[Layer] = []
    distinct: list[int] = []  # cuts that are the same as no earlier one
    but_for_arguments, selectors = set(), {}
    for path, iteration, name in listed:
        k, ran = flows.number(path, iteration), found[path]
        leaves = [i for i, mixed in enumerate(ran.leaves) if mixed and flows.carries_batch(k, i)]
        batch = len(leaves) == 1 or (bool(leaves) and len(leaves) == sum(ran.leaves))
        if batch and len(leaves) < sum(ran.leaves):
            selectors[name] = leaf_names(ran.output)[leaves[0]]
        passed = flows.around(k)
        cut, told, same_as = batch and not passed, "", ""
        if batch and 0 not in passed:
            if flows.like_input(k):
                same_as = INPUT
            elif flows.like_output(k):
                same_as = OUTPUT
            else:
                same_as = next((names[j] for j in distinct if flows.like(k, j)), "")
                distinct += [] if same_as else [k]
            if not cut:
                but_for_arguments.add(name)
                told = f"through {listing(f'the argument {arguments[s - 1]!r}' for s in passed)}"
        elif batch and not flows.reaches(k):
            part = len(flatten(ran.output)[0]) > len(leaves)
            told = f"{'its batch of floats' if part else 'it'} does not reach the model's output"
        elif batch and tell:
            told = _detour(*flows.detour(k), names)
        looped = path in flows.in_loops or path in nested_stacks
        layers.append(Layer(name, ran.type, ran.output, path, looped, batch, cut, told, same_as))
    reaching = tuple(a for s, a in enumerate(arguments, 1) if flows.source_reaches(s))
    return Found(tuple(layers), reaching, frozenset(but_for_arguments), selectors, tell, again)


def _detour(start: int | None, beside: list[int], end: int | None, names: dict[int, str]) -> str:
    if beside:
        beside_names = [names[j] for j in beside]
        return f"through {listing(repr(a) for a in beside_names if not any(under(a, b) for b in beside_names))}"
    return (
        f"from {'the input' if start is None else repr(names[start])} "
        f"to {'the output' if end is None else repr(names[end])}"
    )


def _on_a_longer_batch(
    trace: Any, arrays: list[Any], batched: list[bool], found: dict[str, _Ran], outputs: list[Any], n: int
) -> tuple[set[tuple[str, int]], list[bool]]:
    """Leaves (path, number) of layers whose first axis is as long as the batch by chance; which outputs have the batch.

    The model is traced again: what is the batch's grows with it. An axis of positions, experts or, where the model maps
    itself over its samples, of features does not.
    """
    shapes = {path: _shapes(ran.output) for path, ran in found.items()}
    fixed: set[tuple[str, int]] = set()
    counts = [out.shape[:1] == (n,) for out in outputs]
    for longer in (n + 1, 2 * n):
        seen: dict[str, Any] = {}
        hook = functools.partial(_note_shapes, seen)
        other = [
            jax.ShapeDtypeStruct((longer, *a.shape[1:]), a.dtype) if b else a
            for a, b in zip(arrays, batched, strict=True)
        ]
        try:
            now = jax.eval_shape(functools.partial(trace, hook=hook), other)
        except Exception:  # a model may want batches of one size
            continue
        fixed = {
            (path, i)
            for path, leaves in shapes.items()
            for i, (shape, grown) in enumerate(zip(leaves, seen.get(path, leaves), strict=False))
            if shape[:1] == (n,) and grown[:1] != (longer,)
        }
        if len(now) == len(outputs):
            counts = [out.shape != grown.shape for out, grown in zip(outputs, now, strict=True)]
        break
    return fixed, counts if any(counts) else [True] * len(outputs)


def _note_shapes(
    seen: dict[str, Any], path: str, type_: type, iteration: Any, stacked: Any, output: Any, _: Any
) -> Any:
    seen.setdefault(path, _shapes(output))
    return output


def _shapes(output: Any) -> list[tuple[int, ...]]:
    return [tuple(getattr(leaf, "shape", ())) for leaf in flatten(output)[0]]


def _length(inputs: Any) -> int:
    """The batch's size, -1 if the inputs are no batch."""
    shapes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
    return next(iter(shapes))[0] if len(shapes) == 1 and () not in shapes else -1


def _argument(path: tuple[Any, ...]) -> int | str | None:
    """The position or keyword of an argument in (variables, args, kwargs); None for variables."""
    return None if path[0].idx == 0 else path[1].idx if path[0].idx == 1 else path[1].key


def listing(names: Iterable[str], limit: int = 3) -> str:
    """Names in a sentence: a, b and c, or a, b and 4 more."""
    names = list(names)
    names = names if len(names) <= limit else [*names[: limit - 1], f"{len(names) - limit + 1} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def place(name: str) -> str:
    """The name of a layer, of the input or of the output, in a sentence."""
    return {INPUT: "the input", OUTPUT: "the output"}.get(name, repr(name))


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

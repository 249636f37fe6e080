"""A Flax model's intermediates: finding them, and running the model with some of them mixed.

`_run` calls an unmodified NNX or Linen model and shows each wanted module's first output to a hook. Two facts
make the same idea work under remat and scan, whose bodies JAX may trace more than once:

- NNX: a shallow copy of the model shares every Variable; in it, a wanted module's class is a subclass that
  overrides `__call__` alone. Beside its weights rides a Variable, the iteration: 0, or 0..N-1 if its weights
  may be stacked, which a scan over them cuts to a number. The first call sets it to -1, so "first call only" is
  state that JAX's transformations carry, not a Python flag that a second trace would find set.
- Linen: `intercept_methods` sees each output. The iteration rides among the parameters in the same way, and
  what was called is a mutable collection.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import warnings
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors, linen, nnx
from flax.core import meta
from flax.core.scope import union_filters
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr

from jax_mix._checks import batch_size, is_concrete, shown, suggest
from jax_mix._mix import INPUT, Mix, check_mix

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import PyTree

    # (path, module type, iteration now, number of stacked iterations or None, output) -> output
    Hook = Callable[[str, type, Any, "int | None", Any], Any]

_ITERATION = "jax_mix_iteration"
_POINT = "jax_mix_point"
_CALLED = "jax_mix_called"


class MixPoint(nnx.Module):
    """A mark in an NNX model: what passes through it may be mixed. It changes nothing by itself.

    With marks in a model, `ManifoldMixup(alpha).bind(model, image)` chooses them and nothing else.

    Args:
      x: any arrays. Returns them as they are.

    Source: ManifoldMixupV2's `ManifoldMixupModule`.

    >>> import jax, jax_mix
    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), jax_mix.MixPoint(), nnx.Linear(8, 2, rngs=rngs))
    >>> jax_mix.ManifoldMixup(0.4).bind(model, jax.ShapeDtypeStruct((2, 4), "float32")).layers
    ('layers.1',)
    """

    def __call__(self, x: Any) -> Any:
        return x


class LinenMixPoint(linen.Module):
    """A mark in a Linen model: what passes through it may be mixed. It changes nothing by itself.

    Args:
      x: any arrays. Returns them as they are.

    Source: ManifoldMixupV2's `ManifoldMixupModule`.

    >>> import jax, jax_mix
    >>> from flax import linen as nn
    >>> model = nn.Sequential([nn.Dense(8), jax_mix.LinenMixPoint(), nn.Dense(2)])
    >>> image = jax.ShapeDtypeStruct((2, 4), "float32")
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), image)
    >>> jax_mix.ManifoldMixup(0.4).bind(model, image, variables=variables).layers
    ('layers_1',)
    """

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return x


class Layer(NamedTuple):
    """One intermediate of a model: its name, the module's type, and the shapes and dtypes it puts out."""

    name: str
    type: type
    output: PyTree[jax.ShapeDtypeStruct]
    path: str  # the name without the iteration of a scanned block
    looped: bool  # a loop runs it with the same weights each time: it cannot be mixed at one call alone


def forward(model: Any, x: PyTree[ArrayLike], mix: Mix | None, *args: Any, variables: Any = None, **kwargs: Any) -> Any:
    """Run a model in training, mixed where the draw says: at its input, or at one hidden layer.

    The model is not edited: when this returns or raises, it is as `model(x)` would have left it. Works under
    jit, grad, vmap, scan and remat, with BatchNorm, Dropout and blocks scanned over stacked weights. Only
    `__call__` counts as running a layer. While it runs, a layer that may be mixed holds one number more beside its
    weights, which a model that sums over its own parameters would see.

    Args:
      model: a Flax NNX model, or a Flax Linen module with its `variables`.
      x: the model's first argument: float arrays in any pytree, batch first.
      mix: the batch's draw, or None not to mix.
      *args: the model's further arguments.
      variables: a Linen model's variables, as `model.apply` takes them.
      **kwargs: the model's keyword arguments; for Linen those of `model.apply`, say `rngs` and `mutable`.

    Returns:
      What `model(x, ...)` or `model.apply(variables, x, ...)` returns.

    Raises:
      TypeError: `model` is no Flax model; `x` is integer.
      ValueError: a layer is unknown (the nearest names are listed), never runs, or runs in a loop with the same weights
        each time; the batch is not the draw's.

    Source: Manifold Mixup, arXiv:1806.05236, section 2; ManifoldMixupV2's forward hook, at the first call only.

    >>> import jax, jax.numpy as jnp, jax_mix
    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    >>> method = jax_mix.ManifoldMixup(2.0, layers=("layers.0",))
    >>> mix = method.sample(jax.random.key(0), (16, 4))
    >>> jax_mix.forward(model, jnp.ones((16, 4)), mix).shape
    (16, 2)
    """
    call = functools.partial(_run, model, variables, args, kwargs)
    if mix is None:
        return call(x, None, ())
    check_mix(mix)
    if not jax.tree.leaves(x):
        raise ValueError("x holds no array to mix.")
    if isinstance(mix.layer, str):
        names: dict[str, int] = {mix.layer: 0}
        layer: Any = np.int32(0)
    else:
        names = {name: k for k, name in enumerate(mix.layers)}
        layer = mix.layer
    mix._check_batch(x, "x")

    if INPUT in names:
        x = _blend_if(layer == names.pop(INPUT), mix, x, INPUT)
    wanted = _wanted(names)
    seen = set()

    def hook(path: str, _: type, iteration: Any, stacked: int | None, output: Any) -> Any:
        entries = wanted[path]
        if stacked is None:
            hits = [(0, name) for at, name in entries if at is None]
        else:
            if any(at is None for at, _ in entries):
                first = _with_iteration(path, path, 0)
                raise ValueError(
                    f"layer {path!r} is scanned over {stacked} iterations: name one of them, as {first!r}."
                )
            hits = [(at, name) for at, name in entries if at is not None and at < stacked]
        for at, name in hits:
            seen.add(name)
            output = _blend_if(_and(iteration == at, layer == names[name]), mix, output, name)
        return output

    uncertain: set[str] = set()
    y = call(x, hook, wanted, uncertain)
    if uncertain or not seen.issuperset(names):
        found = list_layers(model, x, *args, variables=variables, **kwargs)
        for name in names:
            if name not in seen:
                raise ValueError(_not_found(f"layer {name!r}", name, model, found))
            if any(layer.looped for layer in found if layer.name == name):
                raise ValueError(_in_loop(f"layer {name!r}"))
    return y


def list_layers(model: Any, *args: Any, variables: Any = None, **kwargs: Any) -> tuple[Layer, ...]:
    """The intermediates of a model, in the order in which they first run.

    The model is traced on shapes alone: nothing is computed and nothing changes.

    Args:
      model: a Flax NNX model, or a Flax Linen module with its `variables`.
      *args, **kwargs: an example of what the model is called with; arrays or `jax.ShapeDtypeStruct`s.
      variables: a Linen model's variables, arrays or shapes.

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
    if not args:
        raise ValueError("an example of what the model is called with is needed, as in method.bind(model, image).")
    found: dict[str, tuple[type, int | None, Any]] = {}

    def hook(path: str, type_: type, iteration: Any, stacked: int | None, output: Any) -> Any:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype) if hasattr(a, "dtype") else a, output)
        found.setdefault(path, (type_, stacked, shapes))
        mark = functools.partial(checkpoint_name, name=f"{_CALLED}:{path}")  # to find it in the jaxpr; an identity
        return jax.tree.map(lambda a: mark(a) if isinstance(a, jax.Array) else a, output)

    leaves, tree = jax.tree.flatten((variables, args, kwargs), is_leaf=lambda a: isinstance(a, nnx.Pytree))
    is_array = [isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)) for leaf in leaves]

    arrays = [leaf for a, leaf in zip(is_array, leaves, strict=True) if a]

    def trace(arrays: list[Any], hook: Hook | None) -> None:
        # Copies of what NNX mutates (the model, Rngs) belong to this trace alone.
        fresh = iter(arrays)
        full = [next(fresh) if a else _fresh(leaf) for a, leaf in zip(is_array, leaves, strict=True)]
        variables, args, kwargs = jax.tree.unflatten(tree, full)
        _run(_fresh(model), variables, args[1:], kwargs, args[0], hook, None)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the model is really run
        try:
            program = jax.make_jaxpr(functools.partial(trace, hook=hook))(arrays)
        except (IndexError, TypeError, ValueError) as error:
            jax.eval_shape(functools.partial(trace, hook=None), arrays)  # what the model itself raises comes first
            raise ValueError(
                f"the model's layers cannot be listed ({type(error).__name__}: {shown(str(error))}): its blocks are "
                "scanned over weights in a way that cannot be followed, nested or stacked along another axis than the "
                "first. Name layers outside of that scan by plain paths, and do without bind."
            ) from error

    in_loops = _in_loops(program.jaxpr)
    layers = []
    for path, (type_, stacked, output) in found.items():
        if stacked is None:
            layers.append(Layer(path, type_, output, path, path in in_loops))
            continue
        ancestors = [p for p in found if _under(path, p) and found[p][1] is not None]
        names = [_with_iteration(path, min([path, *ancestors], key=len), i) for i in range(stacked)]
        layers.extend(Layer(name, type_, output, path, False) for name in names)
    return tuple(layers)


def _in_loops(jaxpr: Jaxpr, looped: bool = False) -> set[str]:
    """The paths of marked outputs that a program computes inside of a loop."""
    paths = set()
    for equation in jaxpr.eqns:
        name = str(equation.params.get("name", ""))
        if looped and name.startswith(_CALLED + ":"):
            paths.add(name.removeprefix(_CALLED + ":"))
        inside = looped or equation.primitive.name in ("scan", "while")
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: isinstance(v, Jaxpr)):
            inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
            if isinstance(inner, Jaxpr):
                paths |= _in_loops(inner, inside)
    return paths


def _in_loop(what: str) -> str:
    return (
        f"{what} runs in a loop with the same weights each time (or with weights stacked along another axis than the "
        "first), where it cannot be mixed at one call alone: mix outside of the loop."
    )


def choose(model: Any, x: Any, found: tuple[Layer, ...], wanted: tuple[str | type, ...] | None) -> tuple[str, ...]:
    """The names among `found` that paths, globs and types select, in running order; None chooses as ManifoldMixupV2.

    A path must name a layer whose output is a batch of floats, as that of `x` is; the others pass over the rest.
    """
    n = batch_size(x, "x")
    mixable = tuple(l for l in found if _is_batch(l.output, n) and not l.looped)
    if wanted is None:
        chosen = _choose_automatically(mixable)
    else:
        chosen = set()
        for want in wanted:
            if isinstance(want, type):
                hits = {l.name for l in mixable if issubclass(l.type, want)}
                if not hits:
                    types = sorted({l.type.__name__ for l in mixable})
                    raise ValueError(
                        f"layers has type {want.__name__}, of which no module runs: {suggest(want.__name__, types)}"
                    )
            else:
                hits = {l.name for l in mixable if _glob(want).fullmatch(l.name)}
                if not hits and want != INPUT:
                    for layer in found:
                        if layer.name == want:
                            if layer.looped:
                                raise ValueError(_in_loop(f"layers has {want!r}, which"))
                            shapes = jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", layer.output)
                            raise ValueError(f"layers has {want!r}, whose output is no batch of {n} floats: {shapes}.")
                    raise ValueError(_not_found(f"layers has {want!r}, which", want, model, mixable))
            chosen |= hits
    return tuple(l.name for l in found if l.name in chosen)


def _is_batch(output: Any, n: int) -> bool:
    leaves = jax.tree.leaves(output)
    return bool(leaves) and all(
        hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating) and a.shape[:1] == (n,) for a in leaves
    )


_CONTAINERS = (nnx.Sequential, linen.Sequential)
_NORMS = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")
_RECURRENT = ("RNN", "RNNCellBase", "Bidirectional")
_NEVER = tuple(getattr(flax, name) for flax in (nnx, linen) for name in ("Dropout", *_NORMS, *_RECURRENT))


def _choose_automatically(found: tuple[Layer, ...]) -> set[str]:
    """Marks, else outermost blocks, else every innermost module that is no container, Dropout, norm or recurrent."""
    marks = {l.name for l in found if issubclass(l.type, (MixPoint, LinenMixPoint))}
    if marks:
        return marks
    # The class's own name is tested, not its import path, in which ManifoldMixupV2 also finds "blocks.py".
    blocks = {l.path for l in found if re.search("block|bottleneck", l.type.__name__.lower())}
    if not blocks:
        barred = {l.path for l in found if issubclass(l.type, _NEVER)}
        paths = {l.path for l in found}
        blocks = {
            l.path
            for l in found
            if not issubclass(l.type, _CONTAINERS)
            and not any(l.path == b or _under(l.path, b) for b in barred)
            # Flax's own modules count as one, MultiHeadAttention too; a user's only if nothing runs inside.
            and (l.type.__module__.startswith("flax.") or not any(_under(p, l.path) for p in paths))
        }
    outermost = {p for p in blocks if not any(_under(p, q) for q in blocks)}
    if not outermost:
        raise ValueError("no eligible layer was found in the model: name them in layers, or mark them with MixPoint.")
    return {l.name for l in found if l.path in outermost}


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` is any one path segment or a part of it, `**` any number of segments, `?` one character of a segment."""
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    return re.compile("".join({"**": ".*", "*": r"[^.]*", "?": r"[^.]"}.get(part, re.escape(part)) for part in parts))


def _under(path: str, ancestor: str) -> bool:
    return path.startswith(ancestor + ".")


def _with_iteration(path: str, stack: str, iteration: int) -> str:
    return f"{stack}.{iteration}{path[len(stack) :]}"


def _wanted(names: Collection[str]) -> dict[str, list[tuple[int | None, str]]]:
    """Module path -> (iteration, name): a number in a name is part of the path or the iteration of a stacked block."""
    wanted: dict[str, list[tuple[int | None, str]]] = {}
    for name in names:
        parts = name.split(".")
        wanted.setdefault(name, []).append((None, name))
        for i, part in enumerate(parts):
            if part.isdecimal() and i:
                wanted.setdefault(".".join(parts[:i] + parts[i + 1 :]), []).append((int(part), name))
    return wanted


def _and(a: Any, b: Any) -> Any:
    return a & b if is_concrete(a) and is_concrete(b) else jnp.logical_and(a, b)


def _blend_if(active: Any, mix: Mix, x: Any, name: str) -> Any:
    """`mix.blend(x)` where `active`, decided now if it can be known now."""
    if is_concrete(active):
        if not active:
            return x
        active = None
    try:
        return mix.blend(x) if active is None else jax.lax.cond(active, mix.blend, lambda x: x, x)
    except (TypeError, ValueError) as error:
        error.add_note(f"(jax_mix: while mixing at {name!r})")
        raise


def _not_found(what: str, name: str, model: Any, found: tuple[Layer, ...]) -> str:
    """Why `name`, called `what` in the message, is not among the layers `found`."""
    names = [l.name for l in found]
    if not isinstance(model, nnx.Module):
        return f"{what} is not among the layers that run: {suggest(name, names)}"  # Linen's exist while they run
    paths = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    if name in paths and isinstance(paths[name], nnx.bridge.ToNNX):
        return f"{what} is a Linen module inside nnx.bridge.ToNNX, which cannot be mixed: put a MixPoint after it."
    if name in paths:
        return f"{what} never runs in this forward pass: {suggest(name, names)}"
    module: Any = model
    for part in name.split("."):
        items = module if hasattr(module, "__len__") and part.isdecimal() else ()
        module = items[int(part)] if items and int(part) < len(items) else getattr(module, part, None)
    for path, same in paths.items():
        if same is module:
            return f"{what} is another name of {path!r}: use that."
    return f"{what} is not in the model: {suggest(name, names)}"


def _fresh(value: Any) -> Any:
    return nnx.clone(value) if isinstance(value, nnx.Pytree) else value


def _run(
    model: Any,
    variables: Any,
    args: Any,
    kwargs: Any,
    x: Any,
    hook: Hook | None,
    paths: Collection[str] | None,
    uncertain: set[str] | None = None,
) -> Any:
    """Call the model on `x`; the first output of each module in `paths` (None: of every one) goes through `hook`.

    To `uncertain` are added those whose call could not be noted where the next iteration of a loop would see it.
    """
    uncertain = set() if uncertain is None else uncertain
    if isinstance(model, nnx.Module):
        if variables is not None:
            raise TypeError("variables is for Linen models; an NNX model holds its own.")
        if hook is None or (paths is not None and not paths):
            return model(x, *args, **kwargs)  # type: ignore[operator]
        return _run_nnx(model, args, kwargs, x, hook, paths, uncertain)
    if isinstance(model, linen.Module):
        if variables is None or model.scope is not None:
            raise TypeError(
                "a Linen model is passed unbound, with its variables: forward(model, x, mix, variables=variables)."
            )
        if hook is None or (paths is not None and not paths):
            return model.apply(variables, x, *args, **kwargs)
        return _run_linen(model, variables, args, kwargs, x, hook, paths, uncertain)
    raise TypeError(
        f"model must be a Flax NNX model, or a Flax Linen module with variables=..., got {type(model).__name__}."
    )


def _shared_length(shapes: list[tuple[int, ...]]) -> int | None:
    """The length of a first axis that all arrays share: the weights may be stacked along it."""
    lengths = {shape[0] if shape else None for shape in shapes}
    return lengths.pop() if len(lengths) == 1 else None


def _iterations(length: int | None) -> Any:
    """0 where nothing is stacked, else 0..length-1: known while tracing, and an array that a tracer may index."""
    if length is None:
        return np.int32(0)
    with jax.ensure_compile_time_eval():
        return jnp.arange(length, dtype=jnp.int32)


def _warn_called_again(path: str) -> None:
    warnings.warn(
        f"layer {path!r} is called more than once in a forward pass: it is mixed at its first call only.", stacklevel=3
    )


# --- NNX


def _run_nnx(
    model: nnx.Module,
    args: Any,
    kwargs: Any,
    x: Any,
    hook: Hook,
    paths: Collection[str] | None,
    uncertain: set[str],
) -> Any:
    copy = nnx.clone(model, variables=False)  # new modules, the same Variables
    originals = dict(nnx.iter_modules(model))
    copies = dict(nnx.iter_modules(copy))
    points = []
    for path, module in copies.items():
        name = ".".join(map(str, path))
        if not path or not callable(module) or (paths is not None and name not in paths):
            continue
        if isinstance(module, nnx.bridge.ToNNX):  # takes all its attributes for the Linen module's variables
            continue
        kind, length = _nnx_iteration(copies, path)
        point = _Point(name, hook, length)
        setattr(module, _POINT, point)
        setattr(module, _ITERATION, kind(_iterations(length)))
        points.append((module, point))
        object.__setattr__(module, "__class__", _mixing(type(module)))
    before = {path: dict(vars(module)) for path, module in copies.items()}
    try:
        y = copy(x, *args, **kwargs)  # type: ignore[operator]
    finally:
        for _, point in points:
            point.hook = None  # a compilation cache may keep the point: it must not keep the tracers
    for module, point in points:
        value = getattr(module, _ITERATION).get_value()
        if point.called and is_concrete(value) and np.all(np.asarray(value) >= 0):
            uncertain.add(point.path)
    original_of = {id(copies[path]): original for path, original in originals.items()}
    for path, module in copies.items():  # attributes that the forward pass set, sown Variables among them
        for attribute, value in vars(module).items():
            changed = before[path].get(attribute, _Point) is not value
            if changed and attribute not in (_POINT, _ITERATION) and not attribute.startswith("_pytree__"):
                setattr(originals[path], attribute, original_of.get(id(value), value))
    return y


def _nnx_iteration(modules: dict[Any, nnx.Module], path: tuple[Any, ...]) -> tuple[type[nnx.Variable], int | None]:
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
            return type(variables[0]), _shared_length([v.get_value().shape for v in variables])
    return nnx.Variable, None


@dataclasses.dataclass(eq=False)  # a static attribute of the module, one of its kind: caches must not mix up two calls
class _Point:
    path: str
    hook: Hook | None
    length: int | None
    called: bool = False

    def __call__(self, module: nnx.Module, output: Any) -> Any:
        variable = getattr(module, _ITERATION)
        value = variable.get_value()
        value = np.asarray(value) if is_concrete(value) else value  # jax.numpy's operations would be traced inside jit
        stacked = self.length if self.length is not None and np.ndim(value) == 0 else None
        iteration = value if np.ndim(value) == 0 else value[0]
        if is_concrete(iteration) and iteration < 0:
            _warn_called_again(self.path)
            return output
        assert self.hook is not None, "a mixed module was kept after its forward pass and called again"
        self.called = True
        output = self.hook(self.path, type(module).__mro__[1], iteration, stacked, output)
        with contextlib.suppress(errors.TraceContextError):  # inside a bare jax transform that only reads the module
            variable.set_value(np.full(np.shape(value), -1, np.int32))
        return output


@functools.cache
def _mixing(cls: type[nnx.Module]) -> type[nnx.Module]:
    """A subclass of `cls` whose calls go through its point: `isinstance` and attributes stay as they were."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, _POINT)(self, cls.__call__(self, *args, **kwargs))  # type: ignore[operator]

    body = {
        "__call__": __call__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    return type(cls)(cls.__name__, (cls,), body, pytree=cls._pytree__is_pytree)  # type: ignore[call-arg, attr-defined, misc]


# --- Linen


def _run_linen(
    model: linen.Module,
    variables: Any,
    args: Any,
    kwargs: Any,
    x: Any,
    hook: Hook,
    paths: Collection[str] | None,
    uncertain: set[str],
) -> Any:
    variables = dict(variables)
    lengths: dict[str, int] = {}
    if "params" in variables:
        variables["params"] = _with_iterations(variables["params"], "", paths, lengths)
    # Whether each layer was called is state, a collection of its own: remat and jit carry it from call to call.
    variables[_CALLED] = _nested(paths or (), np.int32(0))
    mutable = kwargs.get("mutable", False)
    kwargs = {**kwargs, "mutable": union_filters(mutable, _CALLED)}
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
            _warn_called_again(path)
            return output
        iteration, stacked = _linen_iteration(scope, path, lengths)
        if not carried and stacked is None:
            uncertain.add(path)
        if not is_concrete(before):
            iteration = jnp.where(before == 0, iteration, -1)
        called_in_trace.add((scope.root, path))
        if carried:
            scope.put_variable(_CALLED, _CALLED, np.int32(1))
        return hook(path, type(module), iteration, stacked, output)

    with linen.intercept_methods(intercept):
        output, updates = model.apply(variables, x, *args, **kwargs)
    if mutable is False:
        return output
    return output, _without(updates, (_CALLED, _ITERATION))


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
        if not hasattr(child, "items") or not (paths is None or any(p == path or _under(p, path) for p in paths)):
            continue
        child = _with_iterations(child, path, paths, lengths)
        own = [leaf for key, leaf in child.items() if key != _ITERATION]
        length = _shared_length([np.shape(leaf) for leaf in jax.tree.leaves(meta.unbox(own))])
        if length is not None:
            child[_ITERATION] = _iterations(length)
            lengths[path] = length
        params[name] = child
    return params


def _linen_iteration(scope: Any, path: str, lengths: dict[str, int]) -> tuple[Any, int | None]:
    """The scan iteration a module is in, read off the nearest scope that carries one."""
    while scope is not None:
        if scope.has_variable("params", _ITERATION):
            value = scope.get_variable("params", _ITERATION)
            if np.ndim(value) == 0:
                return value, lengths[".".join(scope.path)]
            break
        scope = scope.parent
    return np.int32(0), None

"""The Flax side: a copy in float64, its arrays by name, its layers, and a step of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import jax_mix
from jax_mix._call import Call, as_call
from jax_mix._checks import is_concrete
from jax_mix._layers import Layer, find_layers
from jax_mix._running import run
from jax_mix.parity.arrays import joined
from jax_mix.parity.records import Draw, Look, Loss, Seen, Step

_NO_ARRAYS = (nnx.RngState, nnx.Cache, nnx.Intermediate)  # state of a run, none of the model's own
RATES = ("rate", "dropout_rate", "drop_prob", "p")  # what a Dropout's attribute is called, here and in PyTorch
DROPPING = ("Dropout", "DropPath", "StochasticDepth", "DropBlock", "MultiHeadAttention", "MultiheadAttention")


def rates(named: Iterator[tuple[str, Any]], *, off: bool = False) -> dict[str, float]:
    """The rates above 0 of the modules that drop at random, which are set to 0 if `off`."""
    found = {}
    for name, module in named:
        if not any(word in cls.__name__ for cls in type(module).__mro__ for word in DROPPING):
            continue
        for attribute in ("dropout", *RATES):
            rate = getattr(module, attribute, None)
            if isinstance(rate, (int, float)) and rate > 0:
                found[name] = float(rate)
                if off:
                    setattr(module, attribute, 0.0)
    return found


class Port:
    """A Flax model, as the ladder uses it.

    Args:
      model: an NNX model, or a Linen module with its `variables`.
      variables: a Linen model's, else None.
      evaluation, training: keyword arguments of the model's calls.
    """

    def __init__(self, model: Any, variables: Any, evaluation: Mapping[str, Any], training: Mapping[str, Any]) -> None:
        self.linen = isinstance(model, linen.Module)
        self.kwargs = {False: dict(evaluation), True: dict(training)}
        self.rates: dict[str, float] = {}
        if self.linen:
            self.module = model
            self.variables = jax.tree.map(_in_float64, jax.tree.map(lambda a: a, dict(variables)))
            others = [name for name in self.variables if name != "params"]
            self.kwargs[True].setdefault("mutable", others or False)
            self.kwargs[True].setdefault("rngs", {"dropout": jax.random.key(0)})
            return
        self.models = {}
        for mode in (False, True):
            copy = nnx.clone(model)
            for _, variable in nnx.iter_graph(copy):
                if isinstance(variable, nnx.Variable):
                    variable.set_value(jax.tree.map(_in_float64, variable.get_value()))
            for _, module in nnx.iter_modules(copy):
                _in_float64_throughout(module)
            copy.train() if mode else copy.eval()
            self.models[mode] = copy
        self.rates = rates(_named(self.models[True]), off=True)
        self.modules = dict(_named(self.models[False]))

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters, statistics and other floats, by name."""
        if self.linen:
            return {joined(*path[1:]): np.asarray(a) for path, a in _flat(self.variables)}
        state = nnx.state(self.models[False])
        found = {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state) if _counts(variable)}
        return {name: np.asarray(variable.get_value()) for name, variable in found.items()}

    def parameters(self) -> set[str]:
        """The names of those that are trained."""
        if self.linen:
            return {joined(*path[1:]) for path, _ in _flat(self.variables) if path[0] == "params"}
        return {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(self.models[False], nnx.Param))}

    def set(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Give arrays of these names these values."""
        if self.linen:
            paths = {joined(*path[1:]): path for path, _ in _flat(self.variables)}
            self.variables = jax.tree_util.tree_map_with_path(
                lambda path, a: jnp.asarray(arrays[name]) if (name := _name(path)) in arrays and name in paths else a,
                self.variables,
            )
            return
        for model in self.models.values():
            state = nnx.state(model)
            for path, variable in nnx.to_flat_state(state):
                if (name := ".".join(map(str, path))) in arrays:
                    variable.set_value(jnp.asarray(arrays[name]))
            nnx.update(model, state)

    def _model(self, training: bool) -> Any:
        return self.module if self.linen else self.models[training]

    def _call(self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        return as_call(model, tuple(args), dict(kwargs), self.variables if self.linen else None, None, ())

    def _apart(self, y: Any, training: bool) -> Any:
        """The output alone, where Linen gives what has changed besides."""
        return y[0] if self.linen and training and self.kwargs[True]["mutable"] is not False else y

    def look(self, args: Sequence[Any], *, training: bool, twice: bool = False) -> Look:
        """Run forward and keep what every layer puts out: with `twice` in the second of two runs."""
        layers: dict[str, Seen] = {}
        model = self._model(training)
        model = model if self.linen or not training else nnx.clone(model)  # whose statistics change
        kwargs = dict(self.kwargs[training])

        def hook(path: str, kind: type, iteration: Any, stacked: int | None, output: Any, inputs: Any) -> Any:
            if stacked is None and path not in layers:
                seen = Seen(_arrays(inputs), _arrays(output))
                if seen.outputs:
                    layers[path] = seen
            return output

        for again in range(1 + twice):
            if again and "rngs" in kwargs:
                kwargs["rngs"] = {name: jax.random.key(1) for name in kwargs["rngs"]}
            layers.clear()
            y = self._apart(run(self._call(model, args, kwargs), hook, None), training)
        return Look(_arrays(y), layers)

    def layers(self, args: Sequence[Any]) -> tuple[Layer, ...]:
        """As `list_layers` gives them, in training; what goes around them is not told."""
        return find_layers(self._call(self._model(True), args, self.kwargs[True]), tell=False).layers

    def stepper(self, places: Sequence[str], loss: Loss) -> Any:
        """A step of training, a function of arguments, labels and a `Draw`; compiled once for all `places`."""
        kwargs = self.kwargs[True]
        if self.linen:
            params, rest = self.variables["params"], {k: v for k, v in self.variables.items() if k != "params"}
        else:
            graph, params, rest = nnx.split(self.models[True], nnx.Param, ...)  # type: ignore[misc]

        @jax.jit
        def compiled(params: Any, rest: Any, args: Any, y: Any, mix: Any) -> Any:
            def loss_fn(params: Any) -> Any:
                if self.linen:
                    variables = {"params": params, **rest}
                    out = jax_mix.forward(self.module, args[0], mix, *args[1:], variables=variables, **kwargs)
                    changed = out[1] if kwargs["mutable"] is not False else {}
                else:
                    model = nnx.merge(graph, params, rest, copy=True)
                    out = jax_mix.forward(model, args[0], mix, *args[1:], **kwargs)
                    changed = nnx.state(model, nnx.Not(nnx.Param))
                output = self._apart(out, True)
                losses = jax_mix.mixed_loss(loss, output, y, mix)
                return losses.mean(), (output, losses, changed)

            return jax.grad(loss_fn, has_aux=True)(params)

        def step(args: Any, y: Any, draw: Draw) -> Step:
            at = {"layer": jnp.int32(list(places).index(draw.layer)), "layers": tuple(places)} if places else {}
            mix = jax_mix.Mix(lam=jnp.asarray(draw.lam), partner=jnp.asarray(draw.partner), **at) if places else None
            gradients, (output, losses, changed) = compiled(params, rest, args, y, mix)
            if self.linen:
                by_name = {joined(*path): np.asarray(a) for path, a in _flat(gradients)}
                statistics = {joined(*path[1:]): np.asarray(a) for path, a in _flat(changed)}
            else:
                by_name, statistics = _values(gradients), _values(changed)
            return Step(_arrays(output), np.asarray(losses), by_name, statistics)

        return step


def _in_float64_throughout(module: Any) -> None:
    """Let a module of the copy compute in float64 where it has been told another type, or takes one by itself."""
    for name in ("dtype", "param_dtype"):  # a recurrent cell makes its state of the latter
        if getattr(module, name, None) is not None and jnp.issubdtype(getattr(module, name), jnp.floating):
            setattr(module, name, jnp.float64)
    if getattr(module, "attention_fn", None) is nnx.dot_product_attention:
        module.attention_fn = _attention


def _attention(*args: Any, module: Any = None, **kwargs: Any) -> Any:
    """Flax's attention, whose softmax is in float32 where it has no module to note its weights in."""
    kwargs["module"] = module or False
    return nnx.dot_product_attention(*args, **kwargs)


def _in_float64(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):  # of a model of shapes, which is to have the original's weights
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaf = jax.random.key(0) if key else jnp.zeros(leaf.shape, leaf.dtype)
    dtype = getattr(leaf, "dtype", None)
    return (
        jnp.asarray(np.asarray(leaf), jnp.float64)
        if dtype is not None and jnp.issubdtype(dtype, jnp.floating)
        else leaf
    )


def _named(model: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    for path, module in nnx.iter_modules(model):
        yield ".".join(map(str, path)), module


def _counts(variable: Any) -> bool:
    value = variable.get_value()
    floats = hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.inexact)
    return floats and not isinstance(variable, _NO_ARRAYS)


def _values(state: Any) -> dict[str, np.ndarray]:
    flat = nnx.to_flat_state(state)
    return {".".join(map(str, path)): np.asarray(variable.get_value()) for path, variable in flat if _counts(variable)}


def _name(path: Any) -> str:
    return joined(*(str(getattr(entry, "key", entry)) for entry in path[1:]))


def _flat(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(tuple(str(getattr(entry, "key", entry)) for entry in path), leaf) for path, leaf in flat]


def _arrays(tree: Any) -> list[np.ndarray]:
    """The arrays in what a layer is given or puts out; none of them where they are not computed yet."""
    leaves = [
        leaf for leaf in jax.tree.leaves(tree, is_leaf=lambda a: isinstance(a, nnx.Pytree)) if hasattr(leaf, "dtype")
    ]
    leaves = [leaf for leaf in leaves if not isinstance(leaf, (nnx.Pytree, nnx.Variable))]
    if not all(is_concrete(leaf) for leaf in leaves):
        return []
    return [np.asarray(leaf) for leaf in leaves if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]

"""Running a model mixed, at the layer that the draw names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mix import _product
from jax_mix._call import Call, as_call
from jax_mix._checks import batch_size, is_concrete
from jax_mix._layers import Layer, find_layers, in_loop, not_found
from jax_mix._leaves import map_leaves, mixed_leaves, shapes
from jax_mix._mix import INPUT, OUTPUT, Mix, check_mix
from jax_mix._paths import split_selector, wanted_paths, with_iteration
from jax_mix._running import run


def forward(
    model: Any,
    x: Any,
    mix: Mix | None,
    *args: Any,
    variables: Any = None,
    method: Any = None,
    mixed: str | Sequence[str] = (),
    **kwargs: Any,
) -> Any:
    """Run a model in training, mixed where the draw says: at its input, at one hidden layer, or at its output.

    The model is not edited: when this returns or raises, it is as `model(x)` would have left it. Works under
    jit, grad, vmap, scan and remat, with BatchNorm, Dropout and blocks scanned over stacked weights. Only
    `__call__` counts as running a layer. While it runs, a layer that may be mixed holds one number more beside its
    weights, which a model that sums over its own parameters would see.

    Args:
      model: a Flax NNX model, or a Flax Linen module with its `variables`; a `TrainState`'s `apply_fn` will do too.
      x: the model's first argument: float arrays in any pytree, batch first. None where the model takes its input by
        keyword.
      mix: the batch's draw, or None not to mix.
      *args: the model's further arguments.
      variables: a Linen model's variables, as `model.apply` takes them.
      method: the method to run instead of `__call__`: its name, or a function of the model.
      mixed: names of further arguments that are mixed together with `x` at the input.
      **kwargs: the model's keyword arguments; for Linen those of `model.apply`, say `rngs` and `mutable`.

    Returns:
      What `model(x, ...)` or `model.apply(variables, x, ...)` returns.

    Raises:
      TypeError: `model` is no Flax model; `x` is integer.
      ValueError: a layer, a method or an argument is unknown (the nearest names are listed); a layer never runs,
        runs in a loop with the same weights each time, or puts out no batch of floats; the batch is not the draw's.

    Source: Manifold Mixup, arXiv:1806.05236, section 2; ManifoldMixupV2's forward hook, at the first call only.

    >>> import jax, jax.numpy as jnp, jax_mix
    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    >>> method = jax_mix.ManifoldMixup(2.0, layers=("layers.0",))
    >>> mix = method.sample(jax.random.key(0), (16, 4))
    >>> jax_mix.forward(model, jnp.ones((16, 4)), mix).shape
    (16, 2)
    """
    call = as_call(model, (x, *args), kwargs, variables, method, mixed)
    if mix is None:
        return run(call, None, ())
    check_mix(mix)
    if isinstance(mix.layer, str):
        names: dict[str, int] = {mix.layer: 0}
        layer: Any = np.int32(0)
    else:
        names = {name: k for k, name in enumerate(mix.layers)}
        layer = mix.layer
    mix._check_batch(call.inputs, call.what)
    n = batch_size(call.inputs, call.what)

    if INPUT in names:
        call = call.with_inputs(_blend_if(layer == names.pop(INPUT), mix, call.inputs, INPUT))
    at_output = layer == names.pop(OUTPUT) if OUTPUT in names else None
    wanted = wanted_paths(names)
    seen = set()

    def hook(path: str, _: type, iteration: Any, stacked: int | None, output: Any, inputs: Any) -> Any:
        entries = wanted[path]
        if stacked is None:
            hits = [(0, name) for at, name in entries if at is None]
        else:
            if any(at is None for at, _ in entries):
                first = with_iteration(path, path, 0)
                raise ValueError(
                    f"layer {path!r} is scanned over {stacked} iterations: name one of them, as {first!r}."
                )
            hits = [(at, name) for at, name in entries if at is not None and at < stacked]
        if iteration is None:
            raise ValueError(in_loop(f"layer {path!r}"))
        put_out = output
        for at, name in hits:
            seen.add(name)
            what = f"layer {name!r}"
            chosen = mixed_leaves(put_out, inputs, n, split_selector(name)[1], what)
            if not any(chosen):
                raise ValueError(f"{what} puts out no batch of {n} floats: {shapes(put_out)}.")
            active = _and(iteration == at, layer == names[name])
            output = map_leaves(functools.partial(_blend_if, active, mix, name=name), output, chosen)
        return output

    uncertain: set[str] = set()
    try:
        y = run(call, hook, wanted, uncertain)
    except (IndexError, TypeError, ValueError) as error:
        _refuse_loops(call, names, wanted, error)
        raise
    if uncertain or not seen.issuperset(names):
        found = _refuse_loops(call, names, wanted)
        for name in names:
            if name not in seen:
                raise ValueError(not_found(f"layer {name!r}", split_selector(name)[0], call.model, found))
    if at_output is None:
        return y
    if call.variables is not None and kwargs.get("mutable", False) is not False:  # Linen's output and its state
        return _blend_if(at_output, mix, y[0], OUTPUT), y[1]
    return _blend_if(at_output, mix, y, OUTPUT)


def _refuse_loops(
    call: Call, names: Collection[str], wanted: Collection[str], error: Exception | None = None
) -> tuple[Layer, ...]:
    """The layers of the model, none of which that is among the names (or of these paths, after an error) is looped."""
    try:
        found = find_layers(call, tell=False).layers
    except Exception:
        if error is None:
            raise
        return ()  # the model's own error is raised
    plain = {split_selector(name)[0]: name for name in names}
    for layer in found:
        if layer.looped and (layer.name in plain or (error is not None and layer.path in wanted)):
            raise ValueError(in_loop(f"layer {plain.get(layer.name, layer.name)!r}")) from error
    known = {name for layer in found for name in (layer.name, layer.path)}
    for name in plain if error is not None else ():
        if name not in known:
            raise ValueError(not_found(f"layer {plain[name]!r}", name, call.model, found)) from error
    return found


def _and(a: Any, b: Any) -> Any:
    return a & b if is_concrete(a) and is_concrete(b) else jnp.logical_and(a, b)


def _blend_if(active: Any, mix: Mix, x: Any, name: str) -> Any:
    """`mix.blend(x)` where `active`, decided now if it can be known now."""
    if is_concrete(active):
        if not active:
            return x
        active = None
    try:
        blend = functools.partial(mix._blend_at, name)
        if active is None:
            return blend(x)

        branch = functools.partial(jax.lax.cond, active, blend, lambda x: x)
        if not all(_product.fits(leaf, mix.groups) for leaf in jax.tree.leaves(x)):
            return branch(x)
        return _product.choose(functools.partial(_only_if(active, mix)._blend_at, name), branch, x)
    except (TypeError, ValueError) as error:
        error.add_note(f"(jax_mix: while mixing at {name!r})")
        raise


def _only_if(active: Any, mix: Mix) -> Mix:
    """The draw where `active`, else one of the same form that leaves everything as it is."""

    def otherwise(value: Any, unmixed: int) -> Any:
        return None if value is None else jnp.where(active, value, unmixed)

    lam, outside, box = otherwise(mix.lam, 1), otherwise(mix.outside, 1), otherwise(mix.box, 0)
    return dataclasses.replace(mix, lam=lam, outside=outside, box=box)

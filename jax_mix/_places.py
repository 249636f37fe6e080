"""Where a draw may mix: what a user names, its names in order, and one of them drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_mix import _checks, _sampling
from jax_mix._mix import INPUT, Mix


def as_layers(layers: Any) -> tuple[Any, ...]:
    """What a user names, as a tuple of dotted paths and types, each once."""
    several = isinstance(layers, Iterable) and not isinstance(layers, (str, type))
    layers = tuple(layers) if several else (layers,)
    for layer in layers:
        if not isinstance(layer, (str, type)):
            raise ValueError(f"layers must be paths, globs or module types, got {_checks.shown(layer)}.")
    return tuple(dict.fromkeys(l.replace("/", ".") if isinstance(l, str) else l for l in layers))  # Linen's a/b


def layer_names(layers: tuple[Any, ...] | None, *, use_input: bool) -> tuple[str, ...]:
    """The names that a draw's layer counts."""
    if layers is None or any(isinstance(l, type) or set("*?") & set(l) for l in layers):
        raise ValueError(f"layers={layers!r} must be looked up in the model first: method = method.bind(model, image).")
    return ((INPUT,) if use_input else ()) + tuple(l for l in layers if l != INPUT)


def in_order_of(layers: tuple[str, ...], method: Any) -> Any:
    """The probabilities of a method whose layers were written as plain paths, for the same ones in this order."""
    probabilities, paths = method.layer_probabilities, method.layers
    if probabilities is None or paths is None or not all(path in (INPUT, *layers) for path in paths):
        return probabilities
    written = layer_names(paths, use_input=method.use_input)
    if len(written) != np.shape(probabilities)[0]:
        return probabilities  # `sample` says so
    order = [written.index(name) for name in layer_names(layers, use_input=method.use_input)]
    known = _checks.is_concrete(probabilities)
    return tuple(probabilities[at] for at in order) if known else jnp.asarray(probabilities)[np.array(order)]


def at_layer(mix: Mix, words: _sampling.Words, names: tuple[str, ...], layer: str | None, probabilities: Any) -> Mix:
    """The draw at the layer that is asked for, or at one that is drawn."""
    if probabilities is not None:
        _checks.check_probabilities("layer_probabilities", probabilities, names)
    if layer is None:
        return dataclasses.replace(mix, layer=_sampling.choices(words, len(names), (), probabilities), layers=names)
    if layer not in names:
        raise ValueError(f"layer is {layer!r}: {_checks.suggest(str(layer), names)}")
    return dataclasses.replace(mix, layer=layer, layers=names)

"""Choosing among a model's layers: by path, glob or type, by marks, or automatically."""

from __future__ import annotations

import re

from flax import linen, nnx

from jax_mix._call import Call
from jax_mix._checks import batch_size, suggest
from jax_mix._layers import Layer, in_loop, not_found
from jax_mix._leaves import mixed_leaves, shapes
from jax_mix._mix import INPUT
from jax_mix._paths import glob, split_selector, under
from jax_mix._points import LinenMixPoint, MixPoint

_CONTAINERS = (nnx.Sequential, linen.Sequential)
_NORMS = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")
_RECURRENT = ("RNN", "RNNCellBase", "Bidirectional")
_NEVER = tuple(getattr(flax, name) for flax in (nnx, linen) for name in ("Dropout", *_NORMS, *_RECURRENT))


def choose(call: Call, found: tuple[Layer, ...], wanted: tuple[str | type, ...] | None) -> tuple[str, ...]:
    """The names among `found` that paths, globs and types select, in running order; None chooses as ManifoldMixupV2.

    A path must name a layer whose output is a batch of floats, as the call's input is; the others pass over the rest.
    """
    n = batch_size(call.inputs, call.what)
    mixable = tuple(l for l in found if any(mixed_leaves(l.output, (), n)) and not l.looped)
    if wanted is None:
        chosen = {name: [name] for name in _choose_automatically(mixable)}
    else:
        chosen = {}
        for want in wanted:
            selector = None
            if isinstance(want, type):
                hits = {l.name for l in mixable if issubclass(l.type, want)}
                if not hits:
                    types = sorted({l.type.__name__ for l in mixable})
                    raise ValueError(
                        f"layers has type {want.__name__}, of which no module runs: {suggest(want.__name__, types)}"
                    )
            else:
                want, selector = split_selector(want)
                hits = {l.name for l in mixable if glob(want).fullmatch(l.name)}
                if not hits and want != INPUT:
                    for layer in found:
                        if layer.name == want:
                            if layer.looped:
                                raise ValueError(in_loop(f"layers has {want!r}, which"))
                            told = f"whose output is no batch of {n} floats: {shapes(layer.output)}."
                            raise ValueError(f"layers has {want!r}, {told}")
                    raise ValueError(not_found(f"layers has {want!r}, which", want, call.model, mixable))
            for hit in hits:
                chosen.setdefault(hit, []).append(hit if selector is None else f"{hit}[{selector}]")
    for layer in found:
        for name in chosen.get(layer.name, ()):
            mixed_leaves(layer.output, (), n, split_selector(name)[1], f"layer {name!r}")  # refuses what is not there
    return tuple(dict.fromkeys(name for l in found for name in chosen.get(l.name, ())))


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
            and not any(l.path == b or under(l.path, b) for b in barred)
            # Flax's own modules count as one, MultiHeadAttention too; a user's only if nothing runs inside.
            and (l.type.__module__.startswith("flax.") or not any(under(p, l.path) for p in paths))
        }
    outermost = {p for p in blocks if not any(under(p, q) for q in blocks)}
    if not outermost:
        raise ValueError("no eligible layer was found in the model: name them in layers, or mark them with MixPoint.")
    return {l.name for l in found if l.path in outermost}

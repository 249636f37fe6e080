"""Choosing among a model's layers: by path, glob or type, by marks, or automatically."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx

from jax_mix._call import Call
from jax_mix._checks import batch_size, suggest
from jax_mix._layers import Found, Layer, in_loop, listing, not_found, place
from jax_mix._leaves import mixed_leaves, shapes
from jax_mix._mix import INPUT, OUTPUT
from jax_mix._paths import glob, split_selector, under
from jax_mix._points import LinenMixPoint, MixPoint

_CONTAINERS = (nnx.Sequential, linen.Sequential)
_NORMS = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")
_NORM_TYPES, _DROPOUT, _CELLS = (
    tuple(getattr(flax, name) for flax in (nnx, linen) for name in names)
    for names in (_NORMS, ("Dropout",), ("RNNCellBase",))
)


class Choice(NamedTuple):
    """The names of the layers that were chosen, in running order, and why each was."""

    layers: tuple[str, ...]
    why: dict[str, str]


def check_input(call: Call, use_input: bool) -> None:
    """A sentence if the input is among the places and cannot be mixed."""
    if use_input and (others := other_than_floats(call)):
        raise ValueError(
            f"use_input is True, but an input of {others[0]} cannot be mixed: cast it, or for token ids mix at hidden "
            "layers only, use_input=False."
        )


def other_than_floats(call: Call) -> list[Any]:
    """The dtypes of the inputs that cannot be mixed."""
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(call.inputs)]
    return [dtype for dtype in dtypes if not jnp.issubdtype(dtype, jnp.inexact)]


def choose(
    call: Call,
    found: Found,
    wanted: tuple[str | type, ...] | None,
    *,
    use_input: bool,
    strict: bool = False,
    warn: bool = True,
) -> Choice:
    """The layers in `found` that paths, globs and types select; None chooses.

    A path must name a layer whose output is a batch of floats; the others pass over the rest. A layer that was asked
    for and is no cut is warned of, with `strict` refused.
    """
    mixable = tuple(l for l in found.layers if l.batch and not l.looped)
    if wanted is None:
        why = _choose_automatically(found, mixable)
    else:
        why = {name: "named" for want in wanted for name in _asked_for(call, found, mixable, want)}
    names = [(l, name) for l in found.layers for name in why if split_selector(name)[0] == l.name]
    if warn and (passed := _passed(call, found, names, use_input)):
        _complain(passed, found.arguments, strict)
    return Choice(tuple(name for _, name in names), why)


def _asked_for(call: Call, found: Found, mixable: tuple[Layer, ...], want: str | type) -> list[str]:
    if isinstance(want, type):
        selector, what = None, f"layers has type {want.__name__}, of which no module"
        every = [l for l in found.layers if issubclass(l.type, want)]
    else:
        want, selector = split_selector(want)
        what = f"layers has {want!r}, which"
        every = [l for l in found.layers if glob(want).fullmatch(l.name)]
    hits = [l.name for l in every if l in mixable]
    if hits or want == INPUT:
        return [_selected(found, hit) if selector is None else f"{hit}[{selector}]" for hit in hits]
    if every and every[0].looped:
        raise ValueError(in_loop(what if every[0].name == want else f"layers has {_name(want)}: {every[0].name!r}"))
    if every:  # they run, but cannot be mixed
        n = batch_size(call.inputs, call.what)
        whose = "" if every[0].name == want else f" as {every[0].name!r},"
        told = f"no batch of {n} floats that depends on the input: {shapes(every[0].output)}."
        raise ValueError(f"layers has {_name(want)},{whose} whose output is {told}")
    if isinstance(want, type):
        raise ValueError(f"{what} runs: {suggest(want.__name__, sorted({l.type.__name__ for l in mixable}))}")
    raise ValueError(not_found(what, want, call.model, mixable))


def _name(want: str | type) -> str:
    return f"type {want.__name__}" if isinstance(want, type) else repr(want)


def _selected(found: Found, name: str) -> str:
    return f"{name}[{found.selectors[name]}]" if name in found.selectors else name


def _passed(call: Call, found: Found, names: list[tuple[Layer, str]], use_input: bool) -> list[str]:
    """Those of the chosen places, the input among them, that the batch also goes around, and how."""
    passed = [f"{INPUT!r} (through the argument {argument!r})" for argument in found.arguments if use_input]
    n = batch_size(call.inputs, call.what)
    for layer, name in names:
        selector = split_selector(name)[1]
        leaves = {}
        if selector is not None:
            leaves = {layer.path: mixed_leaves(layer.output, (), n, selector, f"layer {name!r}")}
        if leaves or not layer.cut:
            told = found.with_leaves(leaves) if leaves or not found.told else found
            layer = next(l for l in told.layers if l.name == layer.name)
            if not leaves:
                found = told  # for the next one
        if not layer.cut:
            passed.append(f"{name!r} ({layer.around})")
    return passed


def _complain(passed: list[str], arguments: tuple[str, ...], strict: bool) -> None:
    message = (
        f"the batch also goes around {listing(passed)}: mixed there, labels are blended more than features. "
        "print(method.explain(model, image)), in train.py --layers help, shows where mixing is exact"
        + (f"; an argument is mixed too with mixed={arguments[0]!r}." if arguments else ".")
    )
    if strict:
        raise ValueError(f"strict=True, but {message}")
    warnings.warn(message, stacklevel=4)


def _choose_automatically(found: Found, mixable: tuple[Layer, ...]) -> dict[str, str]:
    """Marks; else cuts that are neither the input nor the output again: blocks first, then single layers."""
    marks = {_selected(found, l.name): "marked" for l in mixable if issubclass(l.type, (MixPoint, LinenMixPoint))}
    if marks:
        return marks
    exact = [l for l in mixable if l.cut]
    if not [l for l in exact if l.same_as not in (INPUT, OUTPUT)]:
        # Then as if a further argument, say a mask of padding, were no path; it is warned of.
        exact = [l for l in mixable if l.cut or l.name in found.but_for_arguments]
    between = [l for l in exact if l.same_as not in (INPUT, OUTPUT)]
    inner = {l.name: [i for i in mixable if under(i.name, l.name)] for l in mixable}
    blocks = _blocks(mixable, {l.name for l in exact}, {l.name for l in between}, inner)
    singles = [l for l in between if not inner[l.name] or _is_flax(l.type)]
    singles = [l for l in singles if not any(under(l.name, o.name) and _is_flax(o.type) for o in singles)]
    plain = [l for l in singles if not issubclass(l.type, (*_NORM_TYPES, *_DROPOUT, *_CELLS))]
    norms = [l for l in singles if issubclass(l.type, _NORM_TYPES)]
    for tier, why in (
        *((b, "a block") for b in blocks),
        (plain, "a layer between"),
        (norms, "a norm: there is nothing else"),
    ):
        names = {l.name for l in tier}
        if chosen := _one_for_each_value(l for l in between if l.name in names):
            return {_selected(found, name): why for name in chosen}
    same = [f"{l.name!r} (the same as at {place(l.same_as or OUTPUT)})" for l in exact]
    raise ValueError(
        "no eligible layer was found in the model: between its input and its output, mixing is exact at none of them"
        f"{f'; it is at {listing(same)}' if same else ''}. Mark a place with MixPoint, or name layers."
    )


def _blocks(
    mixable: tuple[Layer, ...], exact: set[str], between: set[str], inner: dict[str, list[Layer]]
) -> Iterator[list[Layer]]:
    """The model's blocks, likeliest first: classes that hold other layers, of which it has two or more.

    A block is what the batch branches in, as a residual block, if there are any such. A stage or stack of blocks is
    its blocks. Then a single block; last, classes of which some are no cuts (a U-Net's).
    """
    classes: dict[Any, list[Layer]] = collections.defaultdict(list)
    for l in mixable:
        if issubclass(l.type, _CONTAINERS):  # alike only if they hold the same types of layers
            classes[l.type, frozenset(i.type for i in inner[l.name])].append(l)
        elif inner[l.name] and not _is_flax(l.type):
            classes[l.type].append(l)
    cut = {t: ls for t, ls in classes.items() if all(l.name in exact for l in ls)}
    branching = {t: ls for t, ls in cut.items() if any(i.name not in exact for l in ls for i in inner[l.name])}
    yield _outermost(_repeated(branching))
    # Of two containers, one for the features and one for the head, none is the other's like.
    alike = {
        t: sum(l.name in between for l in ls) > 1 or not issubclass(ls[0].type, _CONTAINERS) for t, ls in cut.items()
    }
    yield _outermost({t: ls for t, ls in _repeated(cut).items() if alike[t]})
    single = [l for ls in branching.values() for l in ls]
    yield [l for l in single if not any(under(b.name, l.name) for b in single)]
    several = {t: ls for t, ls in _repeated(classes).items() if not issubclass(ls[0].type, _CONTAINERS)}
    yield _outermost({t: [l for l in ls if l.name in between] for t, ls in several.items()})


def _outermost(classes: dict[Any, list[Layer]]) -> list[Layer]:
    """The blocks of `classes` that are in no other, less the stacks of others."""
    stacks = {t for t, ls in classes.items() for u, us in classes.items() if u != t and _is_stack(ls, us)}
    blocks = [l for t, ls in classes.items() if t not in stacks for l in ls]
    blocks = [l for l in blocks if not any(b.type is l.type and under(b.name, l.name) for b in blocks)]
    return [l for l in blocks if not any(under(l.name, b.name) for b in blocks)]


def _repeated(classes: dict[Any, list[Layer]]) -> dict[Any, list[Layer]]:
    return {t: ls for t, ls in classes.items() if len(ls) > 1}


def _is_stack(stages: list[Layer], blocks: list[Layer]) -> bool:
    """Whether two or more of `blocks` stand side by side in one of `stages`; of a plain container, one will do."""
    for stage in stages:
        parents = [b.name.rpartition(".")[0] for b in blocks if under(b.name, stage.name)]
        if len(parents) > len(set(parents)) or (parents and issubclass(stage.type, _CONTAINERS)):
            return True
    return False


def _is_flax(type_: type) -> bool:
    """Flax's own modules count as one layer, MultiHeadAttention too; its containers do not."""
    return type_.__module__.startswith("flax.") and not issubclass(type_, _CONTAINERS)


def _one_for_each_value(layers: Iterable[Layer]) -> list[str]:
    """The first of those that are the same."""
    first: dict[str, str] = {}
    for l in layers:
        first.setdefault(l.same_as or l.name, l.name)
    return list(first.values())

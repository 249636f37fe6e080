"""A table of a model's layers: where mixing is exact, what goes around the others, and which are chosen."""

from __future__ import annotations

import dataclasses
import html
from typing import Any

import jax

from jax_mix._call import Call
from jax_mix._choosing import check_input, choose, other_than_floats
from jax_mix._layers import Layer, find_layers, place
from jax_mix._mix import INPUT
from jax_mix._paths import split_selector

_HEADS = ("layer", "type", "output", "mixing there", "chosen")


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What mixing at each layer of a model would mean, and which layers a method chooses.

    `print` shows it as a table, a notebook as one of HTML.

    Attributes:
      rows: for each layer its name, type, output, what mixing there means, and whether it is chosen and why.
      summary: one sentence: where the method mixes, or why it cannot.
    """

    rows: tuple[tuple[str, str, str, str, str], ...]
    summary: str

    def __str__(self) -> str:
        table = [_HEADS, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(_HEADS))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([*lines, "", self.summary])

    def _repr_html_(self) -> str:
        def line(row: tuple[str, ...], tag: str) -> str:
            cells = "".join(f'<{tag} style="text-align: left">{html.escape(cell)}</{tag}>' for cell in row)
            weight = ' style="font-weight: bold"' if row[-1].startswith("yes") else ""
            return f"<tr{weight}>{cells}</tr>"

        body = "".join(line(row, "td") for row in self.rows)
        return f"<table><tr>{line(_HEADS, 'th')}</tr>{body}</table><p>{html.escape(self.summary)}</p>"


def explain(call: Call, wanted: tuple[str | type, ...] | None, *, use_input: bool) -> Explanation:
    """The table for a call of a model, and the layers that `wanted` selects in it."""
    found = find_layers(call)
    try:
        check_input(call, use_input)
        choice = choose(call, found, wanted, use_input=use_input, strict=False, warn=False)
        why = {split_selector(name)[0]: f"yes: {told}" for name, told in choice.why.items()}
        summary = told_where((INPUT,) * use_input + choice.layers)
    except ValueError as error:
        why, summary = {}, str(error)
    around = (
        f"not exact: the batch also goes through the argument {found.arguments[0]!r}" if found.arguments else "exact"
    )
    first = (INPUT, "", _output(call.inputs if len(call.inputs) > 1 else call.inputs[0]), around)
    if other_than_floats(call):
        rows = [(*first[:3], "cannot be mixed: no floats", "" if use_input else "no: use_input=False")]
    else:
        rows = [(*first, "yes" if use_input else "no: use_input=False")]
    for layer in found.layers:
        told = _meaning(layer)
        otherwise = "no" if told == "exact" and why else ""
        rows.append((layer.name, layer.type.__name__, _output(layer.output), told, why.get(layer.name, otherwise)))
    return Explanation(tuple(rows), summary)


def told_where(layers: tuple[str, ...]) -> str:
    """Where a batch is mixed, as one sentence."""
    if len(layers) == 1:
        return f"Every batch is mixed at {layers[0]!r}."
    names = ", ".join(map(repr, layers[:-1]))
    return f"Each batch is mixed at one of {len(layers)} places, drawn at random: {names} or {layers[-1]!r}."


def _meaning(layer: Layer) -> str:
    if layer.looped:
        return "cannot be mixed: a loop runs it with the same weights each time"
    if not layer.batch:
        return "cannot be mixed: no batch of floats that depends on the input"
    if not layer.cut:
        return (
            f"not exact: {layer.around}"
            if layer.around.startswith(("it ", "its "))
            else f"not exact: the batch also goes {layer.around}"
        )
    return f"the same as at {place(layer.same_as)}" if layer.same_as else "exact"


def _output(output: Any) -> str:
    shapes = [f"{a.dtype}{list(a.shape)}" for a in jax.tree.leaves(output) if hasattr(a, "dtype")]
    return ", ".join(shapes)

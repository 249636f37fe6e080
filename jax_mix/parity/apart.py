"""Where the two sides first go apart, in a sentence, and what may be the cause."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jax_mix._layers import listing
from jax_mix._paths import under
from jax_mix.parity import hints
from jax_mix.parity.differences import REORDERED, ROUNDED, difference, relative_error

if TYPE_CHECKING:
    from jax_mix.parity.comparing import Ladder
    from jax_mix.parity.records import Look


def told(ladder: Ladder) -> tuple[str, str]:
    """The name of the first layer that differs, "" if none does, and the sentences; "" if all is equal."""
    wrong = [row for row in ladder.rows if not row.ok]
    if not wrong:
        return "", ""
    first = [_left(ladder)] if any(row.rung == "arrays" for row in wrong) else []
    if weights := [row.what for row in wrong if row.rung == "weights"]:
        first.append(f"The model's own weights {listing(weights)} are not the original's.")
        first += [told for name in weights[:3] if (told := _where_from(ladder, name))]
    for training in (False, True):
        rung = f"layers in {'training' if training else 'evaluation'}"
        names = [row.what for row in wrong if row.rung == rung]
        if names:
            name = "" if names[0] == "the output" else names[0]
            return name, " ".join([*first, *_layer(ladder, name, training)])
    rest = [row for row in wrong if row.rung not in ("arrays", "weights")]
    if not rest:
        return "", " ".join([*first, "What was computed is equal all the same." if first else ""]).strip()
    row, module = rest[0], ""
    if row.rung == "gradients":
        order = list(ladder.looks[True][0].layers)  # gradients run backwards, and the last of these comes first
        within = {r: r.what.rpartition(".")[0] for r in rest if r.rung == "gradients"}
        row = max(within, key=lambda r: order.index(within[r]) if within[r] in order else -1)
        module = within[row]
        told = f"All outputs are equal, the gradients are not: nearest to the loss it is that of {row.what}"
    elif row.rung == "statistics after a step":
        module = row.what.rpartition(".")[0]
        told = f"Outputs, losses and gradients are equal; after a step {row.what} differs"
    elif row.rung == "mixed at each layer":
        module = row.what if row.what != "input" else ""
        told = f"Without mixing all is equal; mixed at {row.what} ({row.note}) it differs"
    else:
        told = f"Every layer is equal; {row.what} of a step of training differ"
    size = f"largest error {row.error:.1e}" if np.isfinite(row.error) else row.note
    return module, " ".join([*first, f"{told}: {size}.", *_hint(_settings(ladder, module))])


def _where_from(ladder: Ladder, name: str) -> str:
    """Of an array of the model's own that is not the original's: what it is instead."""
    own = ladder.own[name]
    for other, value in ladder.values.items():
        if value.shape == own.shape and other != name and relative_error(own, value) <= ROUNDED:
            return f"{name} is what {other} should be."
        for axes in itertools.permutations(range(own.ndim)) if other == name else ():
            turned = value.transpose(axes)
            if turned.shape == own.shape and relative_error(own, turned) <= ROUNDED:
                return f"{name} has its axes in another order: {axes} of those it should have."
    return ""


def _left(ladder: Ladder) -> str:
    arrays = ladder.arrays
    parts = []
    if arrays.left_over:
        parts.append(f"the original's {listing(arrays.left_over)} {_have(arrays.left_over)} no counterpart")
    if arrays.missing:
        parts.append(f"the Flax model's {listing(arrays.missing)} {_have(arrays.missing)} no counterpart")
    if arrays.wrong_shapes:
        parts.append("; ".join(f"{name} is of shape {told}" for name, told in list(arrays.wrong_shapes.items())[:3]))
    return f"Not in pairs: {'; '.join(parts)}."


def _layer(ladder: Ladder, name: str, training: bool) -> Iterator[str]:
    """The first layer whose outputs differ, in the order of running."""
    ours, theirs = ladder.looks[training]
    pairs = {other: there for there, other in ladder.map.modules.items()}
    each = ladder.found[training][name]
    mode = "in training, while in evaluation all is equal" if training else "in evaluation"
    size = f"largest error {each.error:.1e}" if np.isfinite(each.error) else each.note
    if each.note == REORDERED:
        size += f" ({REORDERED})"
    if not name:
        before = _last_equal(ladder, training, "")
        yield f"Every layer that was compared is equal, the output is not, {mode}: {size}."
        if before:
            yield f"So they go apart after {before}, the last of these."
        yield from _hint([_random(ladder, "", training)])
        return
    there = "" if pairs[name] == name else f" ({pairs[name]} in the original)"
    yield f"The first layer that differs is {name}{there}, {mode}: {size}."
    mine, others = ours.layers[name], theirs.layers[pairs[name]]
    before = _last_equal(ladder, training, name)
    inputs = list(zip(mine.inputs, others.inputs, strict=False))
    found = [difference(a, b) for a, b in inputs]
    possible: list[str] = []
    if found and max(d.error for d in found) > ladder.tolerance:
        worst = max(found, key=lambda d: d.error)
        what = f"What it is given differs already ({worst.note or f'largest error {worst.error:.1e}'})"
        where = f", what {before} puts out is equal" if before else ""
        yield f"{what}{where}: look at what is computed {f'between {before} and {name}' if before else 'before it'}."
        if worst.note == REORDERED and mine.inputs[0].ndim == 2:
            possible.append(
                "images are flattened with channels last here and with channels first in the original: transpose them "
                "back before, jnp.moveaxis(x, -1, 1)"
            )
        if before:
            last = ours.layers[before].outputs[0]
            possible.append(hints.activations(last, mine.inputs[0], _as_ours(others.inputs[0], found[0].axes)))
    else:
        inside = [n for n in ladder.found[training] if under(n, name)]
        given = "What it is given is equal" if found else "What it is given cannot be compared"
        if inside:
            yield f"{given}, and so is what the {len(inside)} layers in it put out: look at what it does with these."
        else:
            yield f"{given}: the difference is in this layer."
    possible += _settings(ladder, name)
    inner = [n for n in ladder.map.modules.values() if under(n, name) and n not in ladder.found[training]]
    possible += [f"in {n}: {hint}" for n in inner for hint in _settings(ladder, n)]
    possible += _missing(ladder, name)
    possible.append(_random(ladder, name, training))
    possible.append(_single(mine.outputs, each.error))
    yield from _hint(possible)


def _hint(possible: list[str]) -> list[str]:
    possible = [hint for hint in possible if hint]
    return [f"Hint: {'; '.join(possible)}."] if possible else []


def _last_equal(ladder: Ladder, training: bool, name: str) -> str:
    """The last layer before this one that is compared."""
    names = [n for n in ladder.found[training] if n]
    before = names[: names.index(name)] if name else names
    return before[-1] if before else ""


def _as_ours(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return array.transpose(axes) if axes else array


def _settings(ladder: Ladder, name: str) -> list[str]:
    there = next((t for t, other in ladder.map.modules.items() if other == name), None)
    here = getattr(ladder.port, "modules", {}).get(name)
    return list(hints.settings(here, ladder.theirs.modules[there])) if here is not None and there is not None else []


def _missing(ladder: Ladder, name: str) -> list[str]:
    """Arrays of the layer, or of what is in it, that the other side has not."""
    pairs = {other: there for there, other in ladder.map.modules.items()}
    there = pairs[name]
    theirs = [a for a in ladder.arrays.left_over if under(a, there)]
    ours = [a for a in [*ladder.arrays.missing, *ladder.arrays.wrong_shapes] if under(a, name)]
    return [f"{listing([*theirs, *ours])} {_have([*theirs, *ours])} no counterpart"] if theirs or ours else []


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _random(ladder: Ladder, name: str, training: bool) -> str:
    """Whether either side puts out other numbers the second time."""
    ours, theirs = ladder.looks[training]
    there = next(t for t, other in ladder.map.modules.items() if other == name)
    again = ladder.port.look(ladder.flax_args, training=training, twice=True)
    if _differ(_outputs(again, name), _outputs(ours, name)):
        return "it is another at each call: " + (
            "dropout in the code, whose rate cannot be set to 0" if training else "dropout is on in evaluation"
        )
    again = ladder.theirs.look(ladder.args, training=training, seed=1)
    if _differ(_outputs(again, there), _outputs(theirs, there)):
        return "the original's is another at each call: dropout in its code"
    return ""


def _outputs(look: Look, name: str) -> list[np.ndarray]:
    return look.layers[name].outputs if name else look.outputs


def _differ(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return any(a.shape == b.shape and relative_error(a, b) > 0 for a, b in zip(some, others, strict=False))


def _single(outputs: list[np.ndarray], error: float) -> str:
    if any(a.dtype.kind == "f" and a.dtype.itemsize < 8 for a in outputs):
        return f"this layer puts out {outputs[0].dtype}: something in it is told its dtype"
    if error < 3e-7:
        return (
            "an error of this size is float32's rounding: jax.nn.dot_product_attention takes its softmax in float32; "
            "tolerance=1e-6 lets it pass"
        )
    return ""

"""The pictures of a run: its learning curve, one mixed batch, and the confusion matrix."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import PIL.Image
from matplotlib.figure import Figure  # not pyplot, which would want a display

from jax_mix import Mix
from jax_mix.training.files import write_atomically

if TYPE_CHECKING:
    from jax.typing import ArrayLike

_NAMED, _COUNTED = 60, 30  # classes, at most, whose names and numbers a confusion matrix shows
PLAIN_TEXT: Any = {"text.parse_math": False}  # a name may have a $ in it, or two, and is no formula


@mpl.rc_context(PLAIN_TEXT)
def plot_learning_curve(path: Path, history: Sequence[dict[str, float]], *, title: str) -> None:
    """Write a PNG of a history: for each epoch a dict of "epoch", "loss", "nll" and "accuracy"."""
    epoch = [record["epoch"] for record in history]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epoch, [record["loss"] for record in history], "o-", markersize=3, label="training loss, mixed batches")
    left.plot(epoch, [record["nll"] for record in history], "o-", markersize=3, label="test NLL")
    left.set(xlabel="epoch", ylabel="nats", ylim=(0, None))
    left.legend()
    right.plot(epoch, [100 * record["accuracy"] for record in history], "o-", markersize=3, color="tab:green")
    right.set(xlabel="epoch", ylabel="test accuracy, %")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save(figure, path)


@mpl.rc_context(PLAIN_TEXT)
def plot_mixed_batch(
    path: Path,
    image: ArrayLike,
    label: ArrayLike,
    class_names: Sequence[str],
    mix: Mix | None,
    *,
    limit: int = 8,
    title: str = "one mixed batch",
) -> None:
    """Write a PNG of a batch's first images: each, its partner and their mix, with the draw beneath.

    A draw for a hidden layer is shown on the input, and the picture says so.

    Args:
      path: where to.
      image: uint8 `[batch, height, width, channels]`, 1 or 3 channels.
      label: int `[batch]`.
      class_names: of every class.
      mix: the batch's draw, not traced; None shows the images alone.
      limit: how many images.
      title: of the picture, if there is a mix.
    """
    pixels = np.asarray(image, np.float32)
    pixels = pixels / max(1, pixels.max())
    names = [class_names[k] for k in np.asarray(label)]
    shown = range(min(limit, len(names)))
    rows = [("image", pixels, names)]
    if mix is None:
        title = "one batch, not mixed"
    else:
        partner = np.asarray(mix.partner)
        lam = np.broadcast_to(np.asarray(mix.lam), partner.shape)
        where = [_where(mix, i) for i in shown]
        hidden = f"drawn for the hidden layer '{mix.layer_name}', shown on the input"
        title += f", {hidden}" if mix.layer_name != "input" else ""
        rows.append(("partner", pixels[partner], [f"{names[p]}, number {p}" for p in partner]))
        weights = [f"{lam[i]:.0%} {names[i]}\n{1 - lam[i]:.0%} {names[partner[i]]}" for i in shown]
        mixed = [f"λ = {lam[i]:.2f}, {where[i]}\n{weights[i]}" for i in shown]
        rows.append(("mixed", np.asarray(mix.blend(pixels)), mixed))

    figure = Figure(figsize=(1.8 * len(shown) + 0.8, 2.3 * len(rows) + 0.5), layout="constrained")
    figure.suptitle(title)
    for (row, images, texts), line in zip(rows, figure.subplots(len(rows), len(shown), squeeze=False), strict=True):
        line[0].set_ylabel(row)
        for i in shown:
            line[i].imshow(images[i], cmap="gray", vmin=0, vmax=1)
            line[i].set(xticks=[], yticks=[])
            line[i].set_xlabel(texts[i], fontsize=8)
            if row == "mixed" and mix is not None and _is_pasted(mix, i):
                y1, x1, y2, x2 = _box(mix, i) - 0.5  # whole numbers are the centres of pixels
                line[i].plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color="tab:red", linewidth=1.5)
    save(figure, path)


@mpl.rc_context(PLAIN_TEXT)
def plot_confusion(path: Path, confusion: ArrayLike, class_names: Sequence[str], *, title: str) -> None:
    """Write a PNG of a confusion matrix: a row for each class, in it the share of its images that each is taken for.

    Args:
      path: where to.
      confusion: how many images of a class (row) are taken for which (column), int `[classes, classes]`.
      class_names: of every class.
      title: of the picture.
    """
    counts = np.asarray(confusion)
    n = len(class_names)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(4.0, 0.45 * n + 2), 20.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, label="share of the class", shrink=0.8)
    named = range(n) if n <= _NAMED else []  # more names, or numbers, could not be read
    axes.set_xticks(named, [class_names[k] for k in named], rotation=90)
    axes.set_yticks(named, [class_names[k] for k in named])
    axes.set(xlabel="taken for", ylabel="is", title=title)
    for row, column in itertools.product(named, named) if n <= _COUNTED else []:
        if counts[row, column]:
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=8)
    save(figure, path)


def _where(mix: Mix, i: int) -> str:
    if not _is_pasted(mix, i):
        return f"at {mix.layer_name}"
    y1, x1, y2, x2 = _box(mix, i)
    return f"rows {y1}:{y2}, columns {x1}:{x2}"


def _is_pasted(mix: Mix, i: int) -> bool:
    """Whether an image has a box: of several methods, the others' rows have an empty one."""
    if mix.box is None:
        return False
    y1, x1, y2, x2 = _box(mix, i)
    return mix.outside is None or bool(y1 < y2 and x1 < x2)


def _box(mix: Mix, i: int) -> np.ndarray:
    box = np.asarray(mix.box)
    return box if box.ndim == 1 else box[i]


def save(figure: Figure, path: Path, *, dpi: int = 120) -> None:
    """Write a PNG of 256 colors, a third as large as one of all, whole or not at all."""
    with write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
        with PIL.Image.open(temporary) as image:
            few = image.convert("RGB").quantize(256, dither=PIL.Image.Dither.NONE)
        few.save(temporary, optimize=True)

"""The pictures of a run: its learning curve, one mixed batch, and the confusion matrix."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import PIL.Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # not pyplot, which would want a display

from jax_mix import Mix, plot
from jax_mix.plot import PLAIN_TEXT
from jax_mix.training import tasks
from jax_mix.training.files import write_atomically

if TYPE_CHECKING:
    from jax.typing import ArrayLike

_NAMED, _COUNTED = 60, 30  # classes, at most, whose names and numbers a confusion matrix shows


@mpl.rc_context(PLAIN_TEXT)
def plot_learning_curve(path: Path, history: Sequence[dict[str, float]], *, title: str) -> None:
    """Write a PNG of a history: for each epoch a dict of "epoch", "loss", and what was measured, "nll", "accuracy"."""
    task = tasks.of_record(history[0])
    epoch = [record["epoch"] for record in history]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epoch, [record["loss"] for record in history], "o-", markersize=3, label="training loss, mixed batches")
    left.plot(epoch, [record[task.loss] for record in history], "o-", markersize=3, label=f"test {task.loss.upper()}")
    left.set(xlabel="epoch", ylabel="nats", ylim=(0, None))
    left.legend()
    right.plot(epoch, [100 * record[task.best] for record in history], "o-", markersize=3, color="tab:green")
    right.set(xlabel="epoch", ylabel=f"test {task.best.replace('_', ' ')}, %")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save(figure, path)


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
      image: uint8 `[batch, height, width, channels]`, 1 or 3 channels; the brightest is white.
      label: int `[batch]`, or of several labels `[batch, classes]`.
      class_names: of every class.
      mix: the batch's draw, not traced; None shows the images alone.
      limit: how many images.
      title: of the picture, if there is a mix.
    """
    pixels = np.asarray(image, np.float32)
    pixels = pixels / max(1, pixels.max())
    if mix is None:
        title = "one batch, not mixed"
    elif mix.layer_name != "input":
        title += f", drawn for the hidden layer '{mix.layer_name}', shown on the input"
        mix = dataclasses.replace(mix, layer="input")
    save(plot.batch(pixels, mix, label, class_names, n=limit, title=title), path)


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


def save(figure: Figure, path: Path, *, dpi: int = 120) -> None:
    """Write a PNG of 256 colors, a third as large as one of all, whole or not at all."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once, where savefig draws twice, and writes and reads a PNG of all colors between
    image = PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    with write_atomically(path) as temporary:
        image.quantize(256, dither=PIL.Image.Dither.NONE).save(temporary, optimize=True)

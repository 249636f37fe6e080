"""Pictures of draws: one mixed batch, and how the draws of a run were distributed. matplotlib is imported when called.

Both functions return a matplotlib `Figure` that belongs to no window and to no `pyplot`: `figure.savefig("batch.png")`
writes it, and a notebook shows it (after `%matplotlib inline`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jax_mix._mix import INPUT, Mix
from jax_mix._plot_batch import outline, pixels_of, share, texts_of
from jax_mix._plot_draws import covered, draw_covered, draw_lam, draw_layers, flat

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from matplotlib.figure import Figure

__all__ = ["batch", "draws"]

PLAIN_TEXT: Any = {"text.parse_math": False}  # a name may have a $ in it, or two, and is no formula


def batch(
    images: ArrayLike,
    mix: Mix | None,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    *,
    n: int = 8,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a batch's first images in columns: each, its partner, and what becomes of both, with lambda and the target.

    A draw for a hidden layer leaves the images as they are, and so does the picture: it says where they are mixed.

    Args:
      images: `[batch, height, width]` or `[batch, height, width, channels]` of 1 or 3 channels, not mixed yet; with
        boxes, height and width are the draw's `spatial_axes`. uint8 is shown from 0 to 255, bools as black and white,
        floats from 0 to 1. Other numbers, as those of normalised images, are scaled from the lowest to the highest of
        the images drawn, and the picture says so.
      mix: the batch's draw, as a method's `sample` made it; or None for a batch that is not mixed.
      labels: class numbers `[batch]`, one-hot or soft targets `[batch, classes]`, names `[batch]`, or float targets
        `[batch]`; or None.
      class_names: of every class, to be shown for its number.
      n: how many images, at most.
      mean, std: what the images were normalised by, one number or one for each channel: `images * std + mean` is shown.
      title: of the picture, or None for one that tells where the batch is mixed.

    Returns:
      A `matplotlib.figure.Figure`.

    Raises:
      ModuleNotFoundError: there is no matplotlib.
      TypeError: `images` are no arrays, or `mix` is no `Mix`.
      ValueError: `images` are no pictures, or have pixels that are infinite or nan; `mix` is not this batch's, is
        traced, or of more than one batch; `labels` or `class_names` do not fit; `mean` stands without `std`.

    Source: the notation is that of `Mix`.

    >>> import jax, jax_mix
    >>> images = jax.random.uniform(jax.random.key(0), (16, 8, 8, 3))
    >>> mix = jax_mix.CutMix(1.0, per="sample").sample(jax.random.key(1), images.shape)
    >>> figure = jax_mix.plot.batch(images, mix, [0, 1] * 8, ("cat", "dog"), n=4)
    >>> [axes.get_ylabel() for axes in figure.axes[::4]]
    ['sample', 'partner', 'mixed']
    """
    matplotlib = _matplotlib()
    pixels, scaled = pixels_of(images, mix, n, mean, std)
    count = min(n, len(pixels))
    own, targets = texts_of(labels, class_names, mix, len(pixels))
    rows = [("sample", pixels, own)]
    drawn = None if mix is None else flat(mix)
    if title is None:
        title = "one batch, mixed at the input"
        if drawn is None or drawn.unmixed:
            title = "one batch, not mixed"
        elif mix is not None and mix.layer_name != INPUT:
            title = f"one batch, mixed at layer {mix.layer_name!r}:\nthe images go in as they are"
    if mix is not None:
        partner = np.asarray(mix.partner)
        lam = np.broadcast_to(np.asarray(mix.lam), partner.shape)
        told = [f"λ = {share(lam[i])}" + (f"\n{targets[i]}" if targets[i] else "") for i in range(count)]
        whose = [f"sample {p}" + (f"\n{own[p]}" if own[p] else "") for p in partner[:count]]
        if mix.layer_name == INPUT:
            mixed = np.asarray(_mixed(dataclasses.replace(mix, spatial_axes=(1, 2)), pixels))
            rows += [("partner", pixels[partner], whose), ("mixed", mixed, told)]
        else:
            both = [f"{who}\n{what}" for who, what in zip(whose, told, strict=True)]
            rows += [("partner", pixels[partner], both)]
    title += f"\n{scaled}" if scaled else ""
    with matplotlib.rc_context(PLAIN_TEXT):
        figure = matplotlib.figure.Figure(
            figsize=(max(1.75 * count + 0.5, 3.6), 2.25 * len(rows) + 0.5), layout="constrained"
        )
        figure.suptitle(title)
        lines = figure.subplots(len(rows), count, squeeze=False)
        for (row, shows, texts), line in zip(rows, lines, strict=True):
            line[0].set_ylabel(row)
            for i, axes in enumerate(line):
                axes.imshow(shows[i], cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.set_xlabel(texts[i], fontsize=8)
                if row != "sample" and mix is not None and drawn is not None and drawn.cut[i]:
                    outline(axes, mix, i, dashed=row == "partner")
    return figure


@jax.jit  # one program, where by itself each of its operations would be one
def _mixed(mix: Mix, pixels: Any) -> Any:
    return mix._blend_at(INPUT, pixels)


def draws(mixes: Mix | Iterable[Mix], *, title: str | None = None) -> Figure:
    """Draw how a run's draws were distributed: lambda, the pixels that boxes cover, and the layers.

    Args:
      mixes: the draws that were logged: several in a list; or one that is stacked, its arrays with more axes in front,
        as `jax.lax.scan` and `jax.vmap` return it; or a list of stacked ones. Batches may differ in size and method.
      title: of the picture, or None for one that counts the draws.

    Returns:
      A `matplotlib.figure.Figure`: a histogram of the targets' lambda of the samples that are mixed; if there are
      boxes, of how many samples each pixel is covered (of volumes, the mean over their depth); if there are layers,
      how often each was drawn, and how often a draw mixed no sample at all.

    Raises:
      ModuleNotFoundError: there is no matplotlib.
      TypeError: `mixes` are no draws.
      ValueError: there are none, they are traced, or their boxes are not of images of one size.

    Source: the notation is that of `Mix`.

    >>> import jax, jax_mix
    >>> method = jax_mix.OneOf(jax_mix.MixUp(0.8), jax_mix.CutMix(1.0))
    >>> mixes = jax.vmap(lambda key: method.sample(key, (8, 32, 32, 3)))(jax.random.split(jax.random.key(0), 50))
    >>> len(jax_mix.plot.draws(mixes).axes)  # lambda, the boxes and their scale
    3
    """
    matplotlib = _matplotlib()
    several = [mixes] if isinstance(mixes, Mix) else list(mixes) if isinstance(mixes, Iterable) else [mixes]
    if not several:
        raise ValueError("mixes must be one draw or more, got none.")
    drawn = [flat(mix) for mix in several]
    lam, cut, blended = (np.concatenate([getattr(each, name) for each in drawn]) for name in ("lam", "cut", "blended"))
    layers: Counter[str] = Counter()
    for each in drawn:
        layers.update(each.layers)  # a sum would leave out those never drawn
    unmixed = sum(each.unmixed for each in drawn)
    count = layers.total() + unmixed
    inside = covered(drawn)
    panels: list[Callable[[Any], None]] = [lambda axes: draw_lam(axes, lam, cut, blended)]
    if inside is not None:
        panels.append(lambda axes: draw_covered(axes, inside))
    if set(layers) != {INPUT}:
        panels.append(lambda axes: draw_layers(axes, layers, unmixed))
    with matplotlib.rc_context(PLAIN_TEXT):
        size = (4.2 * len(panels), max(3.6, 0.2 * len(layers) + 1.2))
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
        figure.suptitle(f"{count:,} draws, {len(lam):,} samples" if title is None else title)
        for draw, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
            draw(axes)
    return figure


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure  # not pyplot, which would want a display and keep what it draws
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"jax_mix.plot needs matplotlib, and there is no {error.name}: pip install matplotlib.", name=error.name
        ) from None
    return matplotlib

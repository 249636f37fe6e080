"""Many draws, sample by sample: how their lambda, boxes and layers are distributed, and the panels that show it."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from jax_mix._checks import shown
from jax_mix._draw_checks import check_draw
from jax_mix._mix import Mix
from jax_mix._plot_batch import CUT, check_concrete


class Drawn(NamedTuple):
    """One batch's draw, or several of them, row by row."""

    lam: np.ndarray
    cut: np.ndarray  # whether a box with pixels in it cuts where the batch is mixed
    blended: np.ndarray
    boxes: np.ndarray | None
    image_size: tuple[int, ...] | None
    layers: Counter[str]  # how often each was drawn, also never
    unmixed: int  # how many draws mix no row, and so are for no layer


def flat(mix: Any) -> Drawn:
    if not isinstance(mix, Mix):
        raise TypeError(f"mixes must be a jax_mix.Mix or a list of them, got {type(mix).__name__}: {shown(mix)}.")
    check_concrete(mix)
    rows = np.shape(mix.partner)
    if len(rows) == 1:
        check_draw(mix)
    layer = np.asarray(0 if isinstance(mix.layer, str) else mix.layer)
    lead, corners = rows[:-1], 2 * len(mix.spatial_axes)
    stacked = {"lam": (lead, rows, ()), "outside": (lead, rows, ()), "box": ((*lead, corners), (*rows, corners))}
    for name, shapes in stacked.items():
        value = getattr(mix, name)
        if not rows or (value is not None and np.shape(value) not in shapes):
            raise ValueError(f"{name} must be one for each of partner, {list(rows)}, got shape {np.shape(value)}.")
    if layer.shape not in ((), lead):
        raise ValueError(f"layer must be one for each draw, {list(lead)}, got shape {layer.shape}.")

    def each(value: Any) -> np.ndarray:
        value = np.asarray(value, np.float64)
        return np.broadcast_to(value[..., None] if value.shape == lead else value, rows).ravel()

    lam = each(mix.lam)
    names = (mix.layer,) if isinstance(mix.layer, str) else mix.layers
    drawn = [names[k] for k in np.broadcast_to(layer, lead).flat]
    boxes = None
    cut: Any = np.zeros(len(lam), bool)
    blended = lam < 1
    if mix.box is not None:
        box = np.asarray(mix.box)
        boxes = np.broadcast_to(box if box.ndim > len(rows) else box[..., None, :], (*rows, corners))
        boxes = boxes.reshape(-1, corners)
        cuts = np.repeat(np.array([mix.box_layers is None or name in mix.box_layers for name in drawn], bool), rows[-1])
        cut = cuts & (boxes[:, : corners // 2] < boxes[:, corners // 2 :]).all(axis=1)
        blended = np.zeros(len(lam), bool)
        blended[~cuts] = lam[~cuts] < 1
        boxes = boxes if cuts.any() else None
    if mix.outside is not None:
        blended = each(mix.outside) < 1
    kept = (lam == 1) & (np.asarray(mix.partner) == np.arange(rows[-1])).ravel()  # as rows that `where` leaves out
    cut, blended = cut & ~kept, blended & ~kept
    mixed = (cut | blended | (lam < 1)).reshape(rows).any(axis=-1).ravel()
    layers = Counter(dict.fromkeys(names, 0))
    layers.update(name for name, some in zip(drawn, mixed, strict=True) if some)
    return Drawn(lam, cut, blended, boxes, mix.image_size and tuple(mix.image_size), layers, int((~mixed).sum()))


def covered(drawn: list[Drawn]) -> np.ndarray | None:
    """Of how many of all rows each pixel is inside of the box; None where there are no boxes."""
    boxed = [each for each in drawn if each.boxes is not None]
    if not boxed:
        return None
    sizes = list(dict.fromkeys(each.image_size for each in boxed))
    size = sizes[0]
    if size is None or len(sizes) > 1:
        raise ValueError(
            "boxes must be of images of one known size, which Mix.from_box notes as image_size, got "
            f"{' and '.join(map(str, sizes))}."
        )
    boxes = np.concatenate([each.boxes for each in boxed if each.boxes is not None])
    cut = np.concatenate([each.cut for each in boxed])
    starts, ends = np.split(boxes, 2, axis=1)
    if np.any((starts < 0) | (starts > ends) | (ends > size)):
        raise ValueError(f"boxes must be inside of the images of {size} pixels, got others.")
    steps = np.zeros([length + 1 for length in size])  # 1 where a box begins and -1 where it ends, along each axis
    for corner in itertools.product((0, 1), repeat=len(size)):
        at = np.where(corner, ends, starts)
        np.add.at(steps, tuple(at[cut].T), (-1) ** sum(corner))
    for axis in range(len(size)):
        steps = steps.cumsum(axis)
    inside = steps[tuple(slice(length) for length in size)]
    return inside / sum(len(each.lam) for each in drawn)


def draw_lam(axes: Any, lam: np.ndarray, cut: np.ndarray, blended: np.ndarray) -> None:
    kinds = {
        "with a box": (cut & ~blended, CUT),
        "blended": (blended & ~cut, "tab:blue"),
        "blended, with a box": (blended & cut, "tab:purple"),
        "in the target alone": ((lam < 1) & ~(blended | cut), "tab:gray"),
    }
    rest = ~np.any([rows for rows, _ in kinds.values()], axis=0)
    kinds = {name: kind for name, kind in kinds.items() if kind[0].any()} or {"mixed": (~rest, CUT)}
    axes.hist(
        [lam[rows] for rows, _ in kinds.values()],
        bins=np.linspace(0, 1, 41),
        weights=[np.full(rows.sum(), 100 / len(lam)) for rows, _ in kinds.values()],
        color=[color for _, color in kinds.values()],
        label=[f"{name}: {_percent(rows)}" for name, (rows, _) in kinds.items()],
        stacked=True,
    )
    if rest.any():
        axes.plot([], [], " ", label=f"not mixed, left out: {_percent(rest)}")
    axes.axvline(lam.mean(), color="black", linestyle=":", label=f"mean of all: {lam.mean():.2f}")
    axes.set(xlabel="λ, the weight of the own target", ylabel="% of samples", xlim=(0, 1))
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # the legend stands above the bars
    axes.legend(fontsize=8, loc="upper left")


def _percent(rows: np.ndarray) -> str:
    share = rows.mean()
    return "<1%" if 0 < share < 0.005 else ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def draw_covered(axes: Any, covered: np.ndarray) -> None:
    percent = 100 * (covered.mean(axis=0) if covered.ndim == 3 else covered)
    axes.set_title("inside the box" + (", mean over the depth" if covered.ndim == 3 else ""), fontsize=10)
    if percent.ndim == 1:
        axes.stairs(percent, color=CUT, fill=True)
        axes.set(xlabel="position", ylabel="% of samples", ylim=(0, None))
        return
    shade = axes.imshow(percent, cmap="viridis", vmin=0)
    axes.set(xlabel="column", ylabel="row")
    axes.figure.colorbar(shade, label="% of samples", shrink=0.8)


def draw_layers(axes: Any, layers: Counter[str], unmixed: int) -> None:
    counts = [*layers.items(), *([("not mixed", unmixed)] if unmixed else [])]
    total = layers.total() + unmixed
    colors = ["tab:green"] * len(layers) + ["tab:gray"]
    axes.barh([name for name, _ in counts], [100 * k / total for _, k in counts], color=colors[: len(counts)])
    axes.invert_yaxis()
    axes.set_title("where", fontsize=10)
    axes.set(xlabel="% of draws")

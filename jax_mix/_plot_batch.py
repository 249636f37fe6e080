"""What is seen of a mixed batch: its pixels, the words beside them, the box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mix._checks import check_arrays, check_no_torch, is_concrete, shown
from jax_mix._draw_checks import check_box, check_draw
from jax_mix._mix import Mix, check_mix

CUT = "tab:red"
_TERMS, _LINE = 3, 22  # classes of one target, and letters on a line, that can be read


def pixels_of(images: Any, mix: Mix | None, n: int, mean: Any, std: Any) -> tuple[np.ndarray, str]:
    """The images as floats from 0 to 1, `[batch, height, width]` or with 3 channels, and how they were scaled."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n must be a whole number of 1 or more, got {shown(n)}.")
    check_arrays(images, "images")
    if not is_concrete(images):
        raise ValueError("images must be known to be drawn: call plot.batch outside of jit.")
    pixels = np.asarray(images)
    axes: tuple[int, ...] = (1, 2)
    if mix is not None:
        _check_one_draw(mix)
        if mix.box is not None:
            axes = mix.spatial_axes
    if pixels.ndim not in (3, 4) or len(axes) != 2 or max(axes) >= pixels.ndim or 0 in pixels.shape:
        boxes = "" if len(axes) == 2 else f", and boxes of {len(axes)} spatial axes"
        raise ValueError(
            "images must be pictures to be drawn, [batch, height, width] or [batch, height, width, channels], got "
            f"shape {pixels.shape}{boxes}."
        )
    pixels = np.moveaxis(pixels, axes, (1, 2))
    if pixels.ndim == 4 and pixels.shape[3] not in (1, 3):
        first = pixels.shape[1] in (1, 3) and (mix is None or mix.box is None)
        hint = ": images.transpose(0, 2, 3, 1) makes their channels the last axis" if first else ""
        raise ValueError(f"images must have 1 or 3 channels, got shape {np.shape(images)}{hint}.")
    if mix is not None:
        if len(pixels) != np.shape(mix.partner)[0]:
            raise ValueError(f"images must be the draw's batch of {np.shape(mix.partner)[0]}, got {len(pixels)}.")
        if mix.box is not None:
            check_box(mix, pixels.shape[1:3])
    dtype, pixels = pixels.dtype, pixels.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError("images must be finite to be drawn, got pixels that are infinite or nan.")
    pixels = _as_it_was(pixels, mean, std)
    pixels = pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels
    if dtype == np.uint8 and mean is None:
        return pixels / 255, ""
    partners = [] if mix is None else list(np.asarray(mix.partner)[:n])
    seen = pixels[[*range(min(n, len(pixels))), *partners]]
    low, high = float(seen.min()), float(seen.max())
    if low >= -0.01 and high <= 1.01:  # rounded, as by bfloat16
        return np.clip(pixels, 0, 1), ""
    return np.clip((pixels - low) / ((high - low) or 1), 0, 1), f"scaled: {low:.3g} is black, {high:.3g} white"


def _as_it_was(pixels: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    if mean is None and std is None:
        return pixels
    if mean is None or std is None:
        raise ValueError(f"mean and std belong together, got mean={shown(mean)}, std={shown(std)}.")
    channels = pixels.shape[3] if pixels.ndim == 4 else 1
    for name, value in (("mean", mean), ("std", std)):
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "iuf" or numbers.shape not in ((), (1,), (channels,)):
            raise ValueError(f"{name} must be one number, or one for each of {channels} channels, got {shown(value)}.")
    return pixels * np.asarray(std, np.float32) + np.asarray(mean, np.float32)


def _check_one_draw(mix: Mix) -> None:
    check_mix(mix)
    check_concrete(mix)
    if np.ndim(mix.partner) > 1:
        raise ValueError(
            f"mix must be one batch's draw, got {np.shape(mix.partner)[0]} stacked ones: "
            "jax.tree.map(lambda a: a[0], mix) is the first."
        )
    check_draw(mix)


def check_concrete(mix: Mix) -> None:
    if not all(map(is_concrete, jax.tree.leaves(mix))):
        raise ValueError("a draw must be known to be drawn: return the Mix from jit and plot it outside.")


def texts_of(labels: Any, class_names: Sequence[str] | None, mix: Mix | None, n: int) -> tuple[list[str], list[str]]:
    """What each image is, and what its target becomes, in words; empty where nothing is known."""
    if labels is None:
        if class_names is not None:
            raise ValueError("class_names must come with labels, got none.")
        return [""] * n, [""] * n
    check_no_torch(labels, "labels")
    if not all(map(is_concrete, jax.tree.leaves(labels))):
        raise ValueError("labels must be known to be drawn: call plot.batch outside of jit.")
    values = np.asarray(labels)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    words = values.dtype.kind in "UO" and all(isinstance(value, str) for value in values.flat)
    floats = jnp.issubdtype(values.dtype, jnp.floating)  # of bfloat16 too, which is no kind of NumPy's
    numbers = floats or values.dtype.kind in "iub"
    if values.shape[:1] != (n,) or values.ndim > 2 or not (numbers or (words and values.ndim == 1)):
        raise ValueError(
            f"labels must be class numbers or names [{n}], or one-hot or soft [{n}, classes], got "
            f"{values.dtype}{list(values.shape)}."
        )
    lam, partner = np.ones(n), np.arange(n)
    if mix is not None:
        lam, partner = np.broadcast_to(np.asarray(mix.lam, np.float64), n), np.asarray(mix.partner)
    if values.ndim == 1 and floats:
        if class_names is not None:
            raise ValueError(f"class_names must come with class numbers or one-hot labels, got {values.dtype} [{n}].")
        values = values.astype(np.float64)
        return [f"{v:.3g}" for v in values], [f"{v:.3g}" for v in lam * values + (1 - lam) * values[partner]]
    if values.ndim == 1:
        names = [str(value) for value in values] if words else _names(values.astype(np.int64), class_names)
        return [*map(_short, names)], [_sum([(names[i], lam[i]), (names[partner[i]], 1 - lam[i])]) for i in range(n)]
    values = values.astype(np.float64)
    names = _names(np.arange(values.shape[1]), class_names)
    mixed = lam[:, None] * values + (1 - lam[:, None]) * values[partner]
    own, targets = ([_sum(zip(names, row, strict=True)) for row in rows] for rows in (values, mixed))
    return own, targets


def _names(numbers: np.ndarray, class_names: Sequence[str] | None) -> list[str]:
    if class_names is None:
        return [f"class {number}" for number in numbers]
    names = list(class_names)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(names):
        raise ValueError(
            f"class_names must name every class of labels, {numbers.min()} to {numbers.max()}, got {len(names)} names."
        )
    return [str(names[number]) for number in numbers]


def _sum(parts: Iterable[tuple[str, float]]) -> str:
    """0.70 cat + 0.30 dog: the greatest first where there are many, and the rest together."""
    weights: dict[str, float] = {}
    for name, weight in parts:  # a name may come twice: of both samples, or of two classes
        weights[name] = weights.get(name, 0.0) + float(weight)
    weights = {name: weight for name, weight in weights.items() if weight > 0}
    if [round(weight, 6) for weight in weights.values()] == [1]:
        return _short(*weights)
    rest = 0.0
    if len(weights) > _TERMS:
        order = sorted(weights, key=lambda name: -weights[name])
        rest = sum(weights.pop(name) for name in order[_TERMS:])
        weights = {name: weights[name] for name in order[:_TERMS]}
    names = {n: f'"{_short(n)}"' if n[:1].isdigit() or n == "others" else _short(n) for n in weights}  # 0.7 "3"
    terms = [f"{share(weight)} {names[name]}" for name, weight in weights.items()]
    terms += [f"{share(rest)} others"] if rest else []
    text = " + ".join(terms)
    return text if len(text) <= _LINE else "\n+ ".join(terms)


def _short(name: str) -> str:
    return name if len(name) <= _LINE else name[: _LINE - 1] + "…"


def share(weight: float) -> str:
    """Two digits, which are 0 and 1 for these alone."""
    if 0 < weight < 0.005:
        return "<0.01"
    return ">0.99" if 0.995 <= weight < 1 else f"{weight:.2f}"


def outline(axes: Any, mix: Mix, i: int, *, dashed: bool) -> None:
    box = np.asarray(mix.box)
    y1, x1, y2, x2 = box if box.ndim == 1 else box[i]
    y1, x1, y2, x2 = y1 - 0.5, x1 - 0.5, y2 - 0.5, x2 - 0.5  # whole numbers are the centres of pixels
    style = "--" if dashed else "-"
    axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], style, color=CUT, linewidth=1.5, clip_on=False)

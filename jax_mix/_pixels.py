"""What a box covers of an array, and which arrays have pixels that it can cover."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mix._checks import ints, shown

if TYPE_CHECKING:
    from jax import Array

    from jax_mix._mix import Mix


def inside(start: Array, stop: Array, length: int) -> Array:
    """Whether each of `length` pixels is from `start` to `stop`, `[batch, length]`."""
    pixel = jnp.arange(length, dtype=jnp.int32)[None, :]
    return (pixel >= start[:, None]) & (pixel < stop[:, None])


def covered(start: Array, stop: Array, length: int, pixels: int) -> Array:
    """The part of each of `length` cells, of an axis of `pixels`, that is covered from `start` to `stop`."""
    edge = jnp.arange(length + 1, dtype=jnp.float32)[None, :] * (pixels / length)
    start, stop = (at.astype(jnp.float32)[:, None] for at in (start, stop))
    part = jnp.minimum(stop, edge[:, 1:]) - jnp.maximum(start, edge[:, :-1])
    return jnp.clip(part * (length / pixels), 0, 1)


def of_axes(each: Iterable[Array], axes: tuple[int, ...], rank: int, combine: Any) -> Array:
    """What is known of each of `axes`, `[batch, length]`, combined in an array of this rank."""
    apart = [
        jnp.expand_dims(one, [other for other in range(1, rank) if other != axis])
        for one, axis in zip(each, axes, strict=True)
    ]
    return functools.reduce(combine, apart)


def dense_axes(mix: Mix, y: Any, dense: bool | Sequence[int] | None, what: str) -> list[tuple[int, ...] | None]:
    """For each array of `y`, called `what`, the axes that the box cuts, or None where `lam` weighs it as a whole."""
    leaves = jax.tree.leaves(y)
    if dense is not None and not isinstance(dense, (bool, np.bool_)):
        dense = ints("dense", dense, len(mix.spatial_axes), "the axes that are the images', or True, or False")
    if mix.box is None or dense is False:
        return [None] * len(leaves)
    found = [_spatial(mix, np.shape(leaf)) for leaf in leaves]
    size = f"of the images' {mix.image_size} pixels" if mix.image_size else "of the images"
    if dense is None:
        for leaf, places in zip(leaves, found, strict=True):
            if places:
                raise ValueError(
                    f"{what} of shape {np.shape(leaf)} has the spatial axes {size}, {places[0]}: give dense=True to "
                    "mix it pixel by pixel, as the images are, or dense=False to weigh all of it by lam."
                )
        return [None] * len(leaves)
    if not isinstance(dense, (bool, np.bool_)):
        found = [[dense] if dense in places or mix.image_size is None else [] for places in found]
    shapes = [np.shape(leaf) for leaf in leaves]
    if not any(found):
        raise ValueError(f"dense is {shown(dense)}, but {what} has not the spatial axes {size}: got shapes {shapes}.")
    for places, shape in zip(found, shapes, strict=True):
        if len(places) > 1 and mix.spatial_axes not in places:
            raise ValueError(f"dense must name the spatial axes of {what} of shape {shape}, one of {places}, got True.")
    return [None if not places else mix.spatial_axes if mix.spatial_axes in places else places[0] for places in found]


def _spatial(mix: Mix, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Where this shape has the images' spatial axes: at their place, or side by side elsewhere."""
    axes, size = mix.spatial_axes, mix.image_size
    if size is None:
        return [axes] if len(shape) > max(axes) else []
    order = sorted(range(len(axes)), key=lambda k: axes[k])  # an image may have its columns before its rows
    places = [axes] if all(a < len(shape) and shape[a] == s for a, s in zip(axes, size, strict=True)) else []
    for first in range(1, len(shape) - len(axes) + 1):
        place = tuple(first + order.index(k) for k in range(len(axes)))
        if place not in places and all(shape[a] == s for a, s in zip(place, size, strict=True)):
            places.append(place)
    return places

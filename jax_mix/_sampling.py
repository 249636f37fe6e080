"""Every random number of jax_mix: lambda, partners, boxes, layers and methods. Pure functions of a key."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Int, Key

Partner = Literal["permutation", "derangement", "roll", "flip"]
Box = Literal["fastai", "paper", "timm", "uniform", "inside", "keras"]
PARTNERS: tuple[str, ...] = get_args(Partner)
BOXES: tuple[str, ...] = get_args(Box)


def symmetric_beta(key: Key[Array, ""], alpha: ArrayLike, shape: tuple[int, ...]) -> Float[Array, ...]:
    """Beta(alpha, alpha), float32, without a rejection loop.

    Devroye 1996, "Random variate generation in one line of code": for U, V uniform and S a fair sign,
    1/2 (1 + S / sqrt(1 + 1/t)) with t = (U^(-1/alpha) - 1) cos^2(2 pi V). Written here for the smaller of
    B and 1-B, 1/2 / (1 + t + sqrt(t) sqrt(1+t)), which loses no digits near 0 and is never 0/0.
    """
    key_u, key_v, key_s = jax.random.split(key, 3)
    alpha = jnp.asarray(alpha, jnp.float32)
    u = jax.random.uniform(key_u, shape, jnp.float32, minval=jnp.finfo(jnp.float32).tiny)
    angle = jnp.float32(2 * jnp.pi) * jax.random.uniform(key_v, shape, jnp.float32)
    t = jnp.expm1(-jnp.log(u) / alpha) * jnp.square(jnp.cos(angle))
    smaller = 0.5 / (1 + t + jnp.sqrt(t) * jnp.sqrt(1 + t))
    return jnp.where(jax.random.bernoulli(key_s, jnp.float32(0.5), shape), 1 - smaller, smaller)


def lambdas(
    key: Key[Array, ""],
    alpha: Any,
    shape: tuple[int, ...],
    *,
    fold: bool,
    probability: ArrayLike,
    lam: Any = None,
) -> Float[Array, ...]:
    """The samples' own weights: Beta(alpha, alpha), folded to max(lam, 1-lam) if asked; 1 where not applied.

    A pair `alpha` is a range that alpha is drawn from, once. `lam`, one number or a range, stands in Beta's place.
    """
    key_lam, key_apply = jax.random.split(key)
    if lam is None:
        if isinstance(alpha, tuple):
            key_alpha, key_lam = jax.random.split(key_lam)
            alpha = alpha[1] - (alpha[1] - alpha[0]) * jax.random.uniform(key_alpha, (), jnp.float32)  # never the lower
        lam = symmetric_beta(key_lam, alpha, shape)
    elif isinstance(lam, tuple):
        lam = jax.random.uniform(key_lam, shape, jnp.float32, *lam)
    else:
        lam = jnp.full(shape, lam, jnp.float32)
    if fold:
        lam = jnp.maximum(lam, 1 - lam)
    if is_one(probability):
        return lam
    return jnp.where(applies(key_apply, probability, shape), lam, 1.0)


def is_one(probability: Any) -> bool:
    return isinstance(probability, (int, float)) and probability == 1


def applies(key: Key[Array, ""], probability: ArrayLike, shape: tuple[int, ...]) -> Array:
    return jax.random.bernoulli(key, jnp.asarray(probability, jnp.float32), shape)


def choices(key: Key[Array, ""], count: int, shape: tuple[int, ...], probabilities: Any = None) -> Int[Array, ...]:
    """Which of `count` methods or layers: each as likely as any other, or with `probabilities`."""
    if probabilities is None:
        return jax.random.randint(key, shape, 0, count, jnp.int32)
    # A schedule may end a rounding below 0, whose logarithm is nan, which every draw would take for the largest.
    logs = jnp.log(jnp.maximum(jnp.asarray(probabilities, jnp.float32), 0))
    return jax.random.categorical(key, logs, shape=shape).astype(jnp.int32)


def partners(
    key: Key[Array, ""], n: int, how: str, groups: int = 1, within: Int[Array, " n"] | None = None
) -> Int[Array, " n"]:
    """Who is mixed with whom: sample i with `partners[i]`, of the same one of `groups` equal parts of the batch.

    And of the same number in `within`, if given.
    """
    if groups > 1:
        size = n // groups
        within = None if within is None else within.reshape(groups, size)
        found = jax.vmap(lambda key, within: partners(key, size, how, within=within))
        return (
            found(jax.random.split(key, groups), within) + size * jnp.arange(groups, dtype=jnp.int32)[:, None]
        ).reshape(n)
    index = jnp.arange(n, dtype=jnp.int32)
    if within is not None:
        return _partners_within(key, index, how, within)
    if how == "permutation":
        return jax.random.permutation(key, index)
    if how == "derangement":
        circle = jax.random.permutation(key, index)  # everyone's partner is the one before
        return index.at[circle].set(jnp.roll(circle, 1))
    return jnp.roll(index, 1) if how == "roll" else index[::-1]


def _partners_within(key: Key[Array, ""], index: Int[Array, " n"], how: str, within: Int[Array, " n"]) -> Array:
    """The same among those of one number, which stand side by side once they are sorted by it."""
    in_order = index[jnp.argsort(within, stable=True)]
    shuffled = jax.random.permutation(key, index) if how in ("permutation", "derangement") else index
    shuffled = shuffled[jnp.argsort(within[shuffled], stable=True)]
    number = within[in_order]
    first = jnp.searchsorted(number, number, side="left").astype(jnp.int32)
    last = jnp.searchsorted(number, number, side="right").astype(jnp.int32) - 1
    if how == "permutation":
        return index.at[in_order].set(shuffled)
    if how == "flip":
        return index.at[in_order].set(in_order[first + last - index])
    return index.at[shuffled].set(shuffled[jnp.where(index == first, last, index - 1)])


def boxes(
    key: Key[Array, ""], lam: Float[Array, ...], size: Sequence[int], how: str, sides: Sequence[Array] | None = None
) -> Int[Array, "... 2d"]:
    """Boxes, all starts and then all ends (y1, x1, y2, x2), that cover about 1-lam of an image of `size`.

    Or with the given `sides`, a float array of lam's shape for each axis.

    "fastai", "paper", "timm": the centre is a uniform pixel, and what is outside of the image is clipped. The side is
    `round`ed half to even (fastai) or cut to an int (the CutMix authors, torchvision, timm). Each half is half the
    whole side, rounded down, so a box side is even; timm's second half is rounded up. "uniform" is the paper's box
    around a centre that may be outside, so that every pixel is covered as often (Composer). "inside" and "keras" are
    whole inside of the image: of a side cut to an int, or of a start and an end that are cut after they are drawn.
    """
    keys = jax.random.split(key, len(size))
    if sides is None:
        ratio = jnp.sqrt(1 - lam) if len(size) == 2 else (1 - lam) ** (1 / len(size))
        sides = [length * ratio for length in size]
    intervals = [_interval(*given, lam.shape, how) for given in zip(keys, sides, size, strict=True)]
    return jnp.stack([*(start for start, _ in intervals), *(end for _, end in intervals)], axis=-1)


def _interval(key: Key[Array, ""], side: Array, length: int, shape: tuple[int, ...], how: str) -> tuple[Array, Array]:
    if how == "keras":
        start = jax.random.uniform(key, shape, jnp.float32) * (length - side)
        return jnp.ceil(start).astype(jnp.int32), jnp.minimum(jnp.ceil(start + side).astype(jnp.int32), length)
    whole = (jnp.round if how == "fastai" else jnp.floor)(side).astype(jnp.int32)
    if how == "inside":
        start = jax.random.randint(key, shape, 0, length - whole + 1, jnp.int32)
        return start, start + whole
    half = whole // 2
    if how == "uniform":
        centre = jax.random.randint(key, shape, half - whole, length + half, jnp.int32)
    else:
        centre = jax.random.randint(key, shape, 0, length, jnp.int32)
    end = (whole + 1) // 2 if how == "timm" else half
    return jnp.clip(centre - half, 0, length), jnp.clip(centre + end, 0, length)


def whole_sides(
    key: Key[Array, ""], side: float | tuple[float, float], size: Sequence[int], shape: tuple[int, ...]
) -> list[Array]:
    """Box sides for `boxes`, in whole pixels: this part of each length, or of each axis one in a range of parts."""
    if not isinstance(side, tuple):
        return [jnp.full(shape, int(length * side), jnp.float32) for length in size]
    keys = jax.random.split(key, len(size))
    return [
        jax.random.randint(key, shape, *_side_range(side, length), jnp.int32).astype(jnp.float32)
        for key, length in zip(keys, size, strict=True)
    ]


def _side_range(side: float | tuple[float, float], length: int) -> tuple[int, int]:
    low, high = side if isinstance(side, tuple) else (side, side)
    return int(length * low), max(int(length * high), int(length * low) + 1)


def shortest_side(
    how: str, *, fold: bool = False, axes: int = 2, lam: float = 0, side: float | tuple[float, float] | None = None
) -> int:
    """The fewest pixels an axis has for `boxes` to be able to cut any from it: on less, every box is empty.

    The whole side is `length * ratio` and rounded, ratio the root of 1 - lambda: of lambdas drawn by Beta it is below
    1, and with `fold` at most sqrt(1/2), or of one or three axes another root. `lam` is the lowest, if it is given;
    or `side` is. A box whose halves are equal needs a side of 2 pixels, the others one of 1; Keras's has a pixel if
    one begins inside it, which an image's first does not.
    """
    ratio = (max(side) if isinstance(side, tuple) else side) if side is not None else (1 - lam) ** (1 / axes)
    if ratio == 0:  # nothing is to be mixed
        return 1
    if side is None:
        ratio = min(ratio, 0.5 ** (1 / axes) if fold else math.nextafter(1, 0))
    if how == "keras" and side is None:
        return 2
    least = 1 if how in ("timm", "inside", "keras") else 2
    whole = round if how == "fastai" else math.floor

    def largest(length: int) -> int:
        return whole(length * ratio) if side is None else _side_range(side, length)[1] - 1

    return next(n for n in itertools.count(max(1, int((least - 0.5) / ratio) - 1)) if largest(n) >= least)


def area_left(box: Int[Array, "... 2d"], size: Sequence[int]) -> Float[Array, ...]:
    """The part of an image of `size` outside `box`, float32, or with x64 float64: CutMix's lambda."""
    dtype = jnp.result_type(float)
    sides = [box[..., len(size) + axis] - box[..., axis] for axis in range(len(size))]
    area = math.prod(sides[1:], start=sides[0]).astype(dtype)
    # A divisor that is not one constant for all: XLA would multiply by its rounded reciprocal, and a box over the
    # whole image would leave a little less than 0.
    whole = jnp.where(area < 0, dtype.type(1), dtype.type(math.prod(size)))
    return 1 - area / whole

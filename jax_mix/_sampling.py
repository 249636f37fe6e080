"""Every random number of jax_mix: lambda, partners, boxes, layers and methods. Pure functions of a draw's words."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

Partner = Literal["permutation", "derangement", "roll", "flip"]
Box = Literal["fastai", "paper", "timm", "uniform", "inside", "keras"]
PARTNERS: tuple[str, ...] = get_args(Partner)
BOXES: tuple[str, ...] = get_args(Box)


class Words:
    """The random 32-bit words of one batch's draw: rows of one for each sample, a row for whatever is drawn.

    They come from one call of the generator, since compiled for a CPU each costs as much as a layer of a network; a
    draw that needs more rows calls it again. A row can be split over devices as the batch is.
    """

    ROWS = 12

    def __init__(self, key: Array, n: int) -> None:
        self._key, self._n, self._taken = key, max(n, 1), 0

    def take(self, shape: tuple[int, ...]) -> Array:
        """The next row, or as much of it as `shape` holds. uint32."""
        call, row = divmod(self._taken, self.ROWS)
        if row == 0:
            key = self._key if call == 0 else jax.random.fold_in(self._key, call)
            words = jax.random.bits(key, (self.ROWS * self._n,), jnp.uint32)  # of two axes, it compiles slower
            self._words = words.reshape(self.ROWS, self._n)
        self._taken += 1
        return self._words[row, : math.prod(shape)].reshape(shape)

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """Float32 from 0 up to, not with, 1, in steps of 2^-23."""
        return _uniform(self.take(shape))

    def below(self, count: Any, shape: tuple[int, ...]) -> Array:
        """Whole numbers from 0 up to, not with, `count`, which may be an array; int32."""
        count = jnp.asarray(count).astype(jnp.uint32)
        return (self.take(shape) % count).astype(jnp.int32)

    def order(self, shape: tuple[int, ...]) -> Array:
        """Numbers from 0 on in random order along the last axis, int32."""
        n = shape[-1]
        index = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), shape)
        keys = [self.take(shape) for _ in range(1 if n < 2**10 else 2)]  # of many words, two may be equal
        return jax.lax.sort((*keys, index), num_keys=len(keys))[-1]


def _uniform(words: Array) -> Array:
    return (words >> jnp.uint32(9)).astype(jnp.float32) * jnp.float32(2**-23)


def symmetric_beta(words: Words, alpha: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Beta(alpha, alpha), float32, without a rejection loop.

    Devroye 1996, "Random variate generation in one line of code": for U, V uniform and S a fair sign,
    1/2 (1 + S / sqrt(1 + 1/t)) with t = (U^(-1/alpha) - 1) cos^2(2 pi V). Written here for the smaller of
    B and 1-B, 1/2 / (1 + t + sqrt(t) sqrt(1+t)), which loses no digits near 0 and is never 0/0.
    """
    alpha = jnp.asarray(alpha, jnp.float32)
    u = jnp.maximum(words.uniform(shape), jnp.finfo(jnp.float32).tiny)
    word = words.take(shape)
    angle, sign = jnp.float32(2 * jnp.pi) * _uniform(word), word & jnp.uint32(1)  # other bits of one word
    t = jnp.expm1(-jnp.log(u) / alpha) * jnp.square(jnp.cos(angle))
    smaller = 0.5 / (1 + t + jnp.sqrt(t) * jnp.sqrt(1 + t))
    return jnp.where(sign == 1, 1 - smaller, smaller)


def lambdas(
    words: Words,
    alpha: Any,
    shape: tuple[int, ...],
    *,
    fold: bool,
    probability: ArrayLike,
    lam: Any = None,
) -> Array:
    """The samples' own weights: Beta(alpha, alpha), folded to max(lam, 1-lam) if asked; 1 where not applied.

    A pair `alpha` is a range that alpha is drawn from, once. `lam`, one number or a range, stands in Beta's place.
    """
    if lam is None:
        if isinstance(alpha, tuple):
            alpha = alpha[1] - (alpha[1] - alpha[0]) * words.uniform(())  # never the lower
        lam = symmetric_beta(words, alpha, shape)
    elif isinstance(lam, tuple):
        lam = lam[0] + (lam[1] - lam[0]) * words.uniform(shape)
    else:
        lam = jnp.full(shape, lam, jnp.float32)
    if fold:
        lam = jnp.maximum(lam, 1 - lam)
    applied = applies(words, probability, shape)
    return lam if applied is None else jnp.where(applied, lam, 1.0)


def applies(words: Words, probability: ArrayLike, shape: tuple[int, ...]) -> Array | None:
    """Whether to mix at all; None, always, for a probability that is known to be 1.

    The words are taken there too: what is drawn next is the same for a 1 that is traced.
    """
    part = words.uniform(shape)
    known = isinstance(probability, (int, float)) and probability == 1
    return None if known else part < jnp.asarray(probability, jnp.float32)


def choices(words: Words, count: int, shape: tuple[int, ...], probabilities: Any = None) -> Array:
    """Which of `count` methods or layers: each as likely as any other, or with `probabilities`."""
    if probabilities is None:
        return words.below(count, shape)
    # A schedule's last one, 1 - step / steps, may be a rounding below 0.
    up_to = jnp.cumsum(jnp.maximum(jnp.asarray(probabilities, jnp.float32), 0))
    at = words.uniform(shape)[..., None] * up_to[-1]  # below the last one, so that none of probability 0 is drawn
    return jnp.sum(at >= jnp.expand_dims(up_to[:-1], tuple(range(len(shape)))), axis=-1, dtype=jnp.int32)


def partners(words: Words, n: int, how: str, groups: int = 1, within: Array | None = None) -> Array:
    """Who is mixed with whom: sample i with `partners[i]`, of the same one of `groups` equal parts of the batch.

    And of the same number in `within`, if given.
    """
    size = n // groups
    order = words.order((groups, size)) if how in ("permutation", "derangement") else None
    numbers = None if within is None else within.reshape(groups, size)
    of_group = functools.partial(_partners, how, jnp.arange(size, dtype=jnp.int32))
    found = of_group(None, None) if order is None and numbers is None else jax.vmap(of_group)(order, numbers)
    first = size * jnp.arange(groups, dtype=jnp.int32)
    return (jnp.broadcast_to(found, (groups, size)) + first[:, None]).reshape(n)


def _partners(how: str, index: Array, order: Array | None, within: Array | None) -> Array:
    """Those of one group; `order` is a random one, where `how` needs it."""
    if within is not None:
        return _partners_within(how, index, index if order is None else order, within)
    if order is None:
        return jnp.roll(index, 1) if how == "roll" else index[::-1]
    return order if how == "permutation" else index.at[order].set(jnp.roll(order, 1))  # the one before, in a circle


def _partners_within(how: str, index: Array, order: Array, within: Array) -> Array:
    """The same among those of one number, which stand side by side once they are sorted by it."""
    in_order = index[jnp.argsort(within, stable=True)]
    shuffled = order[jnp.argsort(within[order], stable=True)]
    number = within[in_order]
    first = jnp.searchsorted(number, number, side="left").astype(jnp.int32)
    last = jnp.searchsorted(number, number, side="right").astype(jnp.int32) - 1
    if how == "permutation":
        return index.at[in_order].set(shuffled)
    if how == "flip":
        return index.at[in_order].set(in_order[first + last - index])
    return index.at[shuffled].set(shuffled[jnp.where(index == first, last, index - 1)])


def boxes(words: Words, lam: Array, size: Sequence[int], how: str, sides: Sequence[Array] | None = None) -> Array:
    """Boxes, all starts and then all ends (y1, x1, y2, x2), that cover about 1-lam of an image of `size`.

    Or with the given `sides`, a float array of lam's shape for each axis.

    "fastai", "paper", "timm": the centre is a uniform pixel, and what is outside of the image is clipped. The side is
    `round`ed half to even (fastai) or cut to an int (the CutMix authors, torchvision, timm). Each half is half the
    whole side, rounded down, so a box side is even; timm's second half is rounded up. "uniform" is the paper's box
    around a centre that may be outside, so that every pixel is covered as often (Composer). "inside" and "keras" are
    whole inside of the image: of a side cut to an int, or of a start and an end that are cut after they are drawn.
    """
    if sides is None:
        ratio = jnp.sqrt(1 - lam) if len(size) == 2 else (1 - lam) ** (1 / len(size))
        sides = [length * ratio for length in size]
    intervals = [_interval(words, *given, lam.shape, how) for given in zip(sides, size, strict=True)]
    return jnp.stack([*(start for start, _ in intervals), *(end for _, end in intervals)], axis=-1)


def _interval(words: Words, side: Array, length: int, shape: tuple[int, ...], how: str) -> tuple[Array, Array]:
    if how == "keras":
        start = words.uniform(shape) * (length - side)
        return jnp.ceil(start).astype(jnp.int32), jnp.minimum(jnp.ceil(start + side).astype(jnp.int32), length)
    whole = (jnp.round if how == "fastai" else jnp.floor)(side).astype(jnp.int32)
    if how == "inside":
        start = words.below(length - whole + 1, shape)
        return start, start + whole
    half = whole // 2
    centre = half - whole + words.below(length + whole, shape) if how == "uniform" else words.below(length, shape)
    end = (whole + 1) // 2 if how == "timm" else half
    return jnp.clip(centre - half, 0, length), jnp.clip(centre + end, 0, length)


def whole_sides(
    words: Words, side: float | tuple[float, float], size: Sequence[int], shape: tuple[int, ...]
) -> list[Array]:
    """Box sides for `boxes`, in whole pixels: this part of each length, or of each axis one in a range of parts."""
    if not isinstance(side, tuple):
        return [jnp.full(shape, int(length * side), jnp.float32) for length in size]
    ranges = [_side_range(side, length) for length in size]
    return [(low + words.below(high - low, shape)).astype(jnp.float32) for low, high in ranges]


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


def area_left(box: Array, size: Sequence[int]) -> Array:
    """The part of an image of `size` outside `box`, float32, or with x64 float64: CutMix's lambda."""
    dtype = jnp.result_type(float)
    sides = [box[..., len(size) + axis] - box[..., axis] for axis in range(len(size))]
    area = math.prod(sides[1:], start=sides[0]).astype(dtype)
    # A divisor that is not one constant for all: XLA would multiply by its rounded reciprocal, and a box over the
    # whole image would leave a little less than 0.
    whole = jnp.where(area < 0, dtype.type(1), dtype.type(math.prod(size)))
    return 1 - area / whole

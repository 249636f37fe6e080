"""Every random number of jax_mix: lambda, partners, boxes and layers. Pure functions of a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Int, Key

PARTNERS = ("permutation", "roll", "flip")
BOXES = ("fastai", "paper")


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
    key: Key[Array, ""], alpha: ArrayLike, shape: tuple[int, ...], *, fold: bool, probability: ArrayLike
) -> Float[Array, ...]:
    """The samples' own weights: Beta(alpha, alpha), folded to max(lam, 1-lam) if asked; 1 where not applied."""
    key_lam, key_apply = jax.random.split(key)
    lam = symmetric_beta(key_lam, alpha, shape)
    if fold:
        lam = jnp.maximum(lam, 1 - lam)
    if isinstance(probability, (int, float)) and probability == 1:
        return lam
    return jnp.where(jax.random.bernoulli(key_apply, jnp.asarray(probability, jnp.float32), shape), lam, 1.0)


def partners(key: Key[Array, ""], n: int, how: str, groups: int = 1) -> Int[Array, " n"]:
    """Who is mixed with whom: sample i with `partners[i]`, of the same one of `groups` equal parts of the batch."""
    if groups > 1:
        size = n // groups
        within = jax.vmap(lambda key: partners(key, size, how))(jax.random.split(key, groups))
        return (within + size * jnp.arange(groups, dtype=jnp.int32)[:, None]).reshape(n)
    index = jnp.arange(n, dtype=jnp.int32)
    if how == "permutation":
        return jax.random.permutation(key, index)
    return jnp.roll(index, 1) if how == "roll" else index[::-1]


def boxes(key: Key[Array, ""], lam: Float[Array, ...], height: int, width: int, how: str) -> Int[Array, "... 4"]:
    """Boxes (y1, x1, y2, x2), end exclusive, that cover about 1-lam of a height x width image, clipped to it.

    The centre is a uniform pixel; each half side is half the whole side, rounded down, so a box side is even.
    The side is `round`ed half to even (fastai) or cut to an int (the CutMix authors, timm, torchvision).
    """
    key_y, key_x = jax.random.split(key)
    ratio = jnp.sqrt(1 - lam)
    whole = jnp.round if how == "fastai" else jnp.floor

    def interval(key: Key[Array, ""], length: int) -> tuple[Array, Array]:
        half = whole(length * ratio).astype(jnp.int32) // 2
        centre = jax.random.randint(key, lam.shape, 0, length, jnp.int32)
        return jnp.clip(centre - half, 0, length), jnp.clip(centre + half, 0, length)

    y1, y2 = interval(key_y, height)
    x1, x2 = interval(key_x, width)
    return jnp.stack([y1, x1, y2, x2], axis=-1)


def shortest_side(how: str, *, fold: bool) -> int:
    """The fewest pixels in height and in width from which `boxes` can cut any: on less, every box is empty.

    A box has a half side of a pixel where the whole one, length * sqrt(1 - lam), is 2 when it is rounded. The root is
    below 1, and with `fold` at most sqrt(1/2): rounded to the nearest, 2 pixels can do, or 3; rounded down, 3.
    """
    return 2 if how == "fastai" and not fold else 3


def area_left(box: Int[Array, "... 4"], height: int, width: int) -> Float[Array, ...]:
    """The part of a height x width image outside `box`, float32, or with x64 float64: CutMix's lambda."""
    dtype = jnp.result_type(float)
    y1, x1, y2, x2 = (box[..., i] for i in range(4))
    area = ((y2 - y1) * (x2 - x1)).astype(dtype)
    # A divisor that is not one constant for all: XLA would multiply by its rounded reciprocal, and a box over the
    # whole image would leave a little less than 0.
    whole = jnp.where(area < 0, dtype.type(1), dtype.type(height * width))
    return 1 - area / whole

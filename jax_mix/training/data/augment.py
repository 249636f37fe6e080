"""What is done to training images at random, inside the compiled step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Key, UInt8

AugmentName = Literal["shift", "shift_flip", "crop", "none"]


def augment(
    name: AugmentName, key: Key[Array, ""], image: UInt8[Array, "batch height width channels"]
) -> UInt8[Array, "batch height width channels"]:
    """What `name` says: "shift" (`random_shift`), or "shift_flip" (`random_flip` after it).

    "none" does nothing, nor does "crop" here: photographs come cropped.
    """
    if name in ("none", "crop"):
        return image
    shifted = random_shift(key, image)
    return random_flip(jax.random.fold_in(key, 1), shifted) if name == "shift_flip" else shifted


def random_shift(
    key: Key[Array, ""], image: UInt8[Array, "batch height width channels"]
) -> UInt8[Array, "batch height width channels"]:
    """Move each image by up to an eighth of its size, at least a pixel, each way; black comes in at the border."""
    n, height, width, channels = image.shape
    reach = max(1, min(height, width) // 8)
    padded = jnp.pad(image, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    # Drawn along one axis, which XLA compiles for CPU in half the time; the numbers are the same.
    corner = jax.random.randint(key, (2 * n,), 0, 2 * reach + 1, jnp.int32).reshape(n, 2)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), (height, width, channels))

    return jax.vmap(crop)(padded, corner)


def random_flip(
    key: Key[Array, ""], image: UInt8[Array, "batch height width channels"]
) -> UInt8[Array, "batch height width channels"]:
    """Mirror each image, left to right, with probability a half."""
    flips = jax.random.bernoulli(key, 0.5, (image.shape[0], 1, 1, 1))
    return jnp.where(flips, image[:, :, ::-1], image)

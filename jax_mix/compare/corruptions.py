"""Images made worse in ways that training did not show: noise, blur, contrast, rotation, occlusion."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from jaxtyping import Float

    Images = Float[np.ndarray, "n height width channels"]


class Corruption(NamedTuple):
    """`apply(generator, image, strength)` on images from 0 to 1, and its strengths, from mild to severe."""

    apply: Callable[[np.random.Generator, Any, float], Any]
    strengths: tuple[float, ...]
    unit: str


def _noise(rng: np.random.Generator, image: Images, std: float) -> Images:
    return image + std * rng.standard_normal(image.shape, np.float32)


def _blur(rng: np.random.Generator, image: Images, sigma: float) -> Images:
    pixels = sigma * min(image.shape[1:3])
    return ndimage.gaussian_filter(image, (0, pixels, pixels, 0), mode="nearest")


def _contrast(rng: np.random.Generator, image: Images, kept: float) -> Images:
    mean = image.mean(axis=(1, 2, 3), keepdims=True)
    return (image - mean) * kept + mean


def _rotation(rng: np.random.Generator, image: Images, degrees: float) -> Images:
    left = rng.random(len(image)) < 0.5
    turned = np.empty_like(image)
    for which, angle in ((left, degrees), (~left, -degrees)):
        turned[which] = ndimage.rotate(image[which], angle, axes=(1, 2), reshape=False, order=1, mode="constant")
    return turned


def _occlusion(rng: np.random.Generator, image: Images, side: float) -> Images:
    n, height, width, _ = image.shape
    rows, columns = (max(1, round(side * size)) for size in (height, width))
    top = rng.integers(0, height - rows + 1, (n, 1, 1, 1))
    left = rng.integers(0, width - columns + 1, (n, 1, 1, 1))
    row, column = np.arange(height)[None, :, None, None], np.arange(width)[None, None, :, None]
    hidden = (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)
    return np.where(hidden, np.float32(0), image)


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": Corruption(_noise, (0.1, 0.2, 0.4), "standard deviation, of the range of pixels"),
    "blur": Corruption(_blur, (0.02, 0.05, 0.1), "standard deviation, of the image's side"),
    "contrast": Corruption(_contrast, (0.5, 0.3, 0.15), "what is left of it"),
    "rotation": Corruption(_rotation, (15.0, 30.0, 45.0), "degrees, left or right"),
    "occlusion": Corruption(_occlusion, (0.25, 0.375, 0.5), "side of a black box, of the image's"),
}


def corrupt(name: str, image: Any, strength: float, *, peak: float) -> Images:
    """Images with one of the `CORRUPTIONS`; the same each time.

    >>> corrupt("contrast", np.array([0, 255], np.uint8).reshape(1, 1, 2, 1), 0.5, peak=255).ravel()
    array([ 63.75, 191.25], dtype=float32)

    Args:
      name: which.
      image: `[n, height, width, channels]`, from 0 to `peak`.
      strength: in the corruption's own unit.
      peak: the largest value a pixel may have.

    Returns:
      float32 `[n, height, width, channels]`, from 0 to `peak`.

    Source: in the manner of Hendrycks and Dietterich, arXiv:1903.12261; the strengths are ours, and follow the size of
    the image.
    """
    rng = np.random.default_rng([zlib.crc32(name.encode()), round(1000 * strength)])
    worse = CORRUPTIONS[name].apply(rng, np.asarray(image, np.float32) / np.float32(peak), strength)
    return (np.clip(worse, 0, 1) * np.float32(peak)).astype(np.float32)

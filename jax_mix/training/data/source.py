"""Where images come from, before they are decoded: what TFDS sets and folders have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

if TYPE_CHECKING:
    from jaxtyping import UInt8


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that can be read from the start, more than once.

    Attributes:
      name: what it is called.
      class_names: one for each class.
      counts: how many examples the splits "train" and "test" have, at most.
      read: gives the examples of a split: an image, uint8 `[height, width, channels]`, and its label.
      made_of: all that the decoded images depend on, as JSON can hold it: another value, other images.
      small: whether decoding takes no time, so that a cache is not worth its place.
    """

    name: str
    class_names: tuple[str, ...]
    counts: Mapping[str, int]
    read: Callable[[str], Iterator[tuple[Any, int]]]
    made_of: Any
    small: bool = False


def resized(image: UInt8[np.ndarray, "height width channels"], size: int) -> UInt8[np.ndarray, "size size channels"]:
    """The image scaled, for its shorter side to be `size` pixels, and cut to the square in its middle."""
    height, width, channels = image.shape
    if (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    picture = PIL.Image.fromarray(image[..., 0] if channels == 1 else image)
    left, top = (wide - size) // 2, (high - size) // 2
    picture = picture.resize((wide, high), PIL.Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    return np.asarray(picture).reshape(size, size, channels)

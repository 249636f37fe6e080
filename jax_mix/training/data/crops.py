"""A random part of an image, as training takes it: cropped, resized, flipped, augmented, and a box of it erased."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from jax_mix.training.data.encoded import Picture
from jax_mix.training.data.policies import Policy
from jax_mix.training.data.source import Form, resized

if TYPE_CHECKING:
    from jaxtyping import UInt8

_RATIO = (3 / 4, 4 / 3)  # of a crop's sides
_ERASED, _ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # the part of an image that is erased, and the ratio of its sides
_TRIES = 10
_GAP = 2  # a JPEG is decoded smaller only if the crop stays this much larger than what it is resized to


@dataclasses.dataclass(frozen=True)
class Cropping:
    """What becomes of an image of any size.

    Attributes:
      size: the side of the square that it becomes.
      scale: the least and the largest part of the image's area that a crop has.
      policy: what is done to a crop besides flipping it; None: nothing.
      erasing: the probability that a box of it is erased.
      test_crop: of a test image, which part of the shorter side is kept.
      fill: what an erased box shows, of each channel: the mean of the training images, which is 0 to a network.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    policy: Policy | None = None
    erasing: float = 0.0
    test_crop: float = 0.875
    fill: tuple[int, ...] = (0,)


def random_image(
    content: bytes, form: Form, cropping: Cropping, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size channels"]:
    """An image as training takes it: all that is random is drawn from `rng`.

    Raises:
      Exception: it cannot be read.

    Source: torchvision's `RandomResizedCrop`, `RandomHorizontalFlip` and `RandomErasing`, in this order, the policy
    before the last.
    """
    picture, side = Picture(content, form), cropping.size
    top, left, rows, columns = crop_box(rng, picture.height, picture.width, cropping.scale)
    wanted = next((by for by in (8, 4, 2) if min(rows, columns) >= by * _GAP * side), 1)
    array, by = picture.pixels(wanted)
    if by == 1:
        part, box = array[top : top + rows, left : left + columns], None
    else:  # whole pixels around the crop, and the crop's place in them
        y, x = top // by, left // by
        part = array[y : -(-(top + rows) // by), x : -(-(left + columns) // by)]
        box = (left / by - x, top / by - y, (left + columns) / by - x, (top + rows) / by - y)
    image = PIL.Image.fromarray(part[..., 0] if form.grey else part)
    image = image.resize((side, side), PIL.Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        image = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    if cropping.policy is not None:
        image = cropping.policy(image, rng)
    made = np.asarray(image).reshape(side, side, form.channels)
    if cropping.erasing and rng.random() < cropping.erasing and (erased := erased_box(rng, side, side)):
        top, left, rows, columns = erased
        made = made.copy()
        made[top : top + rows, left : left + columns] = cropping.fill
    return made


def central_image(content: bytes, form: Form, cropping: Cropping) -> UInt8[np.ndarray, "size size channels"]:
    """An image as the network is tested on it; it is decoded in full.

    Raises:
      Exception: it cannot be read.
    """
    array, _ = Picture(content, form).pixels()
    return resized(array, cropping.size, cropping.test_crop)


def crop_box(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Top, left, rows and columns of a crop: area and ratio of sides are drawn, then its place, until it fits.

    If it does not in ten tries, the largest crop in the middle whose ratio is allowed.
    """
    for columns, rows in _sides(rng, height * width, scale, _RATIO):
        if 0 < columns <= width and 0 < rows <= height:
            return _placed(rng, height, width, rows, columns)
    narrowest, widest = _RATIO
    rows, columns = height, width
    if width / height < narrowest:
        rows = round(width / narrowest)
    elif width / height > widest:
        columns = round(height * widest)
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def erased_box(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Top, left, rows and columns of what is erased; None: no box that was drawn in ten tries is within the image."""
    for rows, columns in _sides(rng, height * width, _ERASED, _ERASED_RATIO):
        if rows < height and columns < width:
            return _placed(rng, height, width, rows, columns)
    return None


def _sides(rng: Any, area: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Iterator[tuple[int, int]]:
    """Two sides: their product is a part of the area, uniform; the first is `ratio` times the second, log-uniform."""
    for _ in range(_TRIES):
        part = area * rng.uniform(*scale)
        drawn = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        yield round(math.sqrt(part * drawn)), round(math.sqrt(part / drawn))


def _placed(rng: Any, height: int, width: int, rows: int, columns: int) -> tuple[int, int, int, int]:
    return int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1)), rows, columns

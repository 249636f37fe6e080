"""Where images come from, before they are decoded: what TFDS sets and folders have in common."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import PIL.Image

if TYPE_CHECKING:
    from jaxtyping import UInt8


_ENDS = 4096  # bytes at each end of a file, by which it is known


@dataclasses.dataclass(frozen=True)
class Form:
    """What the pixels of a set become.

    Attributes:
      grey: one channel; else three.
      bits: that are in use in 16-bit images.
    """

    grey: bool
    bits: int = 16

    @property
    def channels(self) -> int:
        return 1 if self.grey else 3


class Encoded(Protocol):
    """The images of a split as they lie in files; a worker process gets it by pickle.

    Attributes:
      or_else: what can be done about one that cannot be read, as the end of a sentence.
    """

    or_else: str

    def contents(self, index: Sequence[int]) -> list[bytes]:
        """The images of those numbers."""

    def labels(self) -> Any:
        """Of all images, int64 `[n]`; it may read everything."""

    def name(self, number: int) -> str:
        """What an image is called in a sentence."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that can be read from the start, more than once.

    Attributes:
      name: what it is called.
      class_names: one for each class.
      counts: how many examples the splits "train" and "test" have, at most.
      read: gives the examples of a split: an image, uint8 `[height, width, channels]`, and its label.
      encoded: gives a split as it lies in files, of which any image can be read by itself.
      form: what its pixels become.
      skips: whether images that cannot be read are left out.
      look: finds out by some images what `read` finds out by all: what to tell of them.
      made_of: all that the decoded images depend on, as JSON can hold it: another value, other images.
      content: what tells its images from others, wherever they lie and whenever they were copied there.
      told: how it is read, in words for the user.
      left_out: what is not used of it.
      found: what `read` has found out besides, which is kept with the decoded images.
    """

    name: str
    class_names: tuple[str, ...]
    counts: Mapping[str, int]
    read: Callable[[str], Iterator[tuple[Any, int]]]
    made_of: Any
    content: str
    encoded: Callable[[str], Encoded]
    form: Form
    skips: bool = False
    look: Callable[[], Sequence[str]] = tuple
    told: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    found: list[str] = dataclasses.field(default_factory=list)


def identity(file: Path) -> list[Any]:
    """What tells a file from any other that may lie in its place, reading little: whole numbers and a hash.

    A copy may have the size and the time of another file. The last bytes of a PNG are a sum over all pixels.
    """
    try:
        with file.open("rb") as opened:
            stat = os.fstat(opened.fileno())
            ends = opened.read(_ENDS)
            opened.seek(max(0, stat.st_size - _ENDS))
            ends += opened.read(_ENDS)
    except OSError as error:
        return [error.errno]
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, hashlib.sha256(ends).hexdigest()]


def of_content(identity: list[Any]) -> list[Any]:
    """What of a file's `identity` a copy of it has as well: its size, and the hash of its ends."""
    return [identity[0], identity[-1]]


def resized(
    image: UInt8[np.ndarray, "height width channels"], size: int | tuple[int, int], crop: float | None = None
) -> UInt8[np.ndarray, "rows columns channels"]:
    """The image scaled, until it just covers `size`, and cut to that in its middle.

    Args:
      image: one image.
      size: `(rows, columns)`, or the side of a square.
      crop: scaled until it just covers `size / crop`, as torchvision's `Resize` and `CenterCrop` do it; None: `size`.
    """
    height, width, channels = image.shape
    rows, columns = (size, size) if isinstance(size, int) else size
    if crop is not None:
        covered_rows, covered_columns = int(rows / crop), int(columns / crop)
        if covered_rows * width >= covered_columns * height:
            high, wide = covered_rows, covered_rows * width // height
        else:
            high, wide = covered_columns * height // width, covered_columns
        left, top = round((wide - columns) / 2), round((high - rows) / 2)
    elif (height, width) == (rows, columns):
        return image
    else:
        scale = max(rows / height, columns / width)
        wide, high = max(columns, round(width * scale)), max(rows, round(height * scale))
        left, top = (wide - columns) // 2, (high - rows) // 2
    picture = PIL.Image.fromarray(image[..., 0] if channels == 1 else image)
    # Only what is kept is scaled: all of a long, narrow picture could be too large for any memory.
    across, down = width / wide, height / high
    kept = (left * across, top * down, (left + columns) * across, (top + rows) * down)
    picture = picture.resize((columns, rows), PIL.Image.Resampling.BILINEAR, box=kept)
    return np.asarray(picture).reshape(rows, columns, channels)

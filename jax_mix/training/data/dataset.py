"""A data set in memory, or on disk as it lies in memory; and how its images are made ready for a network."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_mix._checks import suggest
from jax_mix.training.data.labels import are_several, counts
from jax_mix.training.errors import UserError, require

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt8

_CHUNK = 4096  # images at once, for the sums of a data set larger than memory
_SHOWN = 10  # classes that are printed
# Mean and deviation that the networks of others were trained with, of pixels from 0 to 1.
_KNOWN = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "half": ((0.5,) * 3, (0.5,) * 3)}


class Examples(NamedTuple):
    """A split or a batch: `image` uint8 `[n, height, width, channels]` and `label` int32 `[n]`.

    Of images that have several labels, `label` is float32 `[n, classes]`, of 0 and 1.
    """

    image: UInt8[Array, "n height width channels"]
    label: Int[Array, " n"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normalize:
    """uint8 images to float32 ones; the training images get mean 0 and standard deviation 1 in each channel.

    A pytree, so a jitted step takes it as it is.

    Attributes:
      mean, std: float32 `[channels]`, of the training images.
    """

    mean: Float[Array, " channels"]
    std: Float[Array, " channels"]

    def __call__(
        self, image: UInt8[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        return (image.astype(jnp.float32) - self.mean[None, None, None]) / self.std[None, None, None]


def check_normalization(words: Sequence[str]) -> None:
    """Raise `UserError` unless `words` are a value of `--normalize`: data, imagenet, half, or means and deviations."""
    if len(words) == 1:
        if words[0] not in ("data", *_KNOWN):
            raise UserError(f"--normalize is {words[0]!r}: {suggest(words[0], ['data', *_KNOWN])}")
        return
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    half = len(numbers) // 2
    require(
        len(numbers) >= 2 and len(numbers) % 2 == 0 and all(map(math.isfinite, numbers)) and min(numbers[half:]) > 0,
        "--normalize must be data, imagenet, half, or the mean of each channel, then the deviation of each, positive; "
        f"got {' '.join(words)}.",
    )


def normalization(words: Sequence[str]) -> Normalize:
    """The `Normalize` that `--normalize` names, other than data.

    >>> normalization(["imagenet"]).mean.tolist()
    [123.67500305175781, 116.27999877929688, 103.52999877929688]
    """
    if words[0] in _KNOWN:
        mean, std = (tuple(255 * value for value in values) for values in _KNOWN[words[0]])
    else:
        numbers = tuple(map(float, words))
        mean, std = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    return Normalize(*(jnp.asarray(values, jnp.float32) for values in (mean, std)))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set on the host; its arrays may be files that are read as they are needed.

    Attributes:
      train, test: its two splits.
      normalize: for a network to take its images.
      name: what it is called.
      class_names: one for each class.
      own: mean and deviation of the training images, where `normalize` is another; None: `normalize`.
      content: of images that stay encoded, what is known of all of them, wherever they lie.
    """

    train: Examples
    test: Examples
    normalize: Normalize
    name: str
    class_names: tuple[str, ...]
    own: Normalize | None = None
    content: str = ""

    @functools.cached_property
    def fingerprint(self) -> str:
        """Other images, labels or classes have another, in all likelihood; reading no image."""
        digest = hashlib.sha256(json.dumps([self.class_names, list(self.train.image.shape)]).encode())
        own = self.own or self.normalize
        for array in (self.train.label, self.test.label, own.mean, own.std):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(self.content.encode())
        return digest.hexdigest()[:8]

    def __str__(self) -> str:
        size = "x".join(map(str, self.train.image.shape[1:]))
        sizes = f"{len(self.train.label)} training and {len(self.test.label)} test images of {size}"
        names = self.class_names
        train, test = (counts(split.label, len(names)) for split in (self.train, self.test))
        first = [f"{name} {n} and {m}" for name, n, m in zip(names[:_SHOWN], train, test, strict=False)]
        kind = "labels, any number of them each" if are_several(self.train.label) else "classes"
        more = f"; ... {names[-1]} {train[-1]} and {test[-1]}" if len(names) > _SHOWN else ""
        return f"{self.name}: {sizes}, {len(names)} {kind}\ntraining and test images of each: {'; '.join(first)}{more}"


def mean_and_std(image: Any, *, chunk: int = _CHUNK) -> tuple[Any, Any]:
    """Of each channel of uint8 images `[n, height, width, channels]`, float32 `[channels]`; of whole numbers, exact."""
    total, squares = (np.zeros(image.shape[-1], np.int64) for _ in range(2))
    for start in range(0, len(image), chunk):
        some = image[start : start + chunk]
        total += some.sum(axis=(0, 1, 2), dtype=np.int64)
        squares += np.einsum("nhwc,nhwc->c", some, some, dtype=np.int64)
    n = math.prod(image.shape[:-1])
    mean = total / n
    variance = squares / n - mean**2
    std = np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1)  # a constant channel stays constant
    return mean.astype(np.float32), std.astype(np.float32)

"""Image-classification data: sets of TFDS, folders of images, and the digits that need no download."""

from __future__ import annotations

import os
from pathlib import Path

from jax_mix.training.data.augment import AugmentName, augment, random_flip, random_shift
from jax_mix.training.data.cache import decoded
from jax_mix.training.data.dataset import Dataset, Examples, Normalize
from jax_mix.training.data.feeding import FeedName, batches, epoch_batches, from_host
from jax_mix.training.data.folder import BrokenImages, open_folder
from jax_mix.training.data.subset import corrupt_labels, take
from jax_mix.training.data.tfds_sets import open_set

__all__ = [
    "AugmentName",
    "BrokenImages",
    "Dataset",
    "Examples",
    "FeedName",
    "Normalize",
    "augment",
    "batches",
    "corrupt_labels",
    "epoch_batches",
    "from_host",
    "is_folder",
    "load",
    "random_flip",
    "random_shift",
    "take",
]


def is_folder(name: str) -> bool:
    """Whether `name` is that of a folder of images, not of a TFDS set: it is a path, or an existing one."""
    return name.startswith((".", "~", os.sep)) or (os.sep in name and Path(name).is_dir())


def load(
    name: str,
    data_dir: str | None = None,
    *,
    image_size: int | None = None,
    test_fraction: float = 0.2,
    broken_images: BrokenImages = "stop",
    cache_dir: str | None = None,
) -> Dataset:
    """Read a data set: "digits", a TFDS set by name, or a folder of images; see `open_set` and `open_folder`.

    Decoded images are kept in `cache_dir`, for the next start.

    Raises:
      UserError: it cannot be used.
    """
    if is_folder(name):
        source = open_folder(name, image_size=image_size, test_fraction=test_fraction, broken=broken_images)
    else:
        source = open_set(name, data_dir, image_size)
    return decoded(source, cache_dir)

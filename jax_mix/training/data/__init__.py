"""Image-classification data: sets of TFDS, folders of images, and the digits that need no download."""

from __future__ import annotations

import os
import sys

from jax_mix.training.data.augment import AugmentName, augment, random_flip, random_shift
from jax_mix.training.data.cache import decoded
from jax_mix.training.data.crops import Cropping
from jax_mix.training.data.dataset import Dataset, Examples, Normalize, check_normalization, normalization
from jax_mix.training.data.feeding import Balanced, FeedName, batches, epoch_batches, from_host, rows_from_host
from jax_mix.training.data.folder import BrokenImages, open_folder
from jax_mix.training.data.layout import SplitBy
from jax_mix.training.data.photographs import Photographs, first_batch, open_photographs, with_mean_erased
from jax_mix.training.data.subset import corrupt_labels, take
from jax_mix.training.errors import require
from jax_mix.training.files import one_line

__all__ = [
    "AugmentName",
    "Balanced",
    "BrokenImages",
    "Cropping",
    "Dataset",
    "Examples",
    "FeedName",
    "Normalize",
    "Photographs",
    "SplitBy",
    "augment",
    "batches",
    "check_normalization",
    "corrupt_labels",
    "epoch_batches",
    "first_batch",
    "from_host",
    "is_folder",
    "load",
    "normalization",
    "random_flip",
    "random_shift",
    "rows_from_host",
    "take",
    "with_mean_erased",
]


def is_folder(name: str) -> bool:
    """Whether `name` is that of a folder of images, not of a TFDS set: it is a path, or that of what is there."""
    there = os.path.isdir(name) if os.sep in name else "." in name and os.path.isfile(name)
    return name.startswith((".", "~", os.sep)) or there


def load(
    name: str,
    data_dir: str | None = None,
    *,
    image_size: int | None = None,
    test_fraction: float | None = None,
    split_by: SplitBy | None = None,
    bits: int | None = None,
    broken_images: BrokenImages = "stop",
    cache_dir: str | None = None,
    cropping: Cropping | None = None,
    labels: str | None = None,
    label_delim: str | None = None,
) -> Dataset:
    """Read a data set: "digits", a TFDS set by name, or a folder of images; see `tfds_sets.open_set` and `open_folder`.

    Decoded images are kept in `cache_dir`, for the next start; with `cropping`, of `image_size`, images are decoded
    when they are needed, each time. It is printed how the set is read, and what of it is left out, each time.

    Raises:
      UserError: it cannot be used.
    """
    if is_folder(name):
        source = open_folder(
            name,
            image_size=image_size,
            test_fraction=test_fraction,
            split_by=split_by,
            bits=bits,
            broken=broken_images,
            table=labels,
            label_delim=label_delim,
        )
    else:
        given = {"test-fraction": test_fraction, "split-by": split_by, "bits": bits, "labels": labels}
        for flag, value in given.items():
            require(
                value is None, f"--{flag} is {value}, but --dataset {name} is no folder of images, ./photos: drop it."
            )
        from jax_mix.training.data import tfds_sets  # here, as TFDS is slow to import, and a trained run needs none

        source = tfds_sets.open_set(name, data_dir, image_size)
    for line in source.told:
        print(one_line(line))
    for line in source.left_out:
        print(f"left out: {one_line(line)}", file=sys.stderr)
    dataset = decoded(source, cache_dir) if cropping is None else open_photographs(source, cropping, cache_dir)
    for line in source.found:
        print(one_line(line), file=sys.stderr)
    return dataset

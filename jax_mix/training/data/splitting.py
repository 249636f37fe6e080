"""A part of each class's images for the test: the same files on any machine."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from jax_mix.training.data.layout import Files
from jax_mix.training.errors import require


def split(
    path: str, root: Path, classes: Files, test_fraction: float, *, by_folder: bool, flat: bool = False
) -> tuple[Files, Files]:
    """Training and test images.

    An image is known by its path below the folder of its class, or with `flat` below the root. Its class gives those of
    the lowest hashes to the test.

    Args:
      path: as it was given.
      root: the folder of the classes.
      classes: their images.
      test_fraction: of each class, rounded, and at least one image.
      by_folder: images in the same subfolder of a class, at any depth, are all for training or all for the test; so
        are those in a subfolder of the same name of another class. Then the fraction is nearly kept, no more.
      flat: classes have no folders.

    Raises:
      UserError: a class has no two images, or subfolders, or is left without one for training or the test.
    """
    for name, images in classes.items():
        require(len(images) >= 2, f"--dataset {path}: class {name} needs two images or more, for training and test.")
    below = {
        name: [_below(image, root if flat else root / name) for image in images] for name, images in classes.items()
    }
    counts = {name: min(len(those) - 1, max(1, round(test_fraction * len(those)))) for name, those in below.items()}
    if by_folder:
        in_test = _folders_for_test(path, below, counts)
        chosen = {name: {each for each in those if _first(each) in in_test} for name, those in below.items()}
    else:
        chosen = {name: set(_by_hash(those, f"{name}/")[: counts[name]]) for name, those in below.items()}
    train, test = (
        {
            name: [image for image, each in zip(images, below[name], strict=True) if (each in chosen[name]) == for_test]
            for name, images in classes.items()
        }
        for for_test in (False, True)
    )
    return train, test


def _folders_for_test(path: str, below: Mapping[str, list[str]], counts: Mapping[str, int]) -> set[str]:
    """The subfolders that are for the test in every class, for each class to have nearly its count of images there.

    A class with fewer of them chooses first: it has less to choose from.
    """
    require(
        any("/" in each for those in below.values() for each in those),
        f"--split-by folder: no class in --dataset {path} has subfolders to keep together.",
    )
    sizes = {name: Counter(map(_first, those)) for name, those in below.items()}
    side: dict[str, str] = {}  # of each subfolder, "the test" or "training"
    for name in sorted(sizes, key=lambda name: (len(sizes[name]), name)):
        of_class = sizes[name]
        free = _by_hash(of_class.keys() - side.keys())
        count = sum(size for each, size in of_class.items() if side.get(each) == "the test")
        for each in free:
            nearer = abs(count + of_class[each] - counts[name]) <= abs(count - counts[name])
            if nearer:
                side[each] = "the test"
                count += of_class[each]
        if free and not count:  # each is larger than twice what is wanted
            side[min(free, key=of_class.__getitem__)] = "the test"
        if free and all(side.get(each) == "the test" for each in of_class):
            del side[max(free, key=of_class.__getitem__)]
        side |= {each: "training" for each in free if each not in side}
        for which in ("the test", "training"):
            require(
                any(side[each] == which for each in of_class),
                f"--dataset {path}: class {name} has no images for {which} with --split-by folder: it needs two "
                "subfolders or more, not all of which are on the other side in other classes.",
            )
    return {each for each, which in side.items() if which == "the test"}


def _by_hash(names: Iterable[str], prefix: str = "") -> list[str]:
    return sorted(sorted(names), key=lambda name: hashlib.sha256(os.fsencode(prefix + name)).digest())


def _first(below: str) -> str:
    """The subfolder of a class that an image is in; of one directly in the class, the image itself."""
    return below.split("/", 1)[0]


def _below(image: Path, folder: Path) -> str:
    """The path below `folder`, the same on all systems: macOS writes an accent as a letter of its own."""
    return unicodedata.normalize("NFC", image.relative_to(folder).as_posix())

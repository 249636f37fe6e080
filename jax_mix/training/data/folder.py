"""A folder of images with a subfolder for each class."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps

from jax_mix.training.data.source import Source, resized
from jax_mix.training.errors import UserError, require

BrokenImages = Literal["stop", "skip"]
_GREY = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F"}  # Pillow's names of modes without colour
_TEST_NAMES = ("test", "val", "valid", "validation")
_CHUNK = 256  # how many images are decoded at once


class _Header(NamedTuple):
    size: tuple[int, int]  # height, width
    grey: bool


def open_folder(path: str, *, image_size: int | None, test_fraction: float, broken: BrokenImages) -> Source:
    """The images under `path`: train/CLASS/* and test/CLASS/* (or val, valid, validation), or CLASS/* alone.

    Without a folder for the test, each class gives its share, those whose names have the lowest hashes: the same files
    give the same split anywhere.

    Args:
      path: a folder.
      image_size: to which images are resized, as `resized` does it; None: they must be of one size.
      test_fraction: of the images of each class, where there is no folder for the test.
      broken: what to do about a file that cannot be decoded: "stop", or "skip" it and say so.

    Raises:
      UserError: there is no such folder; there are less than two classes, or no images in one; training and test have
        other classes; images of several sizes without `image_size`; a broken one, if so chosen.

    Source: the layout of `torchvision.datasets.ImageFolder` and of TFDS's `ImageFolder`; images become RGB, or grey
    if all are, as torchvision's `default_loader` makes them: transparency is dropped.
    """
    root = Path(path).expanduser()
    require(root.is_dir(), f"--dataset {path}: there is no such folder.")
    folders = {each.name.lower(): each for each in sorted(root.iterdir()) if each.is_dir()}
    train, tests = folders.get("train"), [folders[name] for name in _TEST_NAMES if name in folders]
    if train and tests:
        names = " and ".join(each.name for each in tests)
        require(len(tests) == 1, f"--dataset {path} has {names}: which is the test? Keep one.")
        files = {"train": _classes(path, train), "test": _classes(path, tests[0])}
        only = sorted(files["train"].keys() ^ files["test"].keys())
        require(not only, f"--dataset {path}: class {', '.join(only)} is in only one of {train.name} and {names}.")
    else:
        if train and any(each.is_dir() for each in train.iterdir()):
            raise UserError(
                f"--dataset {path} has a folder {train.name} with folders of its own, but none for the test: "
                f"call that {', '.join(_TEST_NAMES[:-1])} or {_TEST_NAMES[-1]}."
            )
        files = _split(path, _classes(path, root), test_fraction)
    class_names = tuple(sorted(files["train"]))
    found = ", ".join(class_names) or "none"
    require(
        len(class_names) >= 2, f"--dataset {path} needs a folder for each of two classes or more; there is: {found}."
    )

    every = [file for of_class in files.values() for paths in of_class.values() for file in paths]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        headers = list(pool.map(_header, every))
    good = [header for header in headers if isinstance(header, _Header)]
    for file, header in zip(every, headers, strict=True):
        require(broken == "skip" or isinstance(header, _Header), _told(path, file, header))
    sizes = Counter(header.size for header in good)
    if len(sizes) > 1 and image_size is None:
        (first, _), (second, _) = sizes.most_common(2)
        raise UserError(
            f"--dataset {path} has images of several sizes, say {first[0]}x{first[1]} and {second[0]}x{second[1]} "
            f"pixels: give one to resize them to, such as --image-size {min(64, *first, *second)}."
        )
    grey = all(header.grey for header in good)

    def read(split: str) -> Iterator[tuple[Any, int]]:
        labelled = [(file, k) for k, name in enumerate(class_names) for file in files[split][name]]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for start in range(0, len(labelled), _CHUNK):
                chunk = labelled[start : start + _CHUNK]
                images = pool.map(lambda pair: _decode(pair[0], grey, image_size), chunk)
                for (file, label), image in zip(chunk, images, strict=True):
                    if not isinstance(image, Exception):
                        yield image, label
                    elif broken == "stop":
                        raise UserError(_told(path, file, image))
                    else:
                        print(f"left out: {_reason(file, image)}", file=sys.stderr)

    stats = [(str(file), file.stat()) for file in every]
    return Source(
        name=root.resolve().name,
        class_names=class_names,
        counts={split: sum(map(len, of_class.values())) for split, of_class in files.items()},
        read=read,
        made_of=[image_size, test_fraction, broken, [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]],
    )


def _classes(path: str, folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, in order; hidden files and those of other kinds are left out."""
    kinds = PIL.Image.registered_extensions()
    classes = {}
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith("."):
            files = [file for file in sorted(each.rglob("*")) if file.suffix.lower() in kinds and file.is_file()]
            files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(each).parts)]
            require(bool(files), f"--dataset {path}: there is no image in '{each}'.")
            classes[each.name] = files
    return classes


def _split(path: str, classes: dict[str, list[Path]], test_fraction: float) -> dict[str, dict[str, list[Path]]]:
    files: dict[str, dict[str, list[Path]]] = {"train": {}, "test": {}}
    for name, paths in classes.items():
        require(len(paths) >= 2, f"--dataset {path}: class {name} needs two images or more, for training and test.")
        by_hash = sorted(paths, key=lambda file: hashlib.sha256(f"{name}/{file.name}".encode()).digest())
        count = min(len(paths) - 1, max(1, round(test_fraction * len(paths))))
        files["test"][name], files["train"][name] = sorted(by_hash[:count]), sorted(by_hash[count:])
    return files


def _header(file: Path) -> _Header | Exception:
    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(file) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # the orientation: a quarter turn, some of them mirrored
            return _Header((image.width, image.height) if turned else (image.height, image.width), image.mode in _GREY)
    except Exception as error:
        return error


def _decode(file: Path, grey: bool, size: int | None) -> Any:
    """The image, uint8 `[height, width, channels]`, or the exception that it raised."""
    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(file) as opened:
            image: Any = PIL.ImageOps.exif_transpose(opened)
            if image.mode.startswith(("I;16", "I")):
                values = np.asarray(image)
                image = PIL.Image.fromarray((values // 256 if values.max() > 255 else values).astype(np.uint8))
            array = np.asarray(image.convert("L" if grey else "RGB"))
        array = array.reshape(*array.shape[:2], -1)
        return array if size is None else resized(array, size)
    except Exception as error:
        return error


def _reason(file: Path, error: Any) -> str:
    text = str(error).replace(str(file), "it").splitlines() or [""]
    return f"'{os.fspath(file)}' ({type(error).__name__}: {text[0]})"


def _told(path: str, file: Path, error: Any) -> str:
    return f"--dataset {path}: {_reason(file, error)} cannot be read; go on without such: --broken-images skip."

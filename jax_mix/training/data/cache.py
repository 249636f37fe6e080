"""Decoded images on disk, so that a data set is decoded once; and read from there as memory is, a page at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from jax_mix.training.data.dataset import Dataset, Examples, Normalize, mean_and_std
from jax_mix.training.data.labels import are_several, as_kept, counts
from jax_mix.training.data.source import Source
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import as_name, expanded

_VERSION = 2  # of what is in a cache; another is decoded anew
_SUMMED = 2**32  # bytes of a file that are compared with its checksum at each start


def default_folder() -> Path:
    """`XDG_CACHE_HOME`/jax_mix, or ~/.cache/jax_mix."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jax_mix"


def place(source: Source, cache_dir: str | None, *made_of: Any) -> Path:
    """Where what is made of a source is kept; `made_of` is what else that depends on, as JSON can hold it."""
    parts = json.dumps([_VERSION, source.name, list(source.class_names), source.made_of, *made_of])
    digest = hashlib.sha256(parts.encode()).hexdigest()[:16]
    return (expanded(cache_dir) if cache_dir else default_folder()) / f"{as_name(source.name)}-{digest}"


def decoded(source: Source, cache_dir: str | None) -> Dataset:
    """The data set, from the cache if it is there; else it is decoded, and kept there if that can be written.

    Args:
      source: where it comes from.
      cache_dir: the folder of all caches; None: `default_folder()`.

    Raises:
      UserError: its images differ in size, its labels are not 0 to classes - 1, or a split is empty.
    """
    folder = place(source, cache_dir)
    everything = folder.parent
    if folder.is_dir():
        try:
            return _open(source, folder)
        except Exception as error:  # a changed byte may show as anything
            print(f"the cache '{folder}' is damaged ({error}): it is made anew", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
    try:
        everything.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(everything)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=everything))
    except OSError as error:
        return _without_cache(source, everything, error)
    try:
        dataset = _decode_all(source, temporary)
        normalize = [np.asarray(a).tolist() for a in (dataset.normalize.mean, dataset.normalize.std)]
        arrays = {path.name: _sum(path) for path in temporary.glob("*.npy")}
        about: dict[str, Any] = {"arrays": arrays, "mean_and_std": normalize, "found": source.found}
        about["sum"] = _sum_of_text(about)
        (temporary / "about.json").write_text(json.dumps(about))
        del dataset
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process has made it just now
                raise
        return _open(source, folder)
    except OSError as error:
        return _without_cache(source, everything, error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(everything: Path) -> None:
    """What killed processes were writing: hidden folders that nobody has touched for a day."""
    for left in everything.glob(".*-*.*"):
        if time.time() - left.stat().st_mtime > 24 * 3600:
            shutil.rmtree(left, ignore_errors=True)


def _without_cache(source: Source, folder: Path, error: OSError) -> Dataset:
    print(
        f"--cache-dir: decoded images cannot be kept in '{folder}' ({error.strerror or error}): going on without",
        file=sys.stderr,
    )
    return _decode_all(source, None)


def _open(source: Source, folder: Path) -> Dataset:
    about = json.loads((folder / "about.json").read_text())
    if about.pop("sum") != _sum_of_text(about):
        raise ValueError("about.json is not as it was written")
    for name, as_written in about["arrays"].items():
        if _sum(folder / name) != as_written:
            raise ValueError(f"{name} is not as it was written")
    splits = {}
    for split in source.counts:
        image = np.load(folder / f"{split}_image.npy", mmap_mode="r")
        splits[split] = Examples(image, np.load(folder / f"{split}_label.npy"))
    mean, std = (jnp.asarray(a, np.float32) for a in about["mean_and_std"])
    source.found[:] = about["found"]
    return Dataset(splits["train"], splits["test"], Normalize(mean, std), source.name, source.class_names)


def _sum(path: Path) -> list[int]:
    """The size of a file and the CRC-32 of its bytes; of a large one of those at its start, to start in seconds."""
    crc, left = 0, _SUMMED
    with path.open("rb") as file:
        while left > 0 and (part := file.read(min(left, 2**24))):
            crc, left = zlib.crc32(part, crc), left - len(part)
    return [path.stat().st_size, crc]


def _sum_of_text(about: Any) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _decode_all(source: Source, folder: Path | None) -> Dataset:
    source.found.clear()  # by a try before, say
    return _dataset(source, {split: _decode(source, split, folder) for split in source.counts})


def _dataset(source: Source, splits: dict[str, Examples]) -> Dataset:
    normalize = Normalize(*mean_and_std(splits["train"].image))
    return Dataset(splits["train"], splits["test"], normalize, source.name, source.class_names)


def _decode(source: Source, split: str, folder: Path | None) -> Examples:
    """All examples of a split, in memory, or with a `folder` as the files SPLIT_image.npy and SPLIT_label.npy in it."""
    name, n = source.name, source.counts[split]
    images: Any = None
    labels: Any = None
    read = 0
    with tqdm(total=n, desc=f"reading {name} {split}", unit="image", delay=1, leave=False) as bar:
        for image, label in source.read(split):
            if images is None:
                images = _empty(folder, f"{split}_image", (n, *image.shape))
                labels = np.empty((n, *np.shape(label)), np.result_type(label))
            if image.shape != images.shape[1:]:
                (height, width), (other_height, other_width) = images.shape[1:3], image.shape[:2]
                raise UserError(
                    f"--dataset {name} has images of several sizes, say {height}x{width} and "
                    f"{other_height}x{other_width} pixels: give one to resize them to, such as "
                    f"--image-size {_near(min(image.shape[:2]))}."
                )
            images[read], labels[read] = image, label
            read += 1
            bar.update()
    require(images is not None, f"--dataset {name} has no images in its split {split!r}.")
    labels = labels[:read]
    check_labels(source, split, labels)
    if read < n:  # some were broken, and left out
        shorter = _empty(folder, f"{split}_shorter", (read, *images.shape[1:]))
        shorter[:] = images[:read]
        if folder:
            os.replace(folder / f"{split}_shorter.npy", folder / f"{split}_image.npy")
        images = shorter
    if folder:
        images.flush()
        np.save(folder / f"{split}_label.npy", as_kept(labels))
    return Examples(images, as_kept(labels))


def check_labels(source: Source, split: str, labels: Any) -> None:
    """Raise `UserError` if a label is of no class, or the images that could not be read were all of a class."""
    name, classes = source.name, len(source.class_names)
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong) and not are_several(labels):
        raise UserError(
            f"--dataset {name} has the label {wrong[0]} in its split {split!r} ({len(wrong)} such labels); "
            f"with {classes} classes, labels are 0 to {classes - 1}."
        )
    if are_several(labels) and split == "test":
        return  # it need not have all
    if len(labels) < source.counts[split] and (empty := np.flatnonzero(counts(labels, classes) == 0)).size:
        raise UserError(
            f"--dataset {name} has no image of class {source.class_names[empty[0]]} that can be read "
            f"in its split {split!r}."
        )


def _empty(folder: Path | None, name: str, shape: tuple[int, ...]) -> Any:
    if folder is None:
        return np.empty(shape, np.uint8)
    size = int(np.prod(shape))
    free = shutil.disk_usage(folder).free
    if free < size:  # a memory map finds out when a page is written, and ends the process
        raise OSError(None, f"it needs {size / 2**30:.1f} GiB, {free / 2**30:.1f} are free")
    path = folder / f"{name}.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # another program may take what is free now
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _near(size: int) -> int:
    """A usual image size not far from `size`."""
    return min((28, 32, 64, 96, 128, 160, 224, 256), key=lambda usual: abs(usual - size))

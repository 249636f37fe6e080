"""A folder of images with a subfolder for each class."""

from __future__ import annotations

import concurrent.futures
import difflib
import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jax_mix.training.data import pixels
from jax_mix.training.data.hints import as_flag, is_archive, unpack
from jax_mix.training.data.layout import Files, SplitBy, lay_out
from jax_mix.training.data.listing import Listing, several
from jax_mix.training.data.source import Form, Source, identity, of_content
from jax_mix.training.data.splitting import split
from jax_mix.training.data.tables import Labels, labels_to_test, read_labels
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import expanded, printable

BrokenImages = Literal["stop", "skip"]
_DARK = 2**12  # 16-bit images below use 16 shades or less, as medical ones of 12 bits do
_LOOKED_AT = 256  # training images whose shades stand for those of all, where images stay encoded
_AT_ONCE = 2**28  # bytes of decoded images that wait for their turn


def open_folder(
    path: str,
    *,
    image_size: int | None,
    test_fraction: float | None,
    split_by: SplitBy | None,
    bits: int | None,
    broken: BrokenImages,
    table: str | None = None,
    label_delim: str | None = None,
) -> Source:
    """The images under `path`: train/CLASS/* and test/CLASS/* (or other words for these), or CLASS/* alone.

    With a table the folders say nothing, and their labels are those of the table: see `read_labels`.

    Without a folder for the test, each class gives its share, those whose paths have the lowest hashes: the same files
    give the same split anywhere.

    Args:
      path: a folder.
      image_size: to which images are resized, as `resized` does it; None: they must be of one size.
      test_fraction: of the images of each class, where there is no folder for the test; None: 0.2.
      split_by: what goes to training or the test as one: each "image", or all in a "folder" of a class; None: each
        image, but subfolders that could be classes are refused.
      bits: how many of a 16-bit image's values are used; None: all.
      broken: what to do about a file that cannot be decoded: "stop", or "skip" it and say so.
      table: a .csv file of the labels; None: they are the folders' names.
      label_delim: what stands between several labels of a file there; None: each has one.

    Raises:
      UserError: there is no such folder; it is not clear what is a class or a split in it; there are less than two
        classes, or no images in one; training and test have other classes; images of several sizes without
        `image_size`; a broken one, if so chosen; one whose pixels have 32 bits.

    Source: the layout of `torchvision.datasets.ImageFolder` and of TFDS's `ImageFolder`; images become RGB, or grey
    if all are; what is transparent becomes white.
    """
    root = _folder(path)
    listing = Listing(root)
    if table is None:
        labels = _labels_of_folders(path, root, listing, test_fraction, split_by)
    else:
        labels = read_labels(path, root, listing, table, label_delim, test_fraction)
    files, told = labels.files, list(labels.told)

    every = [file for of_split in files.values() for file in of_split]
    headers = _headers(path, root, every, broken)
    sizes = Counter(each.size for each in headers)
    if len(sizes) > 1 and image_size is None:
        (first, _), (second, _) = sizes.most_common(2)
        raise UserError(
            f"--dataset {path} has images of several sizes, say {first[0]}x{first[1]} and {second[0]}x{second[1]} "
            f"pixels: give one to resize them to, such as --image-size {min(64, *first, *second)}."
        )
    grey = all(each.grey for each in headers)
    deep = [each for each in headers if each.bits == 16]
    require(bool(deep) or bits is None, f"--bits is {bits}, but --dataset {path} has no images of 16 bits: drop it.")
    if deep:
        told.append(f"{several(len(deep), 'image')} of 16 bits: values of 0 to {2 ** (bits or 16) - 1} become 0 to 255")
    if masks := [each for each in every if re.search(r"[_-](mask|seg)(_\d+)?$", each.stem.lower())]:
        told.append(
            f"{several(len(masks), 'file')} called masks, as {listing.named(masks[:1])}, are images as all others"
        )
    if frames := sum(each.frames for each in headers):
        told.append(f"{several(frames, 'file')} with several images each, of which the first is used")

    found: list[str] = []

    def read(split: str) -> Iterator[tuple[Any, int]]:
        labelled = list(zip(files[split], labels.label[split], strict=True))
        decode = functools.partial(pixels.decode, grey=grey, size=image_size, bits=bits or 16)
        height, width = (image_size, image_size) if image_size else next(iter(sizes), (1, 1))
        many = max(1, min(256, _AT_ONCE // (3 * height * width)))
        top = 0
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for start in range(0, len(labelled), many):
                chunk = labelled[start : start + many]
                images = pool.map(decode, [file for file, _ in chunk])
                for (file, label), decoded in zip(chunk, images, strict=True):
                    if isinstance(decoded, pixels.Decoded):
                        top = max(top, decoded.top)
                        yield decoded.image, label
                    elif broken == "stop":
                        raise UserError(_cannot_be_read(path, root, file, decoded))
                    else:
                        found.append(f"left out: {pixels.reason(file, decoded)}")
        if split == "train":
            found.extend(told_of_shades(top))

    def told_of_shades(top: int) -> list[str]:
        if bits is not None or not 0 < top < _DARK:
            return []
        more = f"--bits {max(8, top.bit_length())} keeps more" if all(each.grey for each in deep) else "scale them"
        return [f"16-bit images reach {top} of 65535, which leaves {(top >> 8) + 1} of 256 shades: {more}."]

    def look() -> list[str]:
        some = files["train"][:: len(files["train"]) // _LOOKED_AT + 1] if deep else []
        decoded = [pixels.decode(file, grey=grey, size=None, bits=16) for file in some]
        return told_of_shades(max((each.top for each in decoded if isinstance(each, pixels.Decoded)), default=0))

    digest, content = _digests(root, labels)
    return Source(
        name=printable(root.resolve().name),
        class_names=labels.class_names,
        counts={split: len(of_split) for split, of_split in files.items()},
        read=read,
        made_of=[str(root.resolve()), image_size, bits, broken, digest],
        content=content,
        encoded=lambda split: _Encoded(root.absolute(), files[split], labels.label[split]),
        form=Form(grey, bits or 16),
        skips=broken == "skip",
        look=look,
        told=tuple(told),
        left_out=(*labels.left_out, *listing.left_out),
        found=found,
    )


class _Encoded:
    """`Encoded`: files below a folder, whose names take little memory, for there may be millions."""

    or_else = (
        ": put the file back as it was, and go on with --resume; or begin anew without such files, --broken-images skip"
    )

    def __init__(self, root: Path, files: list[Path], labels: Any) -> None:
        """
        Args:
          root: the folder.
          files: the images.
          labels: of each.
        """
        self._root = os.fsencode(root)
        self._names = np.array([os.fsencode(os.path.relpath(file, root)) for file in files])
        self._labels = labels

    def contents(self, index: Sequence[int]) -> list[bytes]:
        found = []
        for i in index:
            with open(self._path(i), "rb") as file:
                found.append(file.read())
        return found

    def labels(self) -> Any:
        return self._labels

    def name(self, number: int) -> str:
        return f"'{os.fsdecode(self._path(number))}'"

    def _path(self, number: int) -> bytes:
        return os.path.join(self._root, bytes(self._names[number]))


def labelled_images(path: str, table: str | None = None, label_delim: str | None = None) -> Labels:
    """All images under `path`, as "test", if that is CLASS/*; of train/CLASS/* and test/CLASS/* those of the test.

    With a table, those that it has, or has for the test.

    Raises:
      UserError: as `open_folder`, of folders and tables.
    """
    root = _folder(path)
    listing = Listing(root)
    if table is not None:
        labels = labels_to_test(path, root, listing, table, label_delim)
    else:
        layout = lay_out(path, root, listing, "image")
        files = layout.train if layout.test is None else layout.test
        labels = _labels({"test": files}, layout.told, layout.left_out)
    return labels._replace(left_out=[*labels.left_out, *listing.left_out])


def _labels_of_folders(
    path: str, root: Path, listing: Listing, test_fraction: float | None, split_by: SplitBy | None
) -> Labels:
    """Images whose labels are the names of their folders."""
    layout = lay_out(path, root, listing, split_by)
    train, test = layout.train, layout.test
    if test is None:
        train, test = split(path, root, layout.train, test_fraction or 0.2, by_folder=split_by == "folder")
    else:
        given = {"--split-by folder": split_by == "folder", f"--test-fraction {test_fraction}": test_fraction}
        for flag in (flag for flag, is_given in given.items() if is_given):
            raise UserError(f"--dataset {path} is split already, in folders: drop {flag}.")
    return _labels({"train": train, "test": test}, layout.told, layout.left_out)


def _labels(splits: dict[str, Files], told: list[str], left_out: list[str]) -> Labels:
    """Of the images of each class, in the order of its name."""
    names = sorted(next(iter(splits.values())))
    files = {which: [file for name in names for file in classes[name]] for which, classes in splits.items()}
    label = {
        which: np.repeat(np.arange(len(names)), [len(classes[name]) for name in names])
        for which, classes in splits.items()
    }
    return Labels(tuple(map(printable, names)), files, label, told, left_out)


def _folder(path: str) -> Path:
    """The folder of that path; what is none is told, and what can be done with it."""
    root = expanded(path)
    if root.is_file():
        how = unpack(root) if is_archive(root) else "give the folder that has a folder for each class in it"
        raise UserError(f"--dataset {path} is a file, not a folder: {how}.")
    if not root.is_dir():
        near = difflib.get_close_matches(root.name, _names(root.parent), 1)
        meant = f"; did you mean {as_flag(root.parent / near[0])}?" if near else "."
        raise UserError(f"--dataset {path}: there is no such folder{meant}")
    from jax_mix.training.data.tfds_sets import prepared_below  # here, as TFDS is slow to import

    if told := prepared_below(root):
        raise UserError(f"--dataset {path} {told}")
    return root


def _names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if each.is_dir()] if folder.is_dir() else []


def _headers(path: str, root: Path, files: list[Path], broken: BrokenImages) -> list[pixels.Header]:
    """Of all files that can be read; unless others are skipped, the first is told."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        headers = list(pool.map(pixels.header, files))
    for file, header in zip(files, headers, strict=True):
        if not isinstance(header, pixels.Header) and broken == "stop":
            raise UserError(_cannot_be_read(path, root, file, header))
    return [header for header in headers if isinstance(header, pixels.Header)]


def _cannot_be_read(path: str, root: Path, file: Path, error: Exception) -> str:
    if isinstance(error, pixels.WidePixels):
        how = f"say what black and white are, here 0 and {error.white}, and convert them, {error.how(root)}"
        return f"--dataset {path}: '{file}' cannot be used, {error}: {how}."
    return f"--dataset {path}: {pixels.reason(file, error)} cannot be read; go on without such: --broken-images skip."


def _digests(root: Path, labels: Labels) -> tuple[str, str]:
    """Others for other files, whatever their times say: a copy keeps them, and another disk may be mounted.

    The second one is the same for a copy in another place.
    """
    digest, content = hashlib.sha256(), hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for split, files in labels.files.items():
            of_files = zip(labels.label[split].tolist(), files, pool.map(identity, files), strict=True)
            for label, file, made_of in of_files:
                name = [split, label, os.fspath(file.relative_to(root))]
                digest.update(repr([*name, made_of]).encode())
                content.update(repr([*name, of_content(made_of)]).encode())
    return digest.hexdigest(), content.hexdigest()

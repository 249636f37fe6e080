"""A table that says what is on the images of a folder: one label a file, or several."""

from __future__ import annotations

import csv
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_mix.training.data.hints import LABELS
from jax_mix.training.data.labels import counts
from jax_mix.training.data.layout import split_of
from jax_mix.training.data.listing import Listing, several, some
from jax_mix.training.data.splitting import split
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import expanded, printable

_NO, _YES = ("0", "0.0", "false", "no"), ("1", "1.0", "true", "yes")
_TRAIN, _TEST, _LEFT_OUT = "train", "test", "left out"


class Labels(NamedTuple):
    """Images with what is on them, of the splits "train" and "test", or of one of them."""

    class_names: tuple[str, ...]
    files: dict[str, list[Path]]
    label: dict[str, Any]  # int64 `[n]`, or of several labels float32 `[n, classes]`
    told: list[str]  # how all that was understood
    left_out: list[str]  # what is not used


class _Row(NamedTuple):
    line: int
    cells: list[str]


class _Columns(NamedTuple):
    file: int
    label: list[int]  # one, or one for each class
    split: int | None
    told: str


class _Table:
    """Rows by file, read and checked; `where` begins sentences about it."""

    def __init__(self, path: str, root: Path, listing: Listing, table: str, delimiter: str | None) -> None:
        self.table, self.path, self.root, self.delimiter = table, path, root, delimiter
        self.where = f"--labels {table}"
        images = listing.images(root)
        require(bool(images), f"--dataset {path}: there is no image in '{root}'.")
        self._known = _names(root, images)
        self.header, rows = _read(table, self.where)
        self.columns = self._find_columns(rows)
        self.labels: dict[Path, frozenset[str]] = {}
        self.sides: dict[Path, str] = {}
        self._fill(rows)
        # One column of labels holds one each, unless a delimiter says that it holds several.
        self.several = bool(delimiter) or any(len(names) != 1 for names in self.labels.values())
        self.told = [self.columns.told]
        without = [image for image in images if image not in self.labels]
        self.left_out = [f"{several(len(without), 'image')} that '{table}' has not: {listing.named(without)}"]
        self.left_out *= bool(without)

    def labels_of(self, files: dict[str, list[Path]]) -> Labels:
        """The labels of all files, in their order; of one label a file, class by class."""
        names = sorted({name for each in self.labels.values() for name in each})
        if len(self.columns.label) > 1:
            names = [self.header[k] for k in self.columns.label]
        number = {name: k for k, name in enumerate(names)}
        if self.several:
            label: Any = {side: np.zeros((len(those), len(names)), np.float32) for side, those in files.items()}
            for side, those in files.items():
                for row, file in zip(label[side], those, strict=True):
                    row[[number[name] for name in self.labels[file]]] = 1
        else:
            numbers = {file: number[name] for file, (name,) in self.labels.items()}
            files = {side: sorted(those, key=lambda file: (numbers[file], file)) for side, those in files.items()}
            label = {side: np.array([numbers[file] for file in those], np.int64) for side, those in files.items()}
        return Labels(tuple(map(printable, names)), files, label, self.told, self.left_out)

    def _find_columns(self, rows: list[_Row]) -> _Columns:
        header = self.header
        found = [len({self._image(row.cells[k]) for row in rows} - {None}) for k in range(len(header))]
        file = max(range(len(header)), key=found.__getitem__)
        first = self._known[min(self._known)].relative_to(self.root).as_posix()
        require(
            found[file] > 0,
            f"{self.where}: no column has names of images in {self.path}, relative to that folder, such as {first!r}.",
        )
        require(
            self._image(header[file]) is None or "." not in header[file],
            f"{self.where}: its first line must name the columns, and has the image {header[file]!r}.",
        )
        lower = [name.lower() for name in header]
        splits = [k for k, name in enumerate(lower) if name in ("is_valid", "split") and k != file]
        require(len(splits) < 2, f"{self.where} has columns is_valid and split, which both say the split: drop one.")
        others = [k for k in range(len(header)) if k not in (file, *splits)]
        label = [k for word in LABELS for k in others if lower[k] == word][:1] or others
        flags = len(label) > 1 and all(row.cells[k].lower() in (*_NO, *_YES) for row in rows for k in label)
        names = [header[k] for k in label]
        require(
            len(label) == 1 or flags,
            f"{self.where}: which column has the labels, {some(names) or 'of which there is none'}? Call it label.",
        )
        require(
            not flags or self.delimiter is None,
            f"--label-delim is {self.delimiter!r}, but '{self.table}' has a column for each label, "
            f"{some(names)}: drop it, or call the column of labels label.",
        )
        what = f"labels in {names[0]!r}" if not flags else f"a label in each of {some(names)}"
        side = f", the split in {header[splits[0]]!r}" if splits else ""
        told = f"of '{self.table}' these columns are read: files in {header[file]!r}, {what}{side}"
        return _Columns(file, label, splits[0] if splits else None, told)

    def _fill(self, rows: list[_Row]) -> None:
        lost, unlike, empty = [], [], []
        for row in rows:
            file = self._image(row.cells[self.columns.file])
            if file is None:
                lost.append(row)
                continue
            found, side = self._labels(row), self._side(row)
            if file in self.labels and (found, side) != (self.labels[file], self.sides[file]):
                unlike.append(row)
            if not found and len(self.columns.label) == 1 and self.delimiter is None:
                empty.append(row)
            self.labels[file], self.sides[file] = found, side
        for wrong, what in (
            (lost, f"of no image in {self.path}, to which names are relative: take them out"),
            (unlike, "of a file that stands there already, with other labels or another split: keep one of them"),
            (empty, "without a label: take them out; or, if files have any number of labels, give --label-delim"),
        ):
            if wrong:
                first = f"the first in line {wrong[0].line}, {wrong[0].cells[self.columns.file]!r}"
                raise UserError(f"{self.where} has {several(len(wrong), 'row')}, {first}, {what}.")

    def _labels(self, row: _Row) -> frozenset[str]:
        cells = [row.cells[k] for k in self.columns.label]
        if len(cells) > 1:
            names = zip(self.columns.label, cells, strict=True)
            return frozenset(self.header[k] for k, cell in names if cell.lower() in _YES)
        given = cells[0].split(self.delimiter) if self.delimiter else cells
        return frozenset(name.strip() for name in given if name.strip())

    def _side(self, row: _Row) -> str:
        if self.columns.split is None:
            return _TRAIN
        cell, name = row.cells[self.columns.split], self.header[self.columns.split]
        if name.lower() == "is_valid":
            side = {**dict.fromkeys(_NO, _TRAIN), **dict.fromkeys(_YES, _TEST)}.get(cell.lower())
            words = "True or False, 1 or 0"
        else:
            role = split_of(cell)
            side, words = None if role is None else role.role, "train, test or valid"
        require(side is not None, f"{self.where}: {name!r} must be {words}, got {cell!r} in line {row.line}.")
        return str(side)

    def _image(self, name: str) -> Path | None:
        if os.path.isabs(name):
            name = os.path.relpath(name, self.root.absolute())
        return self._known.get(unicodedata.normalize("NFC", posixpath.normpath(name))) if name else None


def read_labels(
    path: str, root: Path, listing: Listing, table: str, delimiter: str | None, test_fraction: float | None
) -> Labels:
    """The images below a folder with the labels of a table: a header, a column of files, relative to the folder, and
    one of labels, or one of 0 and 1 for each class; a column is_valid or split says which are for the test.

    Without such a column the files of the lowest hashes go to the test: of each class, or of several labels, of all.

    Args:
      path: of the folder, as it was given.
      root: the folder.
      listing: looks into folders, and gathers what is left out.
      table: a .csv file.
      delimiter: what stands between a file's labels; None: a file has one.
      test_fraction: of the images, where there is no such column; None: 0.2.

    Raises:
      UserError: the table cannot be read; rows are of no image, or unlike for the same one, or have no label; there
        are less than two classes; a class is in only one of training and test; no file has several labels, or none,
        with a delimiter.
    """
    found = _Table(path, root, listing, table, delimiter)
    every = sorted(found.labels)
    if found.columns.split is None:
        files = dict(zip((_TRAIN, _TEST), _drawn(found, every, test_fraction or 0.2), strict=True))
    else:
        require(test_fraction is None, f"{found.where} says the split: drop --test-fraction {test_fraction}.")
        files = _given(found, every)
    labels = found.labels_of(files)
    _check(found, labels)
    return labels


def labels_to_test(path: str, root: Path, listing: Listing, table: str, delimiter: str | None) -> Labels:
    """All images below a folder that a table has, or those that it has for the test, where it says so; as "test".

    Raises:
      UserError: as `read_labels`, of the table.
    """
    found = _Table(path, root, listing, table, delimiter)
    every = sorted(found.labels)
    labels = found.labels_of({_TEST: every if found.columns.split is None else _given(found, every)[_TEST]})
    _require_tested(found, labels)
    return labels


def _given(found: _Table, every: list[Path]) -> dict[str, list[Path]]:
    """Files by the split that the table says; the test is "test", else "val"."""
    sides = Counter(found.sides.values())
    test = _TEST if sides[_TEST] else "val"
    for side, count in {_TRAIN: sides[_TRAIN], _TEST: sides[test]}.items():
        require(count > 0, f"{found.where} has no file for {'the test' if side == _TEST else 'training'}.")
    if test == _TEST and sides["val"]:
        found.left_out.append(f"{several(sides['val'], 'image')} of the validation, as there is a test")
    return {side: [file for file in every if found.sides[file] == of] for side, of in ((_TRAIN, _TRAIN), (_TEST, test))}


def _drawn(found: _Table, every: list[Path], fraction: float) -> tuple[list[Path], list[Path]]:
    """Files for training, and for the test."""
    classes: dict[str, list[Path]] = {}
    for file in every:
        classes.setdefault("" if found.several else min(found.labels[file]), []).append(file)
    if rare := sorted(name for name, those in classes.items() if len(those) < 2):
        hint = "" if found.delimiter else "; if files have several labels, say what is between them: --label-delim ' '"
        what = f"{several(len(rare), 'label')} of a single file, {some(rare)}"
        raise UserError(f"{found.where} has {what}, and each needs two, for training and test{hint}.")
    train, test = split(found.path, found.root, classes, fraction, by_folder=False, flat=True)
    return [file for those in train.values() for file in those], [file for those in test.values() for file in those]


def _check(found: _Table, labels: Labels) -> None:
    names = labels.class_names
    require(bool(names), f"{found.where}: no file has a label.")
    require(len(names) > 1 or found.several, f"{found.where} needs two or more different labels, got {names[0]}.")
    require(
        found.delimiter is None or any(len(each) != 1 for each in found.labels.values()),
        f"--label-delim is {found.delimiter!r}, but each file has one label, such as {names[0]!r}: give another, or "
        "drop it.",
    )
    has = {side: counts(label, len(names)) > 0 for side, label in labels.label.items()}
    unlearned = [name for name, there in zip(names, has[_TRAIN], strict=True) if not there]
    untested = [name for name, there in zip(names, has[_TEST], strict=True) if not there]
    require(not unlearned, f"{found.where}: no training image is labelled {some(unlearned)}.")
    _require_tested(found, labels)
    if found.several and untested:  # they are many, and some are rare
        labels.told.append(f"no test image is labelled {some(untested)}: what is measured of labels is without")
    else:
        require(not untested, f"{found.where}: no test image is labelled {some(untested)}.")


def _require_tested(found: _Table, labels: Labels) -> None:
    """Refuse that no test image has any label: nothing could be measured."""
    label = labels.label[_TEST]
    require(bool(counts(label, len(labels.class_names)).any()), f"{found.where}: no test image has a label.")


def _names(root: Path, images: Sequence[Path]) -> dict[str, Path]:
    """Images by their paths below the folder, and without their endings where that is of one alone."""
    whole = {unicodedata.normalize("NFC", image.relative_to(root).as_posix()): image for image in images}
    stems = Counter(posixpath.splitext(name)[0] for name in whole)
    short = {stem: image for name, image in whole.items() if stems[stem := posixpath.splitext(name)[0]] == 1}
    return short | whole


def _read(table: str, where: str) -> tuple[list[str], list[_Row]]:
    """The header and the rows of a table, whose cells are separated by commas, semicolons or tabs."""
    try:
        with expanded(table).open(encoding="utf-8-sig", newline="") as opened:
            delimiter = max(",;\t", key=opened.readline().count)
            opened.seek(0)
            reader = csv.reader(opened, delimiter=delimiter, strict=True)
            rows = [_Row(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{where} cannot be read as a table ({getattr(error, 'strerror', None) or error}).") from error
    require(len(rows) > 1, f"{where} must have a line that names its columns, and a line for each file.")
    header = rows[0].cells
    again = [name for name, count in Counter(header).items() if count > 1]
    require(not again, f"{where} has two columns called {some([repr(name) for name in again])}.")
    require(len(header) > 1, f"{where} has one column, {header[0]!r}, and needs two: of files, and of their labels.")
    wrong = next((row for row in rows if len(row.cells) != len(header)), None)
    if wrong is not None:
        told = f"{several(len(wrong.cells), 'cell')} in line {wrong.line}, and its first line has {len(header)}"
        raise UserError(f"{where} has {told}: quote a cell that holds {delimiter!r}.")
    return header, rows[1:]

"""What to do with images that do not lie in a folder for each class: a sentence with a command that works."""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_LABELS = ("label", "labels", "class", "classname", "category", "target", "species", "breed", "diagnosis", "kind", "dx")
LABELS = (*_LABELS, "tag", "tags")
_ROWS = 200  # of a table, to see what its columns are
# The start of a file's name, before its number: cat of cat.0.jpg. In Python's and the reader's words alike.
_PREFIX = "[^0-9]*[^0-9._ (-]"
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz")  # which Python unpacks


def as_flag(path: Path) -> str:
    """The path as `--dataset` knows it for one: ./photos.

    >>> as_flag(Path("photos/train")), as_flag(Path("/data/my photos"))
    ('./photos/train', "'/data/my photos'")
    """
    text = path.as_posix()
    return shlex.quote(text if text.startswith((".", "/")) or path.is_absolute() else f"./{text}")


def python_command(code: str) -> str:
    """A line for the shell that runs `code`."""
    return f'python -c "{code}"' if not set('"$`\\!') & set(code) else f"python -c {shlex.quote(code)}"


def hint(path: str, root: Path, images: Mapping[Path, Sequence[Path]]) -> str:
    """How to sort images into folders of classes, by a table or by what their names start with; "" if neither helps.

    Args:
      path: as it was given.
      root: the folder.
      images: those directly in folders.
    """
    if table := table_in(root, images.values()):
        return f"'{table.file.name}' says what is on them: {table.command(root)}"
    for folder, files in images.items():
        starts = Counter(match[0] for file in files if (match := re.match(_PREFIX, file.name)))
        if 2 <= len(starts) <= len(files) / 2 and starts.total() == len(files):
            some = " and ".join(f"{start}..." for start in list(starts)[:2])
            return f"if the names of images, {some}, say what is on them: {_sort_by_name(root, folder, files)}"
    for file in sorted(root.iterdir()):
        if is_archive(file) and not any(images.values()):
            return unpack(file)
    return ""


def is_archive(file: Path) -> bool:
    """Whether a file is one of many files, by its ending."""
    return file.suffix.lower() in _ARCHIVES


def unpack(archive: Path) -> str:
    """How to unpack an archive and train on what is in it."""
    folder = archive.with_name(archive.name.split(".")[0] or "unpacked")
    here, there = shlex.quote(str(archive)), shlex.quote(str(folder))
    how = "python -m zipfile -e" if archive.suffix.lower() == ".zip" else "python -m tarfile -e"
    return f"unpack it, {how} {here} {there} and give --dataset {as_flag(folder)} instead"


class Table(NamedTuple):
    """A table that tells the classes of images: a .csv file with a column of their names."""

    file: Path
    delimiter: str
    image: str  # the columns' names
    label: str
    folder: Path  # where the images are, there or below
    ending: str  # which names in the table lack

    def command(self, root: Path) -> str:
        """What copies the images into a folder for each class, and how to train on them."""
        out = _beside(root)
        key = f"pathlib.PurePath(r[{self.image!r}]).name" + (f" + {self.ending!r}" if self.ending else "")
        code = (
            f"import csv, pathlib, shutil; "
            f"files = {{f.name: f for f in pathlib.Path({str(self.folder)!r}).rglob('*')}}; "
            f"rows = csv.DictReader(open({str(self.file)!r}, encoding='utf-8-sig'), delimiter={self.delimiter!r}); "
            f"[((d := pathlib.Path({str(out)!r}) / r[{self.label!r}].replace('/', '-')).mkdir(parents=True, "
            f"exist_ok=True), shutil.copy(files[{key}], d)) for r in rows if {key} in files]"
        )
        return f"{python_command(code)} and then --dataset {as_flag(out)} instead"


def table_in(root: Path, images: Iterable[Sequence[Path]]) -> Table | None:
    """The table in a folder that names its images and gives them two labels or more, None if there is none."""
    by_name = {file.name: file for files in images for file in files}
    by_stem = {file.stem: file for file in by_name.values()}
    files = [file for file in root.iterdir() if file.suffix.lower() in (".csv", ".tsv") and file.is_file()]
    files = [file for file in files if "submission" not in file.stem.lower()]  # what is to be predicted
    for file in sorted(files, key=lambda file: ("train" not in file.stem.lower(), file.name)) if by_name else ():
        try:
            with file.open(encoding="utf-8-sig", newline="") as opened:
                first = opened.readline()
                delimiter = max(",;\t", key=first.count)
                opened.seek(0)
                rows = [row for row, _ in zip(csv.DictReader(opened, delimiter=delimiter), range(_ROWS), strict=False)]
        except (OSError, UnicodeError, csv.Error):
            continue
        columns = [name for name in (rows[0] if rows else ()) if name]
        for name in columns:
            values = [os.path.basename(row[name] or "") for row in rows]
            for known, with_ending in ((by_name, True), (by_stem, False)):
                found = [known[value] for value in values if value in known]
                label = _label(rows, [other for other in columns if other != name])
                if found and label:
                    folders = {each.parent for each in found}
                    folder = folders.pop() if len(folders) == 1 else root
                    ending = "" if with_ending else found[0].suffix
                    return Table(file, delimiter, name, label, folder, ending)
    return None


def _label(rows: list[dict[str, str]], columns: list[str]) -> str | None:
    """The column that looks like labels: by its name, or as there is no other and its values come again; else None."""
    kinds = {name: len({row[name] for row in rows}) for name in columns}
    columns = [name for name in columns if kinds[name] > 1]
    exact = [name for wanted in _LABELS for name in columns if name.lower() == wanted]
    word = r"(?<![a-z]){}s?(?![a-z])"
    within = [name for wanted in _LABELS for name in columns if re.search(word.format(wanted), name.lower())]
    if exact or within:
        return (exact or within)[0]
    return columns[0] if len(columns) == 1 and kinds[columns[0]] <= len(rows) / 2 else None


def _sort_by_name(root: Path, folder: Path, files: Sequence[Path]) -> str:
    out, endings = _beside(root), sorted({file.suffix for file in files})
    code = (
        f"import pathlib, re, shutil; [((d := pathlib.Path({str(out)!r}) / re.match({_PREFIX!r}, f.name)[0])"
        f".mkdir(parents=True, exist_ok=True), shutil.copy(f, d)) "
        f"for f in pathlib.Path({str(folder)!r}).iterdir() if f.suffix in {endings!r}]"
    )
    return f"{python_command(code)} and then --dataset {as_flag(out)} instead"


def _beside(root: Path) -> Path:
    named = root if root.name not in ("", "..") else root.resolve()
    return named.with_name(f"{named.name}-by-class")

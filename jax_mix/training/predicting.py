"""`python train.py predict`: what the network of a run says of images."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tyro.conf import Positional

from jax_mix.training.checks import Count
from jax_mix.training.command_line import parse_options
from jax_mix.training.data import BrokenImages
from jax_mix.training.data.listing import Listing
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import check_writable, expanded, printable, write_atomically
from jax_mix.training.reading import read_images
from jax_mix.training.trained import load_run

_DESCRIPTION = """Tell what is on images, by the network of a finished run.

python train.py predict runs/digits-manifold-0 photo.jpg folder/

python train.py predict runs/digits-manifold-0 folder/ --out predictions.csv --top 1
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is predicted, and how it is told."""

    run: Positional[str] = ""  # the folder of a finished run
    images: Positional[tuple[str, ...]] = ()  # files of images, and folders: of these all images, also in those below
    format: Literal["table", "csv", "json"] | None = None  # None: as --out ends; else a table
    best: bool = False  # take the best epoch, of a run with --keep-best, not the last
    out: str | None = None  # file to write to; None: it is printed
    # how many classes of each image, the most probable first; None: 3, or all where an image has any number of labels
    top: Count | None = None
    batch_size: Count = 100  # images at once
    broken_images: BrokenImages = "stop"  # at a file that is no image: stop, or name it and go on


class _Predicted(NamedTuple):
    """Of an image: its name, classes with their probabilities, and where it has any number of labels, these."""

    image: str
    classes: list[tuple[str, float]]
    labels: list[str] | None  # those above 0.5


def main(args: Sequence[str]) -> None:
    """`python train.py predict`, with what stands after it."""
    options = parse_options(args, Options, _DESCRIPTION)
    usage = "python train.py predict runs/NAME photo.jpg folder/"
    require(bool(options.run), f"predict needs the folder of a run, and images: {usage}.")
    require(bool(options.images), f"predict needs images, or folders of them: {usage}.")
    out = None if options.out is None else expanded(options.out)
    if out is not None:  # a wrong one is found before all is read
        require(not out.is_dir(), f"--out: '{out}' is a folder: give a file.")
        check_writable(out.parent)
        require(out.parent.is_dir(), f"--out: there is no folder '{out.parent}'.")
    trained = load_run(options.run, best=options.best)
    files = find_images(options.images)
    names, task = trained.class_names, trained.task
    top = options.top or (len(names) if task.several else 3)
    predicted: list[_Predicted] = []
    for numbers, images in read_images(trained, files, batch_size=options.batch_size, broken=options.broken_images):
        probabilities = np.asarray(task.of_logits(trained.logits(images, batch_size=options.batch_size)))
        for i, row in zip(numbers, probabilities, strict=True):
            order = np.argsort(-row, kind="stable")
            labels = [names[k] for k in order if row[k] > 0.5] if task.several else None
            classes = [(names[k], float(row[k])) for k in order[:top]]
            predicted.append(_Predicted(printable(str(files[i])), classes, labels))
    require(bool(predicted), "none of the files could be read as an image.")
    text = _TEXTS[options.format or _by_ending(out)](predicted)
    if out is None:
        print(text, end="")
    else:
        with write_atomically(out) as temporary:
            temporary.write_text(text)
        print(f"wrote {out}")


def find_images(names: Sequence[str]) -> list[Path]:
    """The files of those names, and all images below the folders among them; stderr tells what else is in these.

    Raises:
      UserError: there is no such file, or no image in a folder.
    """
    files: list[Path] = []
    for name in names:
        path = expanded(name)
        if not path.is_dir():
            require(path.exists(), f"there is no file or folder '{name}'.")
            files.append(path)
            continue
        listing = Listing(path)
        found = listing.images(path)
        left_out = "; ".join(listing.left_out)
        if not found:
            raise UserError(
                f"there is no image in the folder '{name}'{f' (left out: {left_out})' if left_out else ''}."
            )
        if left_out:
            print(f"left out in '{name}': {left_out}", file=sys.stderr)
        files += found
    return files


def _by_ending(out: Path | None) -> str:
    ending = "" if out is None else out.suffix.lower().removeprefix(".")
    return ending if ending in _TEXTS else "table"


def _table(predicted: list[_Predicted]) -> str:
    wide = max(len(each.image) for each in predicted)
    lines = []
    for image, classes, labels in predicted:
        told = "  ".join(f"{class_name} {probability:.2%}" for class_name, probability in classes)
        lines.append(f"{image:<{wide}}  " + ("" if labels is None else f"[{', '.join(labels)}]  ") + told)
    return "".join(f"{line}\n" for line in lines)


def _csv(predicted: list[_Predicted]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    columns = range(1, 1 + max(len(each.classes) for each in predicted))
    has_labels = ["labels"] * (predicted[0].labels is not None)
    rows.writerow(["image", *has_labels, *(f"{what}_{i}" for i in columns for what in ("class", "probability"))])
    for image, classes, labels in predicted:
        rows.writerow(
            [image, *([] if labels is None else [";".join(labels)]), *(each for pair in classes for each in pair)]
        )
    return text.getvalue()


def _json(predicted: list[_Predicted]) -> str:
    records = [
        {"image": image}
        | ({} if labels is None else {"labels": labels})
        | {"classes": [{"class": class_name, "probability": p} for class_name, p in classes]}
        for image, classes, labels in predicted
    ]
    return json.dumps(records, indent=2, ensure_ascii=False) + "\n"


_TEXTS = {"table": _table, "csv": _csv, "json": _json}

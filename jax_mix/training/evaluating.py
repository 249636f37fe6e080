"""`python train.py evaluate`: how good the network of a run is, on its own test images or on others."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tyro.conf import Positional

from jax_mix._checks import suggest
from jax_mix.training import cropping, data, tasks
from jax_mix.training.build import load, told_data
from jax_mix.training.checks import Count
from jax_mix.training.command_line import parse, parse_options
from jax_mix.training.config import Config
from jax_mix.training.confusion import confusion_matrix, write_confusion
from jax_mix.training.data.folder import labelled_images
from jax_mix.training.errors import UserError, require
from jax_mix.training.evaluation import measure
from jax_mix.training.files import as_file_name, check_writable, expanded, write_json
from jax_mix.training.reading import read_images
from jax_mix.training.trained import Trained, load_run

_DESCRIPTION = """Measure the network of a finished run: accuracy, NLL and calibration error, each class, and which is taken for which.

python train.py evaluate runs/digits-manifold-0: on the test images of the run.

python train.py evaluate runs/photos-cutmix-0 --dataset ./others: on a folder with a subfolder for each class.
"""  # noqa: E501
_SHOWN = 50  # classes that are printed


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured, and where it is written."""

    run: Positional[str] = ""  # the folder of a finished run
    # a folder of images, ./photos: its test, or all if it is not split; or a TFDS set, of which the test; None: the
    # run's own test images
    dataset: str | None = None
    data_dir: str | None = None  # TFDS's folder; None: that of the run, TFDS_DATA_DIR or ~/tensorflow_datasets
    cache_dir: str | None = None  # where decoded images are kept; None: ~/.cache/jax_mix
    best: bool = False  # take the best epoch, of a run with --keep-best, not the last
    out: str | None = None  # folder for results; None: evaluation/DATASET in the run's
    batch_size: Count = 500  # images at once
    # a table, .csv, of the files of --dataset and their labels; None: a folder has a folder for each class
    labels: str | None = None
    label_delim: str | None = None  # what stands between several labels of a file there; None: each has one
    broken_images: data.BrokenImages = "stop"  # at a folder's image that cannot be decoded: stop, or name it and go on


def main(args: Sequence[str]) -> None:
    """`python train.py evaluate`, with what stands after it."""
    options = parse_options(args, Options, _DESCRIPTION)
    require(bool(options.run), "evaluate needs the folder of a run: python train.py evaluate runs/NAME.")
    run = expanded(options.run)
    trained = load_run(run, best=options.best)
    config = parse(["--config", str(run / "config.json")], Config)
    name = options.dataset or config.dataset
    default = run / "evaluation" / as_file_name(name)
    folder = default if options.out is None else expanded(options.out)
    check_writable(folder)
    logits, labels = [], []
    for image, label in _batches(trained, config, options):
        logits.append(trained.logits(image, batch_size=options.batch_size))
        labels.append(label)
    require(bool(labels), f"--dataset {name} has no image that can be read.")
    all_logits, all_labels = np.concatenate(logits), np.concatenate(labels)
    task = trained.task
    found = measure(all_logits, all_labels) | task.details(all_logits, all_labels, trained.class_names)
    print(f"{len(all_labels)} images: {task.in_words(found)}")
    print(_by_class(found["per_class"]))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", {"dataset": name, "images": len(all_labels), **found})
    if not task.several:
        confusion = confusion_matrix(all_logits, all_labels)
        write_confusion(folder, confusion, trained.class_names, title=f"{run.name} on {name}")
    print(f"wrote {folder}")


def _batches(trained: Trained, config: Config, options: Options) -> Iterator[tuple[Any, Any]]:
    """Images as the network takes them, and their labels by its own numbers."""
    name, table = options.dataset, options.labels
    for flag, value in {"labels": table, "label-delim": options.label_delim}.items():
        told = f"--{flag} is {value!r}, of a folder's images: give --dataset ./photos too."
        require(value is None or (name is not None and data.is_folder(name)), told)
    require(table is not None or options.label_delim is None, "--label-delim needs a table: give --labels FILE.csv.")
    if name is None or (table is None and _same(name, config.dataset)):
        data_dir, cache_dir = options.data_dir or config.data_dir, options.cache_dir or config.cache_dir
        config = dataclasses.replace(config, data_dir=data_dir, cache_dir=cache_dir)
        dataset = load(config)
        if told_data(config, dataset) != trained.about.dataset:
            print("the images or labels are not those that the run was made with: they have changed", file=sys.stderr)
        yield from _of_set(trained, config.dataset, dataset, options)
    elif data.is_folder(name):
        yield from _of_folder(trained, name, options)
    else:
        rows, columns, _ = trained.image_shape
        side, data_dir = rows if rows == columns else None, options.data_dir or config.data_dir
        crops = cropping.of(config)
        dataset = data.load(name, data_dir, image_size=side, cache_dir=options.cache_dir, cropping=crops)
        yield from _of_set(trained, name, dataset, options)


def _of_set(trained: Trained, name: str, dataset: data.Dataset, options: Options) -> Iterator[tuple[Any, Any]]:
    image, label = dataset.test
    labels = _as_of_run(trained, name, dataset.class_names, label)
    require(
        image.shape[3] == trained.image_shape[2],
        f"--dataset {name} has images of {image.shape[3]} channels, and the run was trained on images of "
        f"{trained.image_shape[2]}.",
    )
    for start in range(0, len(label), options.batch_size):
        some = slice(start, start + options.batch_size)
        ready = image[some] if isinstance(image, data.Photographs) else trained.preprocess(np.asarray(image[some]))
        yield ready, labels[some]


def _of_folder(trained: Trained, name: str, options: Options) -> Iterator[tuple[Any, Any]]:
    images = labelled_images(name, options.labels, options.label_delim)
    for line in images.told:
        print(line)
    for line in images.left_out:
        print(f"left out: {line}", file=sys.stderr)
    files, labels = images.files["test"], _as_of_run(trained, name, images.class_names, images.label["test"])
    for which, image in read_images(trained, files, batch_size=options.batch_size, broken=options.broken_images):
        yield image, labels[which]


def _as_of_run(trained: Trained, name: str, class_names: Sequence[str], label: Any) -> Any:
    """Labels of a data set as the run has them: its numbers of classes, int32 `[n]`, or its columns of labels."""
    for each in class_names:
        if each not in trained.class_names:
            raise UserError(
                f"--dataset {name} has the class {each!r}, which the run has not: {suggest(each, trained.class_names)}"
            )
    one, several = "an image is of one class", "an image has any number of labels"
    of_run, of_data = (several if task.several else one for task in (trained.task, tasks.of(label)))
    require(
        of_run == of_data,
        f"--dataset {name}: in the run {of_run}, in these data {of_data}: give its --labels, with --label-delim where "
        "a file has several.",
    )
    numbers = np.array([trained.class_names.index(each) for each in class_names], np.int32)
    if of_run == one:
        return numbers[np.asarray(label)]
    labels = np.zeros((len(label), len(trained.class_names)), np.float32)
    labels[:, numbers] = label
    return labels


def _same(name: str, other: str) -> bool:
    """Whether two names are of the same data set, or folder."""
    folders = data.is_folder(name) and data.is_folder(other)
    return name == other or (folders and expanded(name).resolve() == expanded(other).resolve())


def _by_class(records: Sequence[dict[str, Any]]) -> str:
    wide = max(len("class"), *(len(record["class"]) for record in records[:_SHOWN]))
    measured = next(name for name in records[0] if name not in ("class", "images"))
    what = measured.replace("_", " ")
    lines = [f"{'class':<{wide}}  images  {what}"]
    for record in records[:_SHOWN]:
        value = "" if record[measured] is None else f"{record[measured]:.2%}"
        lines.append(f"{record['class']:<{wide}}  {record['images']:>6}  {value:>{len(what)}}")
    more = [f"... and {len(records) - _SHOWN} more, in evaluation.json"] if len(records) > _SHOWN else []
    return "\n".join(lines + more)

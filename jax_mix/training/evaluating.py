"""`python train.py evaluate`: how good the network of a run is, on its own test images or on others."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tyro.conf import Positional

from jax_mix._checks import suggest
from jax_mix.training import cropping, data
from jax_mix.training.build import load, told_data
from jax_mix.training.checks import Count
from jax_mix.training.command_line import parse, parse_options
from jax_mix.training.config import Config
from jax_mix.training.confusion import confusion_matrix, in_words, summary, write_confusion
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
    confusion = confusion_matrix(all_logits, all_labels)
    found = measure(all_logits, all_labels) | summary(confusion, trained.class_names)
    print(f"{len(all_labels)} images: {in_words(found)}")
    print(_by_class(found["per_class"]))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", {"dataset": name, "images": len(all_labels), **found})
    write_confusion(folder, confusion, trained.class_names, title=f"{run.name} on {name}")
    print(f"wrote {folder}")


def _batches(trained: Trained, config: Config, options: Options) -> Iterator[tuple[Any, Any]]:
    """Images as the network takes them, and their labels by its own numbers."""
    name = options.dataset
    if name is None or _same(name, config.dataset):
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
    numbers = _numbers(trained, name, dataset.class_names)
    image, label = dataset.test
    require(
        image.shape[3] == trained.image_shape[2],
        f"--dataset {name} has images of {image.shape[3]} channels, and the run was trained on images of "
        f"{trained.image_shape[2]}.",
    )
    for start in range(0, len(label), options.batch_size):
        some = slice(start, start + options.batch_size)
        ready = image[some] if isinstance(image, data.Photographs) else trained.preprocess(np.asarray(image[some]))
        yield ready, numbers[np.asarray(label[some])]


def _of_folder(trained: Trained, name: str, options: Options) -> Iterator[tuple[Any, Any]]:
    images = labelled_images(name)
    for line in images.told:
        print(line)
    for line in images.left_out:
        print(f"left out: {line}", file=sys.stderr)
    numbers = _numbers(trained, name, list(images.files))
    files = [file for of_class in images.files.values() for file in of_class]
    labels = np.repeat(numbers, [len(of_class) for of_class in images.files.values()])
    for which, image in read_images(trained, files, batch_size=options.batch_size, broken=options.broken_images):
        yield image, labels[which]


def _numbers(trained: Trained, name: str, class_names: Sequence[str]) -> Any:
    """Of each class of a data set its number in the run, int32 `[classes]`."""
    for each in class_names:
        if each not in trained.class_names:
            raise UserError(
                f"--dataset {name} has the class {each!r}, which the run has not: {suggest(each, trained.class_names)}"
            )
    return np.array([trained.class_names.index(each) for each in class_names], np.int32)


def _same(name: str, other: str) -> bool:
    """Whether two names are of the same data set, or folder."""
    folders = data.is_folder(name) and data.is_folder(other)
    return name == other or (folders and expanded(name).resolve() == expanded(other).resolve())


def _by_class(records: Sequence[dict[str, Any]]) -> str:
    wide = max(len("class"), *(len(record["class"]) for record in records[:_SHOWN]))
    lines = [f"{'class':<{wide}}  images  accuracy"]
    for record in records[:_SHOWN]:
        accuracy = "" if record["accuracy"] is None else f"{record['accuracy']:.2%}"
        lines.append(f"{record['class']:<{wide}}  {record['images']:>6}  {accuracy:>8}")
    more = [f"... and {len(records) - _SHOWN} more, in evaluation.json"] if len(records) > _SHOWN else []
    return "\n".join(lines + more)

"""Image-classification sets of TFDS in array_record form, read without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm.auto import tqdm

from jax_mix._checks import suggest
from jax_mix.training.data.digits import Digits
from jax_mix.training.data.source import Form, Source, identity, of_content, resized
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import expanded

_DEPTHS = ("", "*/", "*/*/", "*/*/*/")  # a version may lie in the folder of a set, and that in one of all sets
_CHUNK = 500  # how many examples are decoded at once


def open_set(name: str, data_dir: str | None, image_size: int | None) -> Source:
    """A set of TFDS in `data_dir`. The digits are prepared there if need be; no other set is, nor downloaded.

    Args:
      name: "digits", or a set as TFDS names it: "fashion_mnist", "mnist:3.0.1", "imagenet_resized/32x32".
      data_dir: TFDS's folder; None is TFDS's default, `TFDS_DATA_DIR` or ~/tensorflow_datasets.
      image_size: to which images are resized, as `resized` does it; None: not.

    Returns:
      The splits "train" and "test", or "validation" where there is no "test".

    Raises:
      UserError: the set is unknown or not prepared; it lacks uint8 images, class labels or a split.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS would recommend OpenCV, which is not needed
    folder = expanded(data_dir or str(tfds.core.constants.get_default_data_dir()))
    with _whole(name, folder):
        builder = _digits(folder) if name == "digits" else _prepared(name, folder)
        features, splits = builder.info.features, builder.info.splits
    image_key = _feature(name, features, "image", tfds.features.Image)
    label_key = _feature(name, features, "label", tfds.features.ClassLabel)
    dtype = np.dtype(features[image_key].np_dtype)  # .dtype would ask TensorFlow
    require(dtype == np.uint8, f"--dataset {name} has images of {dtype}; only uint8 can be used.")
    test = "test" if "test" in splits else "validation"
    require("train" in splits, f"--dataset {name} has no split 'train', only {', '.join(splits)}.")
    require(test in splits, f"--dataset {name} has no split 'test' or 'validation', only {', '.join(splits)}.")

    def read(split: str) -> Iterator[tuple[Any, int]]:
        with _whole(name, folder):
            source = builder.as_data_source(split={"train": "train", "test": test}[split])
        for start in range(0, len(source), _CHUNK):
            with _whole(name, folder):
                examples = source.__getitems__(range(start, min(start + _CHUNK, len(source))))
            for example in examples:
                image = example[image_key]
                yield image if image_size is None else resized(image, image_size), example[label_key]

    files = sorted(path for path in Path(builder.data_path).iterdir() if path.is_file())
    known = [(path.name, identity(path)) for path in files]
    return Source(
        name=name,
        class_names=tuple(features[label_key].names),
        counts={"train": splits["train"].num_examples, "test": splits[test].num_examples},
        read=read,
        made_of=[image_size, str(Path(builder.data_path).resolve()), [[each, *known_by] for each, known_by in known]],
        content=json.dumps([[each, *of_content(known_by)] for each, known_by in known if "record" in each]),
        encoded=lambda split: _Encoded(
            name, folder, builder, {"train": "train", "test": test}[split], image_key, label_key
        ),
        form=Form(grey=features[image_key].shape[-1] == 1),
        left_out=tuple(f"the split {split!r}" for split in splits if split not in ("train", test)),
    )


class _Encoded:
    """`Encoded`: the records of a split."""

    or_else = ""

    def __init__(self, name: str, folder: Path, builder: Any, split: str, image_key: str, label_key: str) -> None:
        self._name, self._folder, self._split = name, folder, split
        self._keys = image_key, label_key
        with _whole(name, folder):
            decoders = {image_key: tfds.decode.SkipDecoding()}
            self._records = builder.as_data_source(split=split, decoders=decoders)

    def contents(self, index: Sequence[int]) -> list[bytes]:
        with _whole(self._name, self._folder):
            return [example[self._keys[0]] for example in self._records.__getitems__(list(index))]

    def labels(self) -> Any:
        n, label_key = len(self._records), self._keys[1]
        labels = np.empty(n, np.int64)
        for start in tqdm(range(0, n, _CHUNK), desc=f"reading {self._name} {self._split}", delay=1, leave=False):
            some = range(start, min(start + _CHUNK, n))
            with _whole(self._name, self._folder):
                labels[start : some.stop] = [each[label_key] for each in self._records.__getitems__(some)]
        return labels

    def name(self, number: int) -> str:
        return f"image {number} of the split {self._split!r}"


@contextlib.contextmanager
def _whole(name: str, folder: Path) -> Iterator[None]:
    """Whatever is raised in the body, as the files of a set are not what TFDS wrote, is told in a sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise UserError(
            f"--dataset {name}: its files in '{folder}' are damaged, or not those of an image set "
            f"({type(error).__name__}: {what}): delete them and prepare it once more, {_build(name, folder)}"
        ) from error


def _require_own_features(version: Path) -> None:
    """Refuse features that are not TFDS's own: it would import whatever module the file names."""

    def classes(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (str(each) for key, each in value.items() if key == "pythonClassName")
            for each in value.values():
                yield from classes(each)

    for each in classes(json.loads((version / "features.json").read_text())):
        own = each.startswith("tensorflow_datasets.core.features.")
        require(own, f"--dataset: '{version / 'features.json'}' names {each!r}, which is no feature of TFDS: not read.")


def _digits(folder: Path) -> Any:
    try:
        builder = Digits(data_dir=folder, file_format="array_record")
        if not builder.is_prepared():
            tfds.disable_progress_bar()
            with contextlib.redirect_stdout(io.StringIO()):  # it would speak of a download
                builder.download_and_prepare()
    except OSError as error:
        if not _folders("digits", folder):  # else another process has prepared them just now
            raise UserError(
                f"--data-dir: cannot prepare the digits in '{folder}' ({error.strerror or error}): "
                "give a folder that can be written."
            ) from error
    return Digits(data_dir=folder, file_format="array_record")


def _prepared(name: str, folder: Path) -> Any:
    """The builder of a set that lies in `folder`. TFDS's own search for one would also ask the network, for minutes."""
    how = _build(name, folder)
    if found := _folders(name, folder):
        configs = sorted({str(path.parent.relative_to(folder)) for path in found})
        require(len(configs) == 1, f"--dataset {name} has several configurations, name one: {suggest(name, configs)}")
        latest = max(found, key=lambda path: _version(path) or [])
        _require_own_features(latest)
        builder = tfds.builder_from_directory(latest)
        formats = sorted(file_format.value for file_format in builder.info.available_file_formats())
        require(
            "array_record" in formats, f"--dataset {name} in '{folder}' {_converted(latest, formats, name, folder)}"
        )
        return builder
    known = tfds.list_builders(with_community_datasets=False)
    here = f" or, if the folder of that name is meant, give --dataset ./{name}" if Path(name).is_dir() else ""
    in_tfds = re.split("[:/]", name)[0] in known
    require(not in_tfds, f"--dataset {name} is not prepared in '{folder}' (--data-dir): do that once, {how}{here}")
    require(
        not here, f"--dataset {name!r} is no set of TFDS; if the folder of that name is meant, give --dataset ./{name}"
    )
    there = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    names = sorted({"digits", *known, *there} - {"downloads"})
    raise UserError(
        f"--dataset {name!r} is neither known to TFDS nor in '{folder}' (--data-dir): {suggest(name, names)}"
    )


def prepared_below(folder: Path) -> str | None:
    """What to say of a folder that holds prepared sets, and no images: how to name one. None if it holds none."""
    found = [each.parent for depth in _DEPTHS for each in sorted(folder.glob(f"{depth}dataset_info.json"))]
    if not found:
        shards = next(folder.glob("*.tfrecord*"), None)
        if shards is None:
            return None
        return (
            f"holds files in tfrecord form, '{shards.name}', without the dataset_info.json that says what is in them: "
            "write their images into a folder for each class, or prepare them as a set of TFDS."
        )
    version = max(found, key=lambda path: _version(path) or [])
    try:
        info = json.loads((version / "dataset_info.json").read_text())
        name = "/".join(part for part in (info["name"], info.get("configName")) if part)
    except (OSError, ValueError, KeyError, TypeError) as error:
        file = version / "dataset_info.json"
        return f"holds a set of TFDS whose '{file}' is damaged ({error}): prepare it once more."
    data_dir = version.resolve().parents[name.count("/") + 1]
    give = f"--dataset {name}:{info['version']} --data-dir {shlex.quote(str(data_dir))}"
    formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())]
    if "array_record" in formats:
        return f"holds a set of TFDS: give {give}"
    return f"holds a set of TFDS that {_converted(version, formats, name, data_dir)} and then give {give}"


def _converted(version: Path, formats: list[str], name: str, folder: Path) -> str:
    """How to come to a set in array_record form from one that is prepared in others."""
    convert = f"convert it, python -m jax_mix.training.data.tfrecord {shlex.quote(str(version))} or " * (
        "tfrecord" in formats
    )
    return (
        f"is stored as {' and '.join(formats)}, not as array_record, which alone is read without TensorFlow: {convert}"
        f"prepare it once more, in another folder, {_build(name, folder.with_name(f'{folder.name}-array-record'))}"
    )


def _build(name: str, folder: Path) -> str:
    return (
        f"pip install tensorflow-cpu && tfds build {name} --file_format=array_record "
        f"--data_dir={shlex.quote(str(folder))}"
    )


def _folders(name: str, folder: Path) -> list[Path]:
    """All prepared versions of a set: its name/config:version is name/config/version on disk."""
    parts = re.split("[:/]", name)
    if not all(re.fullmatch(r"\w[\w.+-]*", part) for part in parts):
        return []
    found = [path.parent for depth in _DEPTHS for path in folder.joinpath(*parts).glob(depth + "features.json")]
    return [path for path in found if _version(path)]


def _version(folder: Path) -> list[int] | None:
    """That which a folder is named after; None: it is named after something else."""
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", folder.name)
    return [int(number) for number in match.groups()] if match else None


def _feature(name: str, features: Any, key: str, kind: type) -> str:
    """The feature of that kind: the one called `key`, else the only one."""
    kinds = {k: type(feature).__name__ for k, feature in sorted(dict(features).items())}
    found = [k for k in kinds if isinstance(features[k], kind)]
    if key not in found and len(found) != 1:
        has = ", ".join(f"{k} ({kinds[k]})" for k in kinds)
        raise UserError(
            f"--dataset {name} needs one feature of type {kind.__name__}, or {key!r} among several; it has {has}."
        )
    return key if key in found else found[0]

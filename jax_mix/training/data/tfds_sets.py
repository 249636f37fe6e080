"""Image-classification sets of TFDS in array_record form, read without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jax_mix._checks import suggest
from jax_mix.training.data.digits import Digits
from jax_mix.training.data.source import Source, resized
from jax_mix.training.errors import UserError, require

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
    folder = Path(data_dir or tfds.core.constants.get_default_data_dir()).expanduser()
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
        source = builder.as_data_source(split={"train": "train", "test": test}[split])
        for start in range(0, len(source), _CHUNK):
            for example in source.__getitems__(range(start, min(start + _CHUNK, len(source)))):
                image = example[image_key]
                yield image if image_size is None else resized(image, image_size), example[label_key]

    files = sorted(path for path in Path(builder.data_path).iterdir() if path.is_file())
    return Source(
        name=name,
        class_names=tuple(features[label_key].names),
        counts={"train": splits["train"].num_examples, "test": splits[test].num_examples},
        read=read,
        made_of=[[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files] + [image_size],
        small=name == "digits",
    )


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
    how = f"pip install tensorflow-cpu && tfds build {name} --file_format=array_record --data_dir={folder}"
    if found := _folders(name, folder):
        configs = sorted({str(path.parent.relative_to(folder)) for path in found})
        require(len(configs) == 1, f"--dataset {name} has several configurations, name one: {suggest(name, configs)}")
        latest = max(found, key=lambda path: [int(number) for number in path.name.split(".")])
        builder = tfds.builder_from_directory(latest)
        formats = sorted(file_format.value for file_format in builder.info.available_file_formats())
        require(
            "array_record" in formats,
            f"--dataset {name} in '{folder}' is stored as {' and '.join(formats)}, not as array_record, "
            f"which alone is read without TensorFlow: prepare it once more, in another folder, {how}",
        )
        return builder
    known = tfds.list_builders(with_community_datasets=False)
    in_tfds = re.split("[:/]", name)[0] in known
    require(not in_tfds, f"--dataset {name} is not prepared in '{folder}' (--data-dir): do that once, {how}")
    require(
        not Path(name).is_dir(),
        f"--dataset {name!r} is no set of TFDS; if the folder of that name is meant, give './{name}'.",
    )
    there = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    names = sorted({"digits", *known, *there} - {"downloads"})
    raise UserError(
        f"--dataset {name!r} is neither known to TFDS nor in '{folder}' (--data-dir): {suggest(name, names)}"
    )


def _folders(name: str, folder: Path) -> list[Path]:
    """All prepared versions of a set: its name/config:version is name/config/version on disk."""
    parts = re.split("[:/]", name)
    if not all(re.fullmatch(r"\w[\w.+-]*", part) for part in parts):
        return []
    depths = ("", "*/", "*/*/")
    found = [path.parent for depth in depths for path in folder.joinpath(*parts).glob(depth + "features.json")]
    return [path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]


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

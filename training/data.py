"""Image-classification data: a TFDS set in array_record form, read without TensorFlow, kept on the device as uint8."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from tqdm.auto import tqdm

from jax_mix._checks import suggest
from training.digits import Digits
from training.errors import UserError, require

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key, UInt8

_CHUNK = 500  # how many examples are decoded at once


class Examples(NamedTuple):
    """One split: `image` uint8 `[n, height, width, channels]` and `label` int32 `[n]`."""

    image: UInt8[Array, "n height width channels"]
    label: Int[Array, " n"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normalize:
    """uint8 images to float32 ones; the training images get mean 0 and standard deviation 1 in each channel.

    A pytree, so a jitted step takes it as it is.

    Attributes:
      mean, std: float32 `[channels]`, of the training images.
    """

    mean: Float[Array, " channels"]
    std: Float[Array, " channels"]

    def __call__(
        self, image: UInt8[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        return (image.astype(jnp.float32) - self.mean[None, None, None]) / self.std[None, None, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set on the device: a pytree, so a jitted step takes it as it is.

    Attributes:
      train, test: its two splits.
      normalize: for a network to take its images.
      name: what TFDS calls it.
      class_names: one for each class.
    """

    train: Examples
    test: Examples
    normalize: Normalize
    name: str = dataclasses.field(metadata={"static": True})
    class_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def __str__(self) -> str:
        size = "x".join(map(str, self.train.image.shape[1:]))
        counts = f"{len(self.train.label)} training and {len(self.test.label)} test images of {size}"
        return f"{self.name}: {counts}, {len(self.class_names)} classes"


def load(name: str, data_dir: str | None = None) -> Dataset:
    """Read a data set from `data_dir`. The digits are prepared there if need be; no other set is, nor downloaded.

    Args:
      name: "digits", or a set as TFDS names it: "fashion_mnist", "mnist:3.0.1", "imagenet_resized/32x32".
      data_dir: TFDS's folder; None is TFDS's default, `TFDS_DATA_DIR` or ~/tensorflow_datasets.

    Returns:
      A `Dataset` of the splits "train" and "test", or "validation" where there is no "test".

    Raises:
      UserError: the set is unknown or not prepared; it lacks uint8 images, class labels or a split; its images
        differ in size; its labels are not 0 to classes - 1.
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

    class_names = tuple(features[label_key].names)
    train_examples = _read(name, builder, "train", image_key, label_key, len(class_names))
    test_examples = _read(name, builder, test, image_key, label_key, len(class_names))
    normalize = Normalize(*_mean_and_std(train_examples.image))
    dataset = Dataset(train_examples, test_examples, normalize, name, class_names)
    return jax.device_put(dataset)


def epoch_batches(key: Key[Array, ""], epoch: int, n: int, batch_size: int) -> Int[Array, "steps batch"]:
    """The indices of an epoch's batches, int32 `[steps, batch]`: a permutation of `n`, less what fills no batch.

    It depends on key and epoch alone. It lies on the host, where a loop over it costs nothing.
    """
    order: Any = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), n))
    return order[: n - n % batch_size].reshape(-1, batch_size)


def random_shift(
    key: Key[Array, ""], image: UInt8[Array, "batch height width channels"]
) -> UInt8[Array, "batch height width channels"]:
    """Move each image by up to an eighth of its size, at least a pixel, each way; black comes in at the border."""
    n, height, width, channels = image.shape
    reach = max(1, min(height, width) // 8)
    padded = jnp.pad(image, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    corner = jax.random.randint(key, (n, 2), 0, 2 * reach + 1, jnp.int32)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), (height, width, channels))

    return jax.vmap(crop)(padded, corner)


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


def _read(name: str, builder: Any, split: str, image_key: str, label_key: str, num_classes: int) -> Examples:
    source = builder.as_data_source(split=split)
    images: Any = None
    labels: Any = np.empty(len(source), np.int64)
    with tqdm(total=len(source), desc=f"reading {name} {split}", unit="image", delay=1, leave=False) as bar:
        for start in range(0, len(source), _CHUNK):
            for i, example in enumerate(source.__getitems__(range(start, min(start + _CHUNK, len(source)))), start):
                image = example[image_key]
                if images is None:
                    images = np.empty((len(source), *image.shape), np.uint8)
                sizes = f"{images.shape[1:]} and {image.shape}"
                require(image.shape == images.shape[1:], f"--dataset {name} has images of several sizes, say {sizes}.")
                images[i], labels[i] = image, example[label_key]
                bar.update()
    require(images is not None, f"--dataset {name} has no images in its split {split!r}.")
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UserError(
            f"--dataset {name} has the label {wrong[0]} in its split {split!r} ({len(wrong)} such labels); "
            f"with {num_classes} classes, labels are 0 to {num_classes - 1}."
        )
    return Examples(images, labels.astype(np.int32))


def _mean_and_std(image: Any) -> tuple[Any, Any]:
    """Of each channel, float32 `[channels]`; from whole numbers, so exact, and without a copy of all images."""
    n = image[..., 0].size
    mean = image.sum(axis=(0, 1, 2), dtype=np.int64) / n
    variance = np.einsum("nhwc,nhwc->c", image, image, dtype=np.int64) / n - mean**2
    std = np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1)  # a constant channel stays constant
    return mean.astype(np.float32), std.astype(np.float32)

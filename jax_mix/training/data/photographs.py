"""Images of any size that stay encoded: each is read, decoded and cropped when its batch comes."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from jax_mix.training.data.cache import check_labels, place
from jax_mix.training.data.crops import Cropping, central_image, random_image
from jax_mix.training.data.dataset import Dataset, Examples, Normalize, mean_and_std
from jax_mix.training.data.encoded import Picture
from jax_mix.training.data.labels import as_kept
from jax_mix.training.data.source import Encoded, Form, Source
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import write_npz

if TYPE_CHECKING:
    from jaxtyping import UInt8

_MEASURED = 4096  # training images, at most, whose mean and deviation are taken for those of all
_CHUNK = 256  # images that are decoded at once


class Photographs:
    """Images of a split, as an array `[n, size, size, channels]` of uint8 that is made where it is asked for.

    An index gives test images: scaled, and their middle. `for_training` gives a step's.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, dataset: str, encoded: Encoded, index: Any, form: Form, cropping: Cropping) -> None:
        """
        Args:
          dataset: what it is called.
          encoded: the images of the split.
          index: which of them these are, by number.
          form: what their pixels become.
          cropping: what is done to them.
        """
        self._dataset, self._encoded, self._index = dataset, encoded, index
        self._form, self._cropping = form, cropping

    @property
    def shape(self) -> tuple[int, int, int, int]:
        side = self._cropping.size
        return len(self._index), side, side, self._form.channels

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: Any) -> UInt8[np.ndarray, "n size size channels"]:
        """Test images, decoded in threads, by a slice or whole numbers `[n]`."""
        with concurrent.futures.ThreadPoolExecutor(_threads()) as pool:
            made = list(pool.map(self._test_image, np.arange(len(self))[index].tolist()))
        return np.stack(made) if made else np.zeros((0, *self.shape[1:]), np.uint8)

    def take(self, index: Any) -> Photographs:
        """Those of these numbers."""
        return Photographs(self._dataset, self._encoded, self._index[index], self._form, self._cropping)

    def filled_with(self, mean: Any) -> Photographs:
        """The same, but that erased boxes show that colour."""
        fill = tuple(int(value) for value in np.clip(np.rint(mean), 0, 255))
        cropping = dataclasses.replace(self._cropping, fill=fill)
        return Photographs(self._dataset, self._encoded, self._index, self._form, cropping)

    def for_training(
        self, index: Sequence[int], seed: bytes, step: int, rows: range
    ) -> UInt8[np.ndarray, "rows size size channels"]:
        """Rows of a step's batch, a function of seed, step and row: of no other row, nor of who else makes some.

        Args:
          index: which image each is.
          seed: of the run.
          step: counted from 0 over all epochs.
          rows: which rows of the batch they are.

        Raises:
          UserError: an image cannot be read; it is named.
        """
        made = np.empty((len(index), *self.shape[1:]), np.uint8)
        for place_, (i, row) in enumerate(zip(index, rows, strict=True)):
            # Philox counts, in 256 bits: steps and rows are so far apart that no two draw the same numbers.
            rng = np.random.Generator(np.random.Philox(key=_philox_key(seed), counter=[0, 0, row, step]))
            made[place_] = self._made(i, functools.partial(random_image, cropping=self._cropping, rng=rng))
        return made

    def _test_image(self, i: int) -> Any:
        return self._made(i, functools.partial(central_image, cropping=self._cropping))

    def _made(self, i: int, make: Callable[..., Any]) -> Any:
        number = int(self._index[i])
        try:
            (content,) = self._encoded.contents([number])
            return make(content, form=self._form)
        except UserError:
            raise
        except Exception as error:
            told = f"--dataset {self._dataset}: {_reason(self._encoded, number, error)} cannot be read"
            raise UserError(f"{told}{self._encoded.or_else}.") from error


@functools.lru_cache(maxsize=2)
def _philox_key(seed: bytes) -> Any:
    return np.random.SeedSequence(list(seed)).generate_state(2, np.uint64)


def first_batch(examples: Examples, count: int, seed: bytes) -> Examples:
    """The first training images, on the host, to be shown; photographs as in the first step."""
    image: Any
    label: Any
    image, label = examples
    if isinstance(image, Photographs):
        made: Any = image.for_training(range(count), seed, 0, range(count))
    else:
        made = np.asarray(image[:count])
    return Examples(made, label[:count])


def open_photographs(source: Source, cropping: Cropping, cache_dir: str | None) -> Dataset:
    """The data set of encoded images.

    What takes long to find out is kept, as decoded images are: labels that stand beside images in their files, which
    images can be read, where others are left out, and the mean and deviation of training images.

    Args:
      source: where they come from.
      cropping: what is done to them.
      cache_dir: the folder of all caches; None: `default_folder()`.

    Raises:
      UserError: labels are not 0 to classes - 1, or a split is empty, or an image cannot be read.
    """
    kept = place(source, cache_dir, "encoded", cropping.size, cropping.test_crop)
    path = kept.with_name(f"{kept.name}.npz")
    known = _read(path, source)
    encoded = {split: source.encoded(split) for split in source.counts}
    if known is None:
        found = {split: _survey(source, split, encoded[split]) for split in source.counts}
    else:
        found = {split: (known[f"{split}_index"], known[f"{split}_label"]) for split in source.counts}
        source.found[:] = known["found"].tolist()
    splits = {}
    for split, (index, label) in found.items():
        require(len(index) > 0, f"--dataset {source.name} has no images in its split {split!r}.")
        image: Any = Photographs(source.name, encoded[split], index, source.form, cropping)
        splits[split] = Examples(image, label)
    if known is None:
        normalize = measured(splits["train"].image)
        source.found.extend(source.look())
        arrays = {
            f"{split}_{name}": a for split in found for name, a in zip(("index", "label"), found[split], strict=True)
        }
        _write(path, arrays | {"mean": normalize.mean, "std": normalize.std, "found": np.array(source.found, str)})
    else:
        normalize = Normalize(jnp.asarray(known["mean"]), jnp.asarray(known["std"]))
    return Dataset(splits["train"], splits["test"], normalize, source.name, source.class_names, content=source.content)


def measured(image: Any) -> Normalize:
    """By which training images get mean 0 and deviation 1; of many photographs, those of 4,096 drawn at random."""
    if not isinstance(image, Photographs):
        return Normalize(*map(jnp.asarray, mean_and_std(image)))
    n = len(image)
    if n > _MEASURED:
        image = image.take(np.sort(np.random.default_rng(0).permutation(n)[:_MEASURED]))
    return Normalize(*map(jnp.asarray, mean_and_std(image, chunk=_CHUNK)))


def with_mean_erased(dataset: Dataset) -> Dataset:
    """The set, whose erased boxes are 0 to its network: they show the mean that it normalises by."""
    image: Any = dataset.train.image
    filled: Any = image.filled_with(dataset.normalize.mean) if isinstance(image, Photographs) else image
    return dataclasses.replace(dataset, train=dataset.train._replace(image=filled))


def _survey(source: Source, split: str, encoded: Encoded) -> tuple[Any, Any]:
    """Which images of a split are used, int64 `[n]`, and their labels as they are kept."""
    labels = encoded.labels()
    index = np.arange(len(labels))
    if source.skips:
        errors: list[Exception | None] = []
        said = {"desc": f"looking at {source.name} {split}", "unit": "image", "delay": 1, "leave": False}
        with concurrent.futures.ThreadPoolExecutor(_threads()) as pool, tqdm(total=len(index), **said) as bar:
            for some in np.array_split(index, len(index) // _CHUNK + 1):
                errors += pool.map(functools.partial(_error_of, encoded, source.form), some.tolist())
                bar.update(len(some))
        source.found.extend(f"left out: {_reason(encoded, i, each)}" for i, each in enumerate(errors) if each)
        index = index[[each is None for each in errors]]
    check_labels(source, split, labels[index])
    return index, as_kept(labels[index])


def _error_of(encoded: Encoded, form: Form, number: int) -> Exception | None:
    try:
        Picture(encoded.contents([number])[0], form).pixels()
    except Exception as error:
        return error
    return None


def _reason(encoded: Encoded, number: int, error: Exception) -> str:
    text = re.sub(r" <_io.BytesIO object at \w+>", "", str(getattr(error, "strerror", None) or error))
    return f"{encoded.name(number)} ({type(error).__name__}: {(text.splitlines() or [''])[0]})"


def _threads() -> int:
    return min(32, os.cpu_count() or 1)


def _read(path: Path, source: Source) -> Any:
    """What is kept of a source; None: nothing, or it is damaged."""
    names = [f"{split}_{name}" for split in source.counts for name in ("index", "label")]
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # its parts have checksums
            return {name: arrays[name] for name in (*names, "mean", "std", "found")}
    except FileNotFoundError:
        return None
    except Exception as error:  # a changed byte may show as anything
        print(f"the cache '{path}' is damaged ({error}): it is made anew", file=sys.stderr)
        return None


def _write(path: Path, arrays: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(path, arrays)
    except OSError as error:
        told = f"--cache-dir: what is known of the images cannot be kept in '{path.parent}'"
        print(f"{told} ({error.strerror or error}): going on without", file=sys.stderr)

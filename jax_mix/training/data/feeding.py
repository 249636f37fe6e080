"""Batches of training images, on the devices: gathered there, or read by Grain's worker processes."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from jax_mix.training.data.dataset import Examples
from jax_mix.training.data.photographs import Photographs
from jax_mix.training.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Array, Int, Key

FeedName = Literal["auto", "device", "grain"]
# Of a device's memory, how much the images may take; where JAX does not know it, as on CPU, of 8 GiB.
_SHARE, _UNKNOWN_MEMORY = 0.25, 8 * 2**30
_MOST_THREADS = 16  # that decode photographs; each has a batch in memory


@dataclasses.dataclass(frozen=True, eq=False)  # compared as an object, which it is cached by
class Balanced:
    """Draws images, of each class that there is about as many: a class, then one of its images; any may come again.

    Attributes:
      label: of all images, int `[n]`, on the host.

    Source: `torch.utils.data.WeightedRandomSampler`, with weights of 1 / images of the class.
    """

    label: Any

    @functools.cached_property
    def _classes(self) -> tuple[Any, Any, Any]:
        """The images class by class; where each class begins there; and how many it has."""
        _, counts = np.unique(self.label, return_counts=True)
        return np.argsort(self.label, kind="stable"), np.cumsum(counts) - counts, counts

    def draw(self, key: Key[Array, ""], n: int) -> Int[np.ndarray, " n"]:
        """The numbers of `n` images, a function of `key` alone."""
        images, starts, counts = self._classes
        class_key, image_key = jax.random.split(key)
        drawn = np.asarray(jax.random.randint(class_key, (n,), 0, len(counts), jnp.int32))
        within = np.asarray(jax.random.randint(image_key, (n,), 0, jnp.asarray(counts[drawn], jnp.int32), jnp.int32))
        return images[starts[drawn] + within]

    def __str__(self) -> str:
        count = self._classes[2].tolist()
        times = len(self.label) / len(count)
        return (
            f"balanced: an epoch has about {times:.0f} images of each of {len(count)} classes: one of the smallest, of "
            f"{min(count)}, comes about {times / min(count):.2g} times, one of the largest, of {max(count)}, about "
            f"{times / max(count):.2g} times"
        )


def epoch_batches(
    key: Key[Array, ""], epoch: int, n: int, batch_size: int, sampler: Balanced | None = None
) -> Int[Array, "steps batch"]:
    """The indices of an epoch's batches, int32 `[steps, batch]`: a permutation of `n`, less what fills no batch.

    With a `sampler` they are what it draws. They depend on key, epoch and the labels in that alone. They lie on the
    host, where a loop over them costs nothing.
    """
    epoch_key = jax.random.fold_in(key, epoch)
    order: Any = np.asarray(jax.random.permutation(epoch_key, n)) if sampler is None else sampler.draw(epoch_key, n)
    return order[: n - n % batch_size].reshape(-1, batch_size)


def batches(
    examples: Examples,
    key: Key[Array, ""],
    batch_size: int,
    *,
    start: int,
    stop: int,
    sharding: NamedSharding,
    feed: FeedName = "auto",
    workers: int = 0,
    sampler: Balanced | None = None,
) -> Generator[Examples]:
    """The batches of the steps `start` to `stop`, counted from 0 over all epochs, as arrays on the devices.

    Batch `s` is a function of `key` and `s` alone: that of `epoch_batches`, whatever the feed. With several processes
    every process calls this, and reads no more than its own part of each batch from a feed of "grain".

    Args:
      examples: training images and labels, on the host.
      key: of the order, and of what is done to photographs.
      batch_size: of all devices together.
      start, stop: steps.
      sharding: of a batch over the devices: its first axis is split.
      feed: "device": all images are kept on each device, and gathered there; "grain": they are read from the host as
        they are needed, as photographs always are; "auto": "device" if they take no more than a quarter of a device's
        memory.
      workers: processes that read for "grain"; 0: threads of this one.
      sampler: what draws the images; None: each comes once in an epoch.

    Yields:
      Batches: images uint8 `[batch_size, height, width, channels]`, labels int32 `[batch_size]`.

    Raises:
      UserError: the images do not fit on a device; a worker process failed.
    """
    if feed == "auto":
        stays = isinstance(examples.image, Photographs) or examples.image.nbytes > _limit(sharding)
        feed = "grain" if stays else "device"
    steps = _Steps(examples, key, batch_size, stop, jax.process_index(), jax.process_count(), sampler)
    if feed == "device":
        yield from _from_device(steps, start, sharding)
    else:
        yield from _from_grain(steps, start, sharding, workers)


def from_host(array: Any, sharding: NamedSharding) -> Any:
    """An array that every process has in full, put on the devices, each its part."""
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def rows_from_host(array: Any, index: Any, sharding: NamedSharding) -> Any:
    """Those rows of an array, on the devices; each process reads no more than its own devices have."""
    shape = (len(index), *array.shape[1:])
    return jax.make_array_from_callback(shape, sharding, lambda part: np.asarray(array[index[cast(Any, part)[0]]]))


def _limit(sharding: NamedSharding) -> float:
    stats = jax.local_devices()[0].memory_stats() or {}
    return _SHARE * stats.get("bytes_limit", _UNKNOWN_MEMORY)


@functools.lru_cache(maxsize=2)
def _order(key_data: bytes, epoch: int, n: int, batch_size: int, sampler: Balanced | None) -> Any:
    key = jax.random.wrap_key_data(jnp.asarray(np.frombuffer(key_data, np.uint32)))
    return epoch_batches(key, epoch, n, batch_size, sampler)


def _from_device(steps: _Steps, start: int, sharding: NamedSharding) -> Iterator[Examples]:
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    try:
        kept = Examples(*(from_host(array, everywhere) for array in steps.examples))
    except jax.errors.JaxRuntimeError as error:
        size = f"{steps.examples.image.nbytes / 2**30:.1f} GiB"
        raise UserError(f"--feed device: {size} of images do not fit on a device: use --feed grain.") from error

    @functools.partial(jax.jit, out_shardings=sharding)
    def gather(kept: Examples, index: Any) -> Examples:
        return Examples(*(array[index] for array in kept))

    for step in range(start, len(steps)):
        yield gather(kept, from_host(steps.index(step), sharding))


class _Steps:
    """The batches of a whole run by step, as this process's part of each: what Grain calls a random-access source."""

    def __init__(
        self,
        examples: Examples,
        key: Any,
        batch_size: int,
        stop: int,
        process: int,
        processes: int,
        sampler: Balanced | None = None,
    ) -> None:
        self.examples, self._stop, self._batch_size, self._sampler = examples, stop, batch_size, sampler
        self._key_data = np.asarray(jax.random.key_data(key)).tobytes()
        part = batch_size // processes
        self._rows = slice(process * part, (process + 1) * part)

    def __len__(self) -> int:
        return self._stop

    def index(self, step: int) -> Int[Array, " batch"]:
        """Which images a batch has, of all processes."""
        n = len(self.examples.label)
        epoch, within = divmod(step, n // self._batch_size)
        return _order(self._key_data, epoch + 1, n, self._batch_size, self._sampler)[within]

    def __getitem__(self, step: int) -> tuple[Any, Any]:
        image, label = self.examples
        index = self.index(step)[self._rows]
        if isinstance(image, Photographs):
            rows = range(self._rows.start, self._rows.stop)
            return image.for_training(index, self._key_data, step, rows), label[index]
        return image[index], label[index]

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process, which opens the file of images anew: pickled, it would be read in full."""
        image = self.examples.image
        file = (image.filename, image.offset, image.shape) if isinstance(image, np.memmap) else None
        examples = self.examples if file is None else self.examples._replace(image=None)
        return vars(self) | {"examples": examples, "_file": file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        file = state.pop("_file")
        vars(self).update(state)
        if file:
            name, offset, shape = file
            image: Any = np.memmap(name, np.uint8, "r", offset, shape)
            self.examples = self.examples._replace(image=image)


def _start_worker(worker: int, workers: int) -> None:
    jax.config.update("jax_platforms", "cpu")  # the accelerators are the main process's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of a terminal's; the main process ends the others


def _from_grain(steps: _Steps, start: int, sharding: NamedSharding, workers: int) -> Iterator[Examples]:
    import grain  # slow to import, and rarely needed

    threads, ahead = 4, 8
    if isinstance(steps.examples.image, Photographs):  # decoding takes all of a core, which a worker is meant to be
        threads = ahead = 1 if workers else min(_MOST_THREADS, os.cpu_count() or 1)
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    dataset = grain.MapDataset.source(steps)[start:].to_iter_dataset(read)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain asks for its own
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_start_worker)
    iterator = iter(dataset)
    try:
        while (part := _next(iterator)) is not None:
            yield Examples(*(jax.make_array_from_process_local_data(sharding, array) for array in part))
    finally:
        if close := getattr(iterator, "close", None):
            close()


def _next(iterator: Iterator[Any]) -> Any:
    try:
        return next(iterator, None)
    except UserError:  # it names an image
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise UserError(f"--feed grain: a batch could not be read ({type(error).__name__}: {reason}).") from error

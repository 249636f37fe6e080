"""Batches: the same ones whatever feeds them, from any step on, split over devices without communication."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jax_mix.training import data, devices
from jax_mix.training.data import feeding

KEY, BATCH = jax.random.key(5), 8
STEPS = 50 // BATCH


@pytest.fixture
def examples(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 4, 3, 2), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    return data.Examples(np.load(tmp_path / "image.npy", mmap_mode="r"), np.arange(50, dtype=np.int32))


def fed(examples, feed, start=0, stop=3 * STEPS, workers=0, count=8):
    split = devices.split(devices.make_mesh(count))
    return list(data.batches(examples, KEY, BATCH, start=start, stop=stop, sharding=split, feed=feed, workers=workers))


def assert_same(ours, others):
    assert len(ours) == len(others) > 0
    for a, b in zip(ours, others, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.label, b.label)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("feed", ["device", "grain"])
def test_batches_are_those_of_the_epochs_order(examples, feed, count):
    batches = fed(examples, feed, count=count)
    index = np.concatenate([data.epoch_batches(KEY, epoch, 50, BATCH) for epoch in (1, 2, 3)])
    assert_same(batches, [data.Examples(examples.image[i], examples.label[i]) for i in index])
    assert all(len(batch.image.sharding.device_set) == count for batch in batches)
    assert batches[0].image.sharding.shard_shape((BATCH, 4, 3, 2)) == (BATCH // count, 4, 3, 2)


@pytest.mark.parametrize("feed", ["device", "grain"])
def test_from_any_step_on(examples, feed):
    assert_same(fed(examples, feed)[7:], fed(examples, feed, start=7))


def test_worker_processes_give_the_same(examples):
    assert_same(fed(examples, "device", start=2, stop=9), fed(examples, "grain", start=2, stop=9, workers=2))


def test_each_process_reads_its_part(examples):
    """The processes' parts, one behind the other, are the batch."""
    for processes in (1, 2, 4):
        parts = [feeding._Steps(examples, KEY, BATCH, 3 * STEPS, process, processes) for process in range(processes)]
        for step in (0, STEPS, 2 * STEPS + 1):
            index = data.epoch_batches(KEY, step // STEPS + 1, 50, BATCH)[step % STEPS]
            image, label = (np.concatenate(arrays) for arrays in zip(*(part[step] for part in parts), strict=True))
            np.testing.assert_array_equal(label, index)
            np.testing.assert_array_equal(image, examples.image[index])


def test_images_that_are_small_are_kept_on_the_device(examples, monkeypatch):
    monkeypatch.setattr(feeding, "_from_grain", lambda *_: iter(["grain"]))
    assert fed(examples, "auto")[0] != "grain"
    monkeypatch.setattr(feeding, "_UNKNOWN_MEMORY", 4 * examples.image.nbytes - 1)
    assert fed(examples, "auto") == ["grain"]


def test_gathering_from_the_device_needs_no_communication(examples, monkeypatch):
    compiled = []
    jit = jax.jit

    def noting(function, **options):
        jitted = jit(function, **options)

        def call(*args):
            compiled.append(jitted.lower(*args).compile().as_text())
            return jitted(*args)

        return call

    monkeypatch.setattr(feeding.jax, "jit", noting)
    fed(examples, "device", stop=1)
    assert "gather" in compiled[0]
    assert not re.findall(r"all-gather|all-to-all|collective-permute|all-reduce", compiled[0])


def test_a_batch_that_cannot_be_read_is_told_in_one_sentence(examples):
    class Broken:
        nbytes, dtype = 1, np.dtype(np.uint8)

        def __getitem__(self, index):
            raise OSError("the disk is gone")

    with pytest.raises(data.feeding.UserError, match=r"--feed grain: a batch could not be read .*the disk is gone"):
        fed(examples._replace(image=Broken()), "grain")


def test_the_mesh_has_auto_axes():
    assert devices.make_mesh().axis_types == (AxisType.Auto,)

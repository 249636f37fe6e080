"""What is read or summed in parts: several of them, with a rest, give what one gives."""

import zlib

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx

from jax_mix.training import data, devices, evaluation
from jax_mix.training.data import cache, folder, tfds_sets
from jax_mix.training.data.dataset import mean_and_std

CHUNKS = (1, 7, 16, 49, 50, 51)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_mean_and_deviation(chunk):
    image = np.random.default_rng(0).integers(0, 256, (50, 4, 3, 2), np.uint8)
    image[:, 0] = 255  # squares above 16 bits
    image[40:] //= 3  # the rest is unlike the others
    mean, std = mean_and_std(image, chunk=chunk)
    np.testing.assert_array_equal(mean, image.mean((0, 1, 2)).astype(np.float32))
    np.testing.assert_allclose(std, image.std((0, 1, 2)), rtol=1e-6)


def test_a_set_of_tfds(data_dir, monkeypatch):
    whole = data.load("digits", data_dir)
    monkeypatch.setattr(tfds_sets, "_CHUNK", 100)
    in_parts = data.load("digits", data_dir)
    for split in ("train", "test"):
        for one, other in zip(getattr(whole, split), getattr(in_parts, split), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.fixture
def photos(tmp_path):
    """26 images, the value of each its own."""
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(13):
            PIL.Image.fromarray(np.full((6, 5), 100 * k + i, np.uint8)).save(tmp_path / name / f"{i:02}.png")
    return tmp_path


@pytest.mark.parametrize("at_once", [0, 1, 5, 20, 21, 300])
def test_a_folder(at_once, photos, tmp_path_factory, monkeypatch):
    """So many images of 5x6 pixels, at the size they are asked for, are decoded at once."""
    monkeypatch.setattr(folder, "_AT_ONCE", at_once * 3 * 30)
    waiting = []
    submit = folder.concurrent.futures.ThreadPoolExecutor.map

    def counted(pool, function, items):
        waiting.append(len(items))
        return submit(pool, function, items)

    source = folder.open_folder(
        str(photos), image_size=None, test_fraction=0.2, split_by=None, bits=None, broken="stop"
    )
    monkeypatch.setattr(folder.concurrent.futures.ThreadPoolExecutor, "map", counted)
    read = [(int(image[0, 0, 0]), label) for split in ("train", "test") for image, label in source.read(split)]
    assert sorted(read) == [(100 * k + i, k) for k in (0, 1) for i in range(13)]
    most = max(1, min(at_once, 256))
    counts = [20, 6]
    assert waiting == [min(most, count - start) for count in counts for start in range(0, count, most)]


@pytest.mark.parametrize("on", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 6, 19, 20, 500])
def test_predictions(on, batch_size):
    image = np.random.default_rng(0).integers(0, 256, (20, 1, 2, 1), np.uint8)
    sharding = devices.split(devices.make_mesh(on))
    normalize = data.Normalize(jnp.full(1, 128.0), jnp.full(1, 64.0))
    found = evaluation.predict(SeesThrough(), normalize, image, sharding, batch_size=batch_size)
    np.testing.assert_array_equal(found, (image[:, 0, :, 0] - np.float32(128)) / np.float32(64))


class SeesThrough(nnx.Module):
    """Its logits are the image's two pixels."""

    def __call__(self, image):
        return image[:, 0, :, 0]


def test_the_checksum_of_a_file_in_parts(tmp_path, monkeypatch):
    content = np.random.default_rng(0).bytes(2**24 + 1000)
    (tmp_path / "file").write_bytes(content)
    assert cache._sum(tmp_path / "file") == [len(content), zlib.crc32(content)]
    monkeypatch.setattr(cache, "_SUMMED", 1500)
    assert cache._sum(tmp_path / "file") == [len(content), zlib.crc32(content[:1500])]

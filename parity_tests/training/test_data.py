"""jax_mix/training/data: what is read, how it is batched, and what is refused."""

import json
import os
import re
import runpy
import shutil
import struct
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from sklearn.datasets import load_digits

from jax_mix.training import data
from jax_mix.training.data import tfds_sets, tfrecord
from jax_mix.training.data.dataset import mean_and_std
from jax_mix.training.errors import UserError


@pytest.fixture
def prepared(data_dir):
    return Path(data_dir)


def copy_digits(prepared, folder, to, **edits):
    """The prepared digits under another name, with `edits`, pairs of old and new text by file."""
    shutil.copytree(prepared / "digits" / "1.0.0", folder / to)
    for name, (old, new) in edits.items():
        path = folder / to / f"{name}.json"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))


def test_the_digits_are_scikit_learns_pixel_for_pixel(prepared):
    dataset = data.load("digits", str(prepared))
    image, label = load_digits(return_X_y=True)
    read = np.concatenate([dataset.train.image, dataset.test.image])[..., 0]
    assert (len(dataset.train.image), len(dataset.test.image)) == (1437, 360)
    assert read.dtype == np.uint8

    def as_set(images, labels):
        return sorted(
            (*np.asarray(i).ravel().astype(int).tolist(), int(k)) for i, k in zip(images, labels, strict=True)
        )

    labels = np.concatenate([dataset.train.label, dataset.test.label])
    assert as_set(read, labels) == as_set(image, label)  # the two splits hold every digit once


def test_the_digits_are_split_evenly_over_the_classes(prepared):
    dataset = data.load("digits", str(prepared))
    all_of_class = np.bincount(load_digits().target)
    np.testing.assert_allclose(np.bincount(np.asarray(dataset.test.label)), all_of_class * 360 / 1797, atol=1)
    assert dataset.class_names == tuple("0123456789")


def test_a_second_start_reuses_what_was_prepared(prepared):
    files = sorted(path for path in prepared.rglob("*") if path.is_file())
    before = [path.stat().st_mtime_ns for path in files]
    first, second = data.load("digits", str(prepared)), data.load("digits", str(prepared))
    assert sorted(path for path in prepared.rglob("*") if path.is_file()) == files
    assert [path.stat().st_mtime_ns for path in files] == before
    assert not list(prepared.rglob("incomplete*"))
    np.testing.assert_array_equal(first.train.image, second.train.image)


def test_the_default_folder_is_tfdss(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    monkeypatch.setattr(tfds_sets.Digits, "_generate_examples", None)  # nothing is prepared once more
    assert data.load("digits").name == "digits"


def test_normalized_training_images_have_mean_0_and_deviation_1(prepared):
    dataset = data.load("digits", str(prepared))
    normal = np.asarray(dataset.normalize(dataset.train.image), np.float64)
    assert abs(normal.mean()) < 1e-6
    assert abs(normal.std() - 1) < 1e-6


def test_mean_and_deviation_are_those_of_each_channel():
    image = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    image[..., 2] = 7  # a constant channel is not divided by 0
    mean, std = mean_and_std(image)
    np.testing.assert_allclose(mean, image.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std[:2], image.std((0, 1, 2))[:2], rtol=1e-6)
    assert std[2] == 1


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (12, 4), (5, 5), (7, 1)])
def test_an_epoch_takes_each_example_at_most_once(n, batch_size):
    batches = data.epoch_batches(jax.random.key(0), 1, n, batch_size)
    assert batches.shape == (n // batch_size, batch_size)
    assert len(set(batches.ravel().tolist())) == batches.size
    assert set(batches.ravel().tolist()) <= set(range(n))


def test_an_epochs_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return data.epoch_batches(jax.random.key(seed), epoch, 100, 10).tolist()

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_random_shift_moves_each_image_by_a_pixel_at_most_at_8_pixels():
    image = jnp.zeros((200, 8, 8, 1), jnp.uint8).at[:, 4, 4, 0].set(200)
    shifted = np.asarray(data.random_shift(jax.random.key(0), image))
    assert (shifted.dtype, shifted.shape) == (np.uint8, image.shape)
    index, row, column, _ = np.nonzero(shifted)
    assert index.tolist() == list(range(200))  # moved, none lost, each by itself
    assert set(zip(row.tolist(), column.tolist(), strict=True)) == {(r, c) for r in (3, 4, 5) for c in (3, 4, 5)}


def test_random_shift_reaches_4_pixels_at_32_and_brings_in_black():
    image = jnp.full((300, 32, 32, 3), 9, jnp.uint8)
    black_rows = (np.asarray(data.random_shift(jax.random.key(0), image)) == 0).all((2, 3)).sum(1)
    assert set(black_rows.tolist()) == {0, 1, 2, 3, 4}


def test_an_oblong_image_is_shifted_by_an_eighth_of_its_shorter_side():
    black = np.asarray(data.random_shift(jax.random.key(0), jnp.full((200, 16, 64, 1), 9, jnp.uint8))) == 0
    assert set(black.all((2, 3)).sum(1).tolist()) == set(black.all((1, 3)).sum(1).tolist()) == {0, 1, 2}


def test_random_flip_mirrors_about_half_of_the_images():
    image = jnp.broadcast_to(jnp.arange(6, dtype=jnp.uint8).reshape(1, 1, 6, 1), (1000, 2, 6, 1))
    flipped = np.asarray(data.random_flip(jax.random.key(0), image))[..., 0]
    mirrored = (flipped == np.arange(6)[::-1]).all((1, 2))
    assert (mirrored | (flipped == np.arange(6)).all((1, 2))).all()
    assert 430 < mirrored.sum() < 570


def test_augmentation_by_name():
    key, image = jax.random.key(0), jax.random.randint(jax.random.key(1), (20, 8, 8, 1), 0, 255).astype(jnp.uint8)
    shifted = data.random_shift(key, image)
    np.testing.assert_array_equal(data.augment("none", key, image), image)
    np.testing.assert_array_equal(data.augment("shift", key, image), shifted)
    flipped = np.asarray(data.augment("shift_flip", key, image))
    changed = (flipped != shifted).any((1, 2, 3))
    assert 0 < changed.sum() < 20
    assert (flipped != data.random_flip(key, shifted)).any()  # no key is used twice
    np.testing.assert_array_equal(flipped[changed], shifted[changed][:, :, ::-1])


def test_fashion_mnist_as_tfds_prepares_it():
    folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if not (folder / "fashion_mnist").is_dir():
        pytest.skip(f"fashion_mnist is not in {folder}: name a TFDS folder that has it in TFDS_DATA_DIR")
    dataset = data.load("fashion_mnist", str(folder))
    assert dataset.train.image.shape == (60000, 28, 28, 1)
    assert dataset.test.image.shape == (10000, 28, 28, 1)
    assert np.bincount(np.asarray(dataset.train.label)).tolist() == [6000] * 10
    assert np.bincount(np.asarray(dataset.test.label)).tolist() == [1000] * 10
    assert (dataset.class_names[0], dataset.class_names[9]) == ("T-shirt/top", "Ankle boot")
    assert abs(float(dataset.normalize.mean[0]) / 255 - 0.2860) < 1e-4  # the values that are commonly given
    assert abs(float(dataset.normalize.std[0]) / 255 - 0.3530) < 1e-4


def make_set(folder, name, features, examples, splits=("train", "test")):
    """Prepare a small TFDS set, made on the spot, as array_record."""

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def generate(self):
        yield from enumerate(examples)

    body = {
        "VERSION": tfds.core.Version("1.0.0"),
        "name": name,
        "__module__": __name__,
        "_info": info,
        "_split_generators": lambda self, _: {split: generate(self) for split in splits},
        "_generate_examples": generate,
    }
    builder = type(name, (tfds.core.GeneratorBasedBuilder,), body, skip_registration=True)
    builder(data_dir=folder, file_format="array_record").download_and_prepare()


def picture(size=4, value=3):
    import PIL.Image

    return PIL.Image.fromarray(np.full((size, size), value, np.uint8))


IMAGE = tfds.features.Image(shape=(None, None, 1), dtype=np.uint8)
LABEL = tfds.features.ClassLabel(num_classes=2)


def test_a_set_whose_features_have_other_names_is_read(tmp_path):
    features = {"picture": IMAGE, "kind": LABEL, "weight": tfds.features.Scalar(np.int64)}
    make_set(
        tmp_path, "other", features, [{"picture": picture(), "kind": 1, "weight": 5}], splits=("train", "validation")
    )
    dataset = data.load("other", str(tmp_path))
    assert dataset.test.image.tolist() == np.full((1, 4, 4, 1), 3).tolist()
    assert dataset.test.label.tolist() == [1]


BAD_SETS = {
    "no image": (
        ({"text": tfds.features.Text(), "label": LABEL}, [{"text": "a", "label": 0}]),
        ["one feature of type Image", "it has label (ClassLabel), text (Text)."],
    ),
    "no class label": (
        ({"image": IMAGE, "label": tfds.features.Scalar(np.int64)}, [{"image": picture(), "label": 0}]),
        ["one feature of type ClassLabel", "it has image (Image), label (Scalar)."],
    ),
    "two images": (
        ({"a": IMAGE, "b": IMAGE, "label": LABEL}, [{"a": picture(), "b": picture(), "label": 0}]),
        ["or 'image' among several", "it has a (Image), b (Image), label (ClassLabel)."],
    ),
    "a label of no class": (
        ({"image": IMAGE, "label": LABEL}, [{"image": picture(), "label": k} for k in (0, -1, -1)]),
        ["label -1", "'train'", "2 such labels", "0 to 1"],
    ),
    "images of several sizes": (
        ({"image": IMAGE, "label": LABEL}, [{"image": picture(size), "label": 0} for size in (4, 5)]),
        ["several sizes", "4x4 and 5x5 pixels", "--image-size 28"],
    ),
    "no test split": (
        ({"image": IMAGE, "label": LABEL}, [{"image": picture(), "label": 0}], ("train", "extra")),
        ["'test' or 'validation'", "extra"],
    ),
    "no training split": (
        ({"image": IMAGE, "label": LABEL}, [{"image": picture(), "label": 0}], ("test",)),
        ["'train'", "only test"],
    ),
}


@pytest.mark.parametrize("case", BAD_SETS)
def test_a_set_that_cannot_be_used_is_refused(case, tmp_path):
    made, fragments = BAD_SETS[case]
    make_set(tmp_path, "bad_set", *made)
    with pytest.raises(UserError, match="--dataset bad_set") as error:
        data.load("bad_set", str(tmp_path))
    assert all(fragment in str(error.value) for fragment in fragments), str(error.value)


def test_labels_beyond_the_classes_are_refused(prepared, tmp_path):
    copy_digits(prepared, tmp_path, "five/1.0.0", features=('"numClasses": "10"', '"numClasses": "5"'))
    (tmp_path / "five/1.0.0/label.labels.txt").unlink(missing_ok=True)
    with pytest.raises(
        UserError, match=r"has the label [5-9] in its split 'train' .* with 5 classes, labels are 0 to 4"
    ):
        data.load("five", str(tmp_path))


def test_a_set_stored_for_tensorflow_is_refused(prepared, tmp_path):
    copy_digits(prepared, tmp_path, "digits_tf/1.0.0", dataset_info=("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"stored as tfrecord, not as array_record.*--file_format=array_record"):
        data.load("digits_tf", str(tmp_path))


def as_tfrecord(folder):
    """A prepared set as TensorFlow would write it: each record with its length and two checksums."""
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    for shard in folder.glob("*.array_record-*"):
        records = ArrayRecordReader(str(shard)).read_all()
        framed = (struct.pack("<QI", len(record), 0) + record + bytes(4) for record in records)
        shard.with_name(shard.name.replace("array_record", "tfrecord")).write_bytes(b"".join(framed))
        shard.unlink()


def test_a_set_in_tfrecord_form_is_told_with_a_command_that_works(prepared, tmp_path, monkeypatch):
    copy_digits(prepared, tmp_path, "digits_tf/1.0.0")
    as_tfrecord(tmp_path / "digits_tf/1.0.0")
    with pytest.raises(UserError, match="stored as tfrecord, not as array_record") as by_name:
        data.load("digits_tf", str(tmp_path))
    with pytest.raises(UserError, match=r"holds a set of TFDS that is stored as tfrecord.*--data-dir") as by_path:
        data.load(str(tmp_path))
    (module,) = {
        re.search(r"python -m (\S+) \S+/digits_tf/1.0.0 or prepare it once more", str(error.value)).group(1)
        for error in (by_name, by_path)
    }
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "argv", [module, str(tmp_path / "digits_tf/1.0.0")])
    runpy.run_module(module, run_name="__main__")
    dataset, digits = data.load("digits_tf", str(tmp_path)), data.load("digits", str(prepared))
    np.testing.assert_array_equal(dataset.train.image, digits.train.image)
    np.testing.assert_array_equal(dataset.test.label, digits.test.label)
    assert len(list((tmp_path / "digits_tf/1.0.0").glob("*.tfrecord-*"))) == 2  # they stay


def test_tfrecord_files_that_cannot_be_converted_are_told(prepared, tmp_path):
    with pytest.raises(UserError, match=r"has no dataset_info.json with .tfrecord files beside it"):
        tfrecord.convert(tmp_path)
    copy_digits(prepared, tmp_path, "cut/1.0.0")
    as_tfrecord(tmp_path / "cut/1.0.0")
    shard = next((tmp_path / "cut/1.0.0").glob("*test.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"test.tfrecord.*' is cut off"):
        tfrecord.convert(tmp_path / "cut/1.0.0")
    assert not list((tmp_path / "cut/1.0.0").glob("*test.array_record*"))
    (tmp_path / "mine").mkdir()
    shard.rename(tmp_path / "mine/train.tfrecord")
    with pytest.raises(UserError, match=r"in tfrecord form, 'train.tfrecord', without the dataset_info.json"):
        data.load(str(tmp_path / "mine"))


def test_the_folder_of_a_prepared_set_is_told_by_its_name(prepared, tmp_path):
    for path in (prepared, prepared / "digits", prepared / "digits/1.0.0"):
        with pytest.raises(UserError) as error:
            data.load(str(path))
        told = rf"holds a set of TFDS: give --dataset (\S+) --data-dir {re.escape(str(prepared.resolve()))}$"
        name = re.search(told, str(error.value)).group(1)
        assert len(data.load(name, str(prepared)).train.label) == 1437


def test_a_split_that_is_not_used_is_told(tmp_path, capsys):
    made = {"image": IMAGE, "label": LABEL}, [{"image": picture(), "label": k} for k in (0, 1)]
    make_set(tmp_path, "three", *made, splits=("train", "test", "validation"))
    data.load("three", str(tmp_path))
    assert capsys.readouterr().err.endswith("left out: the split 'validation'\n")


def test_two_sets_of_one_relative_path_are_two_caches(tmp_path, monkeypatch):
    for k, place in enumerate(("one", "two")):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        make_set("tfds", "same", {"image": IMAGE, "label": LABEL}, [{"image": picture(value=k), "label": 0}])
        for file in Path("tfds").rglob("*.*"):
            os.utime(file, (1, 1))
        assert int(data.load("same", "tfds").train.image.max()) == k


def test_the_latest_version_is_read_and_an_older_one_can_be_named(prepared, tmp_path):
    for version in ("9.0.0", "10.0.0", "incomplete.ABC_11.0.0"):
        copy_digits(prepared, tmp_path, f"many/{version}")
    assert tfds_sets._prepared("many", tmp_path).data_path.name == "10.0.0"
    assert tfds_sets._prepared("many:9.0.0", tmp_path).data_path.name == "9.0.0"


def test_of_several_configurations_one_must_be_named(prepared, tmp_path):
    for config in ("small", "large"):
        copy_digits(prepared, tmp_path, f"two/{config}/1.0.0")
    with pytest.raises(UserError, match=r"several configurations, name one: .*'two/large', 'two/small'"):
        data.load("two", str(tmp_path))
    assert len(data.load("two/small", str(tmp_path)).train.label) == 1437

"""What a run, a cache and a fingerprint depend on, name by name: another value is another one, or is let pass."""

import dataclasses
import os
import shutil

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from jax_mix.training import data, weights_files
from jax_mix.training.build import described, load
from jax_mix.training.checkpoints import Checkpoints, differences
from jax_mix.training.config import MAY_DIFFER, Config
from jax_mix.training.data import photographs
from jax_mix.training.errors import UserError

# Where a run is and how it is fed there: its numbers are the same, but for the rounding of other numbers of devices.
# Written out: a name that is put into MAY_DIFFER has to be thought of here too.
LET_PASS = {
    "data_dir", "cache_dir", "feed", "workers", "out", "name", "checkpoint_every", "resume", "overwrite",
    "devices", "shard_parameters", "coordinator", "num_processes", "process_id",
}  # fmt: skip
FIELDS = [field.name for field in dataclasses.fields(Config)]


@pytest.fixture(scope="module")
def saved(digits, tmp_path_factory):
    """A checkpoint, and what its run depends on."""
    depends_on = described(Config(), digits)
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder, depends_on, may_differ=MAY_DIFFER) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)}, [])
    return folder, depends_on


def test_what_may_differ_is_what_is_written_here(saved):
    assert set(MAY_DIFFER) == LET_PASS
    assert saved[1].keys() == set(FIELDS)


@pytest.mark.parametrize("name", sorted(LET_PASS))
def test_a_run_goes_on_with_another(name, saved):
    folder, depends_on = saved
    with Checkpoints(folder, depends_on | {name: "another"}, may_differ=MAY_DIFFER) as checkpoints:
        assert checkpoints.restore({"x": jnp.zeros(2)})[0] == 1


@pytest.mark.parametrize("name", sorted(set(FIELDS) - LET_PASS))
def test_a_run_does_not_go_on_with_another(name, saved):
    folder, depends_on = saved
    with (
        Checkpoints(folder, depends_on | {name: "another"}, may_differ=MAY_DIFFER) as checkpoints,
        pytest.raises(UserError, match=rf"made with --{name.replace('_', '-')} .*; now it is another\.$"),
    ):
        checkpoints.restore({"x": jnp.zeros(2)})


LATER = ("keep_best", "patience", "evaluate_every", "mix_per", "weights", "normalize", "freeze_epochs", "body_rate")
LATER += ("adam_beta2", "adam_epsilon", "warmup_epochs", "clip_norm", "loss", "target_threshold", "class_weights")
LATER += ("sampler", "drop_path", "layer_decay", "crop_scale", "auto_augment", "erasing", "test_crop")


def test_a_flag_that_an_earlier_version_had_not_is_unused_in_its_runs(saved):
    _, depends_on = saved
    earlier = {name: value for name, value in depends_on.items() if name not in LATER}
    assert differences(earlier, depends_on) == ""
    assert differences(earlier, depends_on | {"keep_best": True}) == "--keep-best None; now it is True"
    assert differences(earlier, depends_on | {"patience": 3}) == "--patience None; now it is 3"


def test_a_run_depends_on_what_is_in_its_data(digits):
    other = dataclasses.replace(digits, train=digits.train._replace(label=digits.train.label[::-1]))
    assert described(Config(), digits)["dataset"] == f"digits (1437 images, {digits.fingerprint})"
    assert described(Config(), digits) != described(Config(), other)


def test_a_run_depends_on_what_is_in_its_weights(digits, tmp_path):
    def depends_on(path):
        weights_files.fingerprint.cache_clear()
        return described(Config(weights=str(path), normalize=("half",)), digits)["weights"]

    file, run = tmp_path / "a.safetensors", tmp_path / "run"
    checkpoint = run / "checkpoints" / "20" / "d" / "0"
    checkpoint.parent.mkdir(parents=True)
    found = []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        checkpoint.write_bytes(content)
        found += [depends_on(file), depends_on(run)]
    assert len(set(found)) == 4
    (run / "metrics.json").write_text("{}")  # an evaluation writes to the folder, and changes no weights
    os.utime(file, (0, 0))
    assert [depends_on(file), depends_on(run)] == found[2:]


def set_of(**changes):
    """A small data set, and what is changed of it."""
    arrays = {
        "train_image": np.zeros((4, 2, 2, 1), np.uint8),
        "train_label": np.array([0, 1, 0, 1], np.int32),
        "test_label": np.array([0, 1, 1], np.int32),
        "mean": np.array([1.0], np.float32),
        "std": np.array([2.0], np.float32),
        "class_names": ("cat", "dog"),
    } | changes
    test = data.Examples(np.zeros((len(arrays["test_label"]), 2, 2, 1), np.uint8), arrays["test_label"])
    train = data.Examples(arrays["train_image"], arrays["train_label"])
    return data.Dataset(train, test, data.Normalize(arrays["mean"], arrays["std"]), "pets", arrays["class_names"])


OTHERS = {
    "train_image": np.zeros((4, 2, 2, 3), np.uint8),
    "train_label": np.array([0, 1, 1, 1], np.int32),
    "test_label": np.array([0, 0, 1], np.int32),
    "mean": np.array([1.5], np.float32),
    "std": np.array([2.5], np.float32),
    "class_names": ("cat", "cow"),
}


@pytest.mark.parametrize("changed", OTHERS)
def test_the_fingerprint_is_another_one_of_other(changed):
    assert set_of().fingerprint == set_of().fingerprint
    assert set_of(**{changed: OTHERS[changed]}).fingerprint != set_of().fingerprint


@pytest.mark.parametrize("augment", ["shift", "crop"])
def test_so_it_is_where_pixels_are_normalised_by_other_numbers(photos, augment, tmp_path, monkeypatch):
    """Images that stay encoded are known by all of their files, not by what is measured on some; so is a copy."""
    monkeypatch.setattr(photographs, "_MEASURED", 1)

    def fingerprint(folder):
        config = Config(dataset=str(folder), augment=augment, image_size=8, normalize=("100", "50"))
        return load(dataclasses.replace(config, cache_dir=str(tmp_path / "cache"))).fingerprint

    first = fingerprint(photos)
    assert fingerprint(shutil.copytree(photos, tmp_path / "copied" / "photos")) == first
    files = sorted(photos.rglob("*.png"))
    for file in files if augment == "shift" else files[-1:]:
        PIL.Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12)).save(file)
    assert fingerprint(photos) != first


def test_training_and_test_images_are_counted_apart():
    counted = set_of(test_label=np.array([1, 1, 1], np.int32), train_label=np.array([0, 0, 1, 0], np.int32))
    assert str(counted) == (
        "pets: 4 training and 3 test images of 2x2x1, 2 classes\n"
        "training and test images of each: cat 3 and 0; dog 1 and 3"
    )


@pytest.fixture
def photos(tmp_path):
    """Images of 16 bits, of which a value is the same in none of them, and larger than what is asked for."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            array = rng.integers(0, 4096, (12, 12)).astype(np.uint16)
            PIL.Image.fromarray(array).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def test_a_cache_is_of_all_that_decoded_images_depend_on(photos, tmp_path):
    """Each of these asked for after the others, with one place for caches, is what it is with a place of its own."""
    options = [{}, {"image_size": 8}, {"image_size": 10}, {"bits": 12}, {"image_size": 8, "bits": 12}]
    options.append({"test_fraction": 0.5})
    for _ in range(2):
        shared = [data.load(str(photos), cache_dir=str(tmp_path / "shared"), **each) for each in options]
        for i, (each, found) in enumerate(zip(options, shared, strict=True)):
            alone = data.load(str(photos), cache_dir=str(tmp_path / f"alone{i}"), **each)
            for split in ("train", "test"):
                for one, other in zip(getattr(found, split), getattr(alone, split), strict=True):
                    np.testing.assert_array_equal(one, other)
    assert len(list((tmp_path / "shared").iterdir())) == len(options)


def test_so_it_is_of_a_set_of_tfds(data_dir, tmp_path):
    for side in (6, 7, 6, None):
        image = data.load("digits", data_dir, image_size=side, cache_dir=str(tmp_path)).train.image
        assert image.shape[1:3] == (side or 8, side or 8)
    assert len(list(tmp_path.iterdir())) == 3


def test_the_mean_of_a_cache_is_that_of_its_images(photos, tmp_path):
    first, second = (data.load(str(photos), cache_dir=str(tmp_path / "cache"), bits=12) for _ in range(2))
    for dataset in (first, second):
        np.testing.assert_allclose(dataset.normalize.mean, dataset.train.image.mean((0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(dataset.normalize.std, dataset.train.image.std((0, 1, 2)), rtol=1e-6)
        assert dataset.class_names == ("cat", "dog")

"""jax_mix/training/data/subset.py: labels that are wrong on purpose, and training sets made small."""

import dataclasses

import jax
import numpy as np
import pytest

from jax_mix.training import data
from jax_mix.training.build import load
from jax_mix.training.config import Config
from jax_mix.training.data.splitting import split

KEY = jax.random.key(5)


def changed(dataset, other):
    return np.asarray(dataset.train.label) != np.asarray(other.train.label)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.8, 1.0])
def test_as_many_labels_as_asked_for_are_drawn_anew(digits, share):
    before = np.array(digits.train.label)
    noisy = data.corrupt_labels(digits, share, KEY)
    np.testing.assert_array_equal(digits.train.label, before)  # it is left as it is
    n = round(share * len(before))
    wrong = changed(digits, noisy).sum()
    assert abs(wrong - 0.9 * n) < 4 * np.sqrt(0.09 * n)  # one in ten is drawn as it was
    assert wrong > 0


def test_only_training_labels_are_touched(digits):
    noisy = data.corrupt_labels(digits, 1.0, KEY)
    assert noisy.train.image is digits.train.image
    assert noisy.test is digits.test
    assert noisy.normalize is digits.normalize


def test_every_class_is_drawn_alike(digits):
    counts = np.bincount(data.corrupt_labels(digits, 1.0, KEY).train.label, minlength=10)
    expected = len(digits.train.label) / 10
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi squared of 9 degrees, 0.1%


def test_the_seed_decides_and_more_noise_adds_to_less(digits):
    less, more = (data.corrupt_labels(digits, share, KEY) for share in (0.2, 0.6))
    again, other = (data.corrupt_labels(digits, 0.2, key) for key in (KEY, jax.random.key(6)))
    np.testing.assert_array_equal(less.train.label, again.train.label)
    assert changed(less, other).any()
    wrong = changed(digits, less)
    np.testing.assert_array_equal(np.asarray(less.train.label)[wrong], np.asarray(more.train.label)[wrong])
    assert changed(digits, more).sum() > 2 * wrong.sum()
    assert data.corrupt_labels(digits, 0.0, KEY) is digits


def test_few_training_images_are_the_same_ones_each_time(digits):
    few, again = data.take(digits, 100), data.take(digits, 100)
    assert few.train.image.shape == (100, 8, 8, 1)
    np.testing.assert_array_equal(few.train.image, again.train.image)
    rows = {image.tobytes(): int(label) for image, label in zip(*map(np.asarray, digits.train), strict=True)}
    assert all(rows[image.tobytes()] == label for image, label in zip(*map(np.asarray, few.train), strict=True))
    assert len(set(np.asarray(few.train.label).tolist())) == 10
    assert few.test is digits.test
    pixels = np.asarray(few.normalize(few.train.image))
    assert abs(pixels.mean()) < 1e-5
    assert pixels.std() == pytest.approx(1, rel=1e-5)


@pytest.fixture
def in_order(digits):
    """The digits sorted by class, as a folder's images come: what is not drawn at random shows."""
    order = np.argsort(digits.train.label, kind="stable")
    return dataclasses.replace(digits, train=data.Examples(*(np.asarray(array)[order] for array in digits.train)))


def test_few_training_images_are_drawn_from_all(in_order):
    label = data.take(in_order, 300).train.label
    counts = np.bincount(label, minlength=10)
    assert counts.min() > 15  # 30 each
    assert counts.max() < 45
    assert (np.diff(label) >= 0).all()  # those that are left stay in order


def test_wrong_labels_are_drawn_from_all(in_order):
    noisy = data.corrupt_labels(in_order, 0.3, KEY)
    shares = [changed(in_order, noisy)[in_order.train.label == k].mean() for k in range(10)]
    assert min(shares) > 0.15  # 0.27 of each, a label in ten being drawn as it was
    assert max(shares) < 0.4


def test_a_run_trains_on_what_its_flags_say(data_dir):
    config = Config(data_dir=data_dir, train_images=200, label_noise=0.5, seed=3)
    dataset = load(config)
    assert len(dataset.train.label) == 200
    right = load(Config(data_dir=data_dir, train_images=200))
    assert 60 < changed(dataset, right).sum() <= 100
    np.testing.assert_array_equal(load(config).train.label, dataset.train.label)


def test_the_test_images_of_a_folder_are_not_the_first(tmp_path):
    """Nor the same numbers of each class: names often tell when a picture was taken."""
    files = {name: [tmp_path / name / f"{i:03}.png" for i in range(100)] for name in ("cat", "dog")}
    train, test = split("./photos", tmp_path, files, 0.2, by_folder=False)
    for name, those in files.items():
        assert sorted(train[name] + test[name]) == those
        assert len(test[name]) == 20
        middle = np.mean([int(path.stem) for path in test[name]])
        assert 30 < middle < 70
    assert {path.name for path in test["cat"]} != {path.name for path in test["dog"]}


def test_an_accent_as_a_letter_of_its_own_is_the_same_name(tmp_path):
    """As macOS writes it: the split is the same on all systems."""
    tests = []
    for accent in ("\u00e9", "e\u0301"):
        files = {name: [tmp_path / name / f"{accent}{i}.png" for i in range(30)] for name in ("cat", f"chat{accent}")}
        _, test = split("./photos", tmp_path, files, 0.2, by_folder=False)
        tests.append([sorted(path.stem.removeprefix(accent) for path in those) for those in test.values()])
    assert tests[0][0] == tests[1][0]


def test_wrong_labels_are_those_of_the_seeds_fifth_key(digits, data_dir):
    """The others are of weights, order, steps and the picture: with one of these, what is drawn would hang together."""
    noisy = load(Config(data_dir=data_dir, label_noise=0.5, seed=3))
    expected = data.corrupt_labels(digits, 0.5, jax.random.split(jax.random.key(3), 5)[4])
    np.testing.assert_array_equal(noisy.train.label, expected.train.label)

"""Photographs: a function of seed and step alone, read by any number of processes; what is broken is named."""

import dataclasses
import io
import json
import re
import shutil
import types

import jax
import numpy as np
import PIL.Image
import pytest
from flax import nnx

import train
from jax_mix.training import build, data, devices, load_run
from jax_mix.training.config import Config
from jax_mix.training.cropping import of
from jax_mix.training.data import feeding, photographs, pixels
from jax_mix.training.data import folder as folder_module
from jax_mix.training.data.crops import Cropping, crop_box, random_image
from jax_mix.training.data.encoded import Picture
from jax_mix.training.data.policies import parse_policy
from jax_mix.training.data.source import Form
from jax_mix.training.errors import UserError
from jax_mix.training.exporting import exported
from parity_tests.tolerances import assert_close

KEY, BATCH, SIDE = jax.random.key(5), 4, 16
ALL = Cropping(SIDE, policy=parse_policy("rand:2,9"), erasing=0.5)
FINE = {"subsampling": 0, "quality": 95}
TURNS = {turn: PIL.Image.Exif() for turn in range(1, 10)}  # 9 means nothing
for turn, exif in TURNS.items():
    exif[0x0112] = turn


def photograph(k=0, size=(60, 45)):
    """Smooth, for a smaller decoding to look alike, and unlike under every turn."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    channels = (200 * x / width + 5 * k, 200 * y / height, 120 + 60 * np.sin(4 * x / width + 3 * y / height + k))
    return PIL.Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve photographs of two classes, no two of a size: JPEGs, some of them turned, and a PNG."""
    root = tmp_path_factory.mktemp("photographs") / "pets"
    for k in range(12):
        path = root / ("cat", "dog")[k % 2] / f"{k}.{'png' if k == 5 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"exif": TURNS[k % 8 + 1], "quality": 95} if k != 5 else {}
        photograph(k, (40 + 3 * k, 70 - 2 * k)).save(path, **options)
    return root


@pytest.fixture
def dataset(folder, tmp_path):
    return load(folder, tmp_path)


def load(folder, tmp_path, cropping=ALL, **options):
    return data.load(
        str(folder), image_size=SIDE, cropping=cropping, test_fraction=0.34, cache_dir=str(tmp_path / "c"), **options
    )


def fed(dataset, start=0, stop=6, workers=0, count=1):
    split = devices.split(devices.make_mesh(count))
    read = data.batches(dataset.train, KEY, BATCH, start=start, stop=stop, sharding=split, workers=workers)
    return [np.asarray(batch.image) for batch in read]


def test_batches_are_a_function_of_seed_and_step_alone(dataset):
    """Whoever reads them: from any step on, on any number of devices, in worker processes, a part in each process."""
    batches = fed(dataset)
    assert batches[0].shape == (BATCH, SIDE, SIDE, 3)
    np.testing.assert_array_equal(batches[3:], fed(dataset, start=3, count=4))
    np.testing.assert_array_equal(batches[1:5], fed(dataset, start=1, stop=5, workers=2))
    parts = [feeding._Steps(dataset.train, KEY, BATCH, 6, process, 2)[4][0] for process in range(2)]
    np.testing.assert_array_equal(batches[4], np.concatenate(parts))
    assert not np.array_equal(batches[0], batches[2])


def test_each_step_row_and_seed_has_draws_of_its_own(dataset):
    image = dataset.train.image
    first = image.for_training([0, 0], b"seed", 1, range(2))
    others = [image.for_training([0], *each)[0] for each in ((b"seed", 2, range(1)), (b"sees", 1, range(1)))]
    for i, a in enumerate([*first, *others]):
        assert all(not np.array_equal(a, b) for b in [*first, *others][:i])
    np.testing.assert_array_equal(image.for_training([0], b"seed", 1, range(1, 2))[0], first[1])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, FINE, {"subsampling": 1}, {"quality": 30}])
@pytest.mark.parametrize("grey", [False, True])
def test_both_decoders_give_the_same_pixels(options, grey, monkeypatch):
    """In full, and turned as the file says: to the bit."""
    fell_back = []
    monkeypatch.setattr(Picture, "_by_pillow", lambda self: fell_back.append(1))
    for turn, exif in TURNS.items():
        content = io.BytesIO()
        photograph(turn, (64, 48)).convert("L" if grey else "RGB").save(content, "JPEG", exif=exif, **options)
        picture = Picture(content.getvalue(), Form(grey))
        by_pillow = pixels.decode(io.BytesIO(content.getvalue()), grey=grey, size=None, bits=16).image
        np.testing.assert_array_equal(picture.pixels()[0], by_pillow)
        assert (picture.height, picture.width) == by_pillow.shape[:2]
        for shrink in (2, 4, 8) if options == FINE else ():  # a mean of squares, nearly; colours are coarser else
            height, width = (-(-side // shrink) for side in by_pillow.shape[:2])
            smaller, by = picture.pixels(shrink)
            assert (by, smaller.shape[:2]) == (shrink, (height, width))
            y, x = height // 2, width // 2
            square = by_pillow[y * shrink : (y + 1) * shrink, x * shrink : (x + 1) * shrink]
            assert_close(smaller[y, x], square.mean((0, 1)), "pixels of a smaller decoding")
    assert not fell_back


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "P", "I;16", "L"])
def test_what_is_no_usual_jpeg_is_read_as_a_folders_files_are(mode):
    content = io.BytesIO()
    image = photograph().convert("L" if mode == "I;16" else mode)
    image = PIL.Image.fromarray(np.asarray(image).astype(np.uint16) * 256) if mode == "I;16" else image
    image.save(content, "JPEG" if mode in ("CMYK", "L") else "PNG")
    expected = pixels.decode(io.BytesIO(content.getvalue()), grey=False, size=None, bits=16).image
    np.testing.assert_array_equal(Picture(content.getvalue(), Form(grey=False)).pixels()[0], expected)


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_a_large_jpeg_is_decoded_smaller_and_the_same_part_is_taken(turn, monkeypatch):
    content, shrunk = io.BytesIO(), []
    photograph(size=(800, 600)).save(content, "JPEG", quality=95, exif=TURNS[turn])
    pixels_of = Picture.pixels
    monkeypatch.setattr(Picture, "pixels", lambda self, shrink=1: shrunk.append(shrink) or pixels_of(self, shrink))
    for seed in range(8):
        small, full = (random_image(content.getvalue(), Form(False), Cropping(24), draws(seed)) for _ in range(2))
        np.testing.assert_array_equal(small, full)
        with monkeypatch.context() as patch:
            patch.setattr(Picture, "pixels", lambda self, shrink=1: pixels_of(self, 1))
            full = random_image(content.getvalue(), Form(False), Cropping(24), draws(seed))
        inside = np.s_[1:-1, 1:-1]  # at its border a crop has whole pixels of the smaller decoding
        assert_close(small[inside].astype(int), full[inside].astype(int), "pixels of a smaller decoding")
        picture = Picture(content.getvalue(), Form(False))
        _, _, rows, columns = crop_box(draws(seed), picture.height, picture.width, (0.08, 1))
        assert min(rows, columns) >= 2 * 24 * shrunk[-2]  # never less than twice what is made of it
    assert {4, 8} <= set(shrunk)


def draws(seed):
    return np.random.default_rng(seed)


def test_a_flip_is_for_every_second_image():
    content = io.BytesIO()
    photograph(size=(40, 40)).save(content, "PNG")
    made = [random_image(content.getvalue(), Form(False), Cropping(8, scale=(1, 1)), draws(seed)) for seed in range(60)]
    flipped = [image[4, 0, 0] > image[4, -1, 0] for image in made]
    assert 18 < sum(flipped) < 42


def test_a_box_is_erased_with_the_mean_that_is_then_0(folder, tmp_path):
    config = Config(
        dataset=str(folder), augment="crop", image_size=SIDE, erasing=1.0, normalize=("10", "20", "30", "1", "1", "1"),
        cache_dir=str(tmp_path), test_fraction=0.34,
    )  # fmt: skip
    dataset = build.load(config)
    made = dataset.train.image.for_training([0] * 4, b"seed", 0, range(4))
    for image in made:
        erased = (image == (10, 20, 30)).all(-1)
        assert 0.01 * SIDE**2 < erased.sum() < 0.5 * SIDE**2
        rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
        assert erased.sum() == len(rows) * len(columns)


def test_mean_and_deviation_are_of_training_images_as_they_are_tested(dataset, monkeypatch):
    image = dataset.train.image[:]
    np.testing.assert_allclose(dataset.normalize.mean, image.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(dataset.normalize.std, image.std((0, 1, 2)), rtol=1e-5)
    few = data.take(dataset, 5)
    np.testing.assert_array_equal(
        few.train.image[:], image[[np.flatnonzero((image == each).all((1, 2, 3)))[0] for each in few.train.image[:]]]
    )
    np.testing.assert_allclose(few.normalize.mean, few.train.image[:].mean((0, 1, 2)), rtol=1e-6)
    monkeypatch.setattr(photographs, "_MEASURED", 3)
    three = photographs.measured(dataset.train.image)
    assert not np.array_equal(three.mean, dataset.normalize.mean)
    np.testing.assert_array_equal(three.mean, photographs.measured(dataset.train.image).mean)


def test_a_set_of_tfds_is_read_from_its_encoded_images(digits, data_dir):
    """Digits of 8 x 8 pixels, tested whole, are those that are decoded beforehand."""
    dataset = data.load("digits", data_dir, image_size=8, cropping=Cropping(8, test_crop=1.0))
    np.testing.assert_array_equal(dataset.test.image[:20], digits.test.image[:20])
    np.testing.assert_array_equal(dataset.train.label, digits.train.label)
    np.testing.assert_array_equal(dataset.normalize.mean, digits.normalize.mean)
    made = dataset.train.image.for_training([3, 9], b"seed", 0, range(2))
    assert made.shape == (2, 8, 8, 1)


def test_what_took_long_is_found_out_once(folder, tmp_path, monkeypatch):
    first = load(folder, tmp_path)
    monkeypatch.setattr(photographs, "_survey", None)
    monkeypatch.setattr(photographs, "measured", None)
    second = load(folder, tmp_path)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.test.image[:], first.test.image[:])
    monkeypatch.undo()
    (kept,) = (tmp_path / "c").glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:-100])
    assert load(folder, tmp_path).fingerprint == first.fingerprint


@pytest.fixture
def broken(folder, tmp_path):
    """A photograph whose header can be read, and not its pixels."""
    copy = tmp_path / "pets"
    shutil.copytree(folder, copy)
    file = copy / "dog" / "3.jpg"
    file.write_bytes(file.read_bytes()[:-400])
    return file


def test_a_broken_photograph_is_named_when_it_is_met(broken, tmp_path):
    told = (
        rf"^--dataset pets: '{broken}' \(OSError: image file is truncated.*\) cannot be read: .*--broken-images skip\.$"
    )
    with pytest.raises(UserError, match=told):  # here for mean and deviation
        load(broken.parents[1], tmp_path)
    image = photographs.Photographs(
        "pets", folder_module._Encoded(broken.parents[1], [broken], np.zeros(1, int)), [0] * 8, Form(False), ALL
    )
    given = types.SimpleNamespace(train=data.Examples(image, np.zeros(8, np.int32)))
    with pytest.raises(UserError) as raised:
        fed(given)
    assert re.match(told, str(raised.value))  # Grain adds notes to it


def test_broken_photographs_are_skipped_from_the_start_and_named_each_time(broken, folder, tmp_path, capsys):
    whole = load(folder, tmp_path / "whole")
    for _ in range(2):  # decoded, and from what was kept
        dataset = load(broken.parents[1], tmp_path, broken_images="skip")
        assert len(dataset.train.label) + len(dataset.test.label) == 11
        assert re.search(rf"left out: '{broken}' \(OSError", capsys.readouterr().err)
    assert len(fed(dataset, stop=1)) == 1
    assert len(whole.train.label) + len(whole.test.label) == 12


def test_the_picture_of_a_batch_is_of_images_as_they_are_trained_on(dataset, digits):
    image, label = data.first_batch(dataset.train, 4, b"seed")
    np.testing.assert_array_equal(image, dataset.train.image.for_training(range(4), b"seed", 0, range(4)))
    np.testing.assert_array_equal(label, dataset.train.label[:4])
    np.testing.assert_array_equal(data.first_batch(digits.train, 4, b"seed").image, digits.train.image[:4])


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    config = Config(
        dataset=str(folder), image_size=SIDE, augment="crop", auto_augment="trivial", erasing=0.25, epochs=2,
        mix="none", batch_size=4, width=4, devices=1, out=str(out), name="it", cache_dir=str(out / "c"),
        test_fraction=0.34,
    )  # fmt: skip
    train.run(config)
    return out / "it"


def test_a_run_is_tested_as_it_is_used(finished, folder):
    """Files that are predicted are scaled and cut as test images of the run were."""
    trained, metrics = load_run(finished), json.loads((finished / "metrics.json").read_text())
    assert trained.about.test_crop == 0.875
    config = json.loads((finished / "config.json").read_text())
    cropping = Cropping(SIDE)
    dataset = data.load(
        str(folder), image_size=SIDE, cropping=cropping, test_fraction=0.34, cache_dir=config["cache_dir"]
    )
    files = [folder / ("cat", "dog")[k % 2] / f"{k}.{'png' if k == 5 else 'jpg'}" for k in range(12)]
    ready = trained.preprocess(files)
    everything = np.concatenate([dataset.train.image[:], dataset.test.image[:]])
    assert sorted(map(bytes, ready)) == sorted(map(bytes, everything))
    right = trained.logits(dataset.test.image[:]).argmax(1) == dataset.test.label
    assert right.mean() == pytest.approx(metrics["accuracy"])
    # Arrays are scaled as files are, those of the network's own size too.
    square = np.asarray(photograph(size=(SIDE, SIDE)))
    assert not np.array_equal(trained.preprocess(square[None])[0], square)


class Corner(nnx.Module):
    """The logits of an image are the channels of its first pixel: they tell where it was cut."""

    def __call__(self, image):
        return image[:, 0, 0]


def test_what_is_exported_scales_and_cuts_alike(finished):
    trained = dataclasses.replace(load_run(finished), model=Corner())
    call = exported(trained).call
    for size in ((60, 45), (45, 60), (20, 20), (31, 90)):
        image = np.asarray(photograph(size=size))[None]
        assert_close(call(image), trained.predict(image), "probabilities of scaled images")


def test_a_run_goes_on_to_the_same_numbers(finished, folder, tmp_path):
    written = json.loads((finished / "config.json").read_text())
    written = {k: tuple(v) if isinstance(v, list) else v for k, v in written.items()}
    shutil.copytree(finished / "checkpoints", tmp_path / "it" / "checkpoints")
    shutil.copy(finished / "config.json", tmp_path / "it")
    last = max((tmp_path / "it" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    shutil.rmtree(last)
    train.run(Config(**written | {"out": str(tmp_path), "name": "it", "resume": True, "devices": 1}))
    histories = [json.loads((run / "metrics.json").read_text())["history"] for run in (finished, tmp_path / "it")]
    assert histories[0] == histories[1]


def test_what_the_flags_say():
    config = Config(
        augment="crop", image_size=64, crop_scale=(0.2, 0.9), auto_augment="rand:3,5", erasing=0.1, test_crop=1.0
    )
    assert of(config) == Cropping(64, (0.2, 0.9), parse_policy("rand:3,5"), 0.1, 1.0)
    assert of(Config()) is None
    assert of(Config(augment="crop", image_size=64)) == Cropping(64)

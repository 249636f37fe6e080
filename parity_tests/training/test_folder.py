"""A folder of images: what is read of it, what is refused, and the cache of what was decoded."""

import json
import os
import re
import shutil
import time

import numpy as np
import PIL.Image
import pytest

import train
from jax_mix.training import data
from jax_mix.training.data import cache
from jax_mix.training.data.source import identity
from jax_mix.training.errors import UserError


def save(path, size=(6, 5), value=0, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    array = np.full((height, width), value, np.uint16 if mode == "I;16" else np.uint8)
    image = PIL.Image.fromarray(array) if mode == "I;16" else PIL.Image.fromarray(array).convert(mode)
    image.save(path, **options)


@pytest.fixture
def photos(tmp_path):
    """Ten images of each of two classes, the value of each its own."""
    for k, name in enumerate(("cat", "dog")):
        for i in range(10):
            save(tmp_path / "photos" / name / f"{i}.png", value=100 * k + i)
    return tmp_path / "photos"


def load(folder, **options):
    return data.load(str(folder), **options)


def values(examples):
    return {(int(image[0, 0, 0]), int(label)) for image, label in zip(examples.image, examples.label, strict=True)}


ALL = {(100 * k + i, k) for k in (0, 1) for i in range(10)}


def test_classes_are_folders_and_each_gives_its_share_to_the_test(photos):
    dataset = load(photos)
    assert (dataset.name, dataset.class_names) == ("photos", ("cat", "dog"))
    assert dataset.train.image.shape == (16, 6, 5, 3)
    assert np.bincount(dataset.test.label).tolist() == [2, 2]
    assert values(dataset.train) | values(dataset.test) == ALL
    assert (dataset.train.image.dtype, dataset.train.label.dtype) == (np.uint8, np.int32)
    assert np.bincount(load(photos, test_fraction=0.5).test.label).tolist() == [5, 5]


def test_the_split_is_one_of_names_alone(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "elsewhere")
    assert values(load(photos).test) == values(load(tmp_path / "elsewhere").test)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "Test"])
def test_a_test_folder_of_ones_own(photos, tmp_path, name):
    shutil.copytree(photos, tmp_path / "split" / "train")
    shutil.copytree(photos, tmp_path / "split" / name)
    save(tmp_path / "split" / name / "dog" / "11.png", value=111)
    dataset = load(tmp_path / "split")
    assert values(dataset.train) == ALL
    assert values(dataset.test) == ALL | {(111, 1)}


def test_kinds_of_images(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    save(tmp_path / "kinds/a/grey.png", value=9, mode="L")
    save(tmp_path / "kinds/a/palette.gif", value=9, mode="P")
    save(tmp_path / "kinds/a/alpha.png", value=9, mode="RGBA")
    save(tmp_path / "kinds/b/16 bits.png", value=9 * 256, mode="I;16")
    save(tmp_path / "kinds/b/turned.jpg", value=9, size=(5, 6), exif=exif, quality=100)
    save(tmp_path / "kinds/b/deeper/one.bmp", value=9)
    save(tmp_path / "kinds/b/.hidden.png", size=(50, 50))
    (tmp_path / "kinds/b/notes.txt").write_text("not an image")
    save(tmp_path / "kinds/.hidden/one.png", size=(50, 50))
    dataset = load(tmp_path / "kinds", test_fraction=0.4)
    images = np.concatenate([dataset.train.image, dataset.test.image])
    assert images.shape == (6, 6, 5, 3)
    assert np.ptp(images) <= 1  # the JPEG's rounding
    assert images[0, 0, 0, 0] == 9


def test_images_without_colour_have_one_channel(tmp_path):
    for name in ("a/1", "a/2", "b/1", "b/2"):
        save(tmp_path / "grey" / f"{name}.png", mode="L" if name < "b" else "1")
    assert load(tmp_path / "grey").train.image.shape == (2, 6, 5, 1)


def test_images_are_scaled_and_cut_square(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200  # the square in the middle
    for name in ("a/1", "a/2", "b/1", "b/2"):
        path = tmp_path / "wide" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(wide if name < "b" else np.moveaxis(wide, 0, 1)).save(path)
    with pytest.raises(UserError, match=r"several sizes, say (20x60|60x20) and .* pixels.*--image-size 20"):
        load(tmp_path / "wide")
    image = load(tmp_path / "wide", image_size=10).train.image
    assert image.shape == (2, 10, 10, 3)
    assert (image[:, :, 1:-1] == 200).mean() > 0.75  # borders are smoothed


def broken(photos):
    (photos / "dog" / "3.png").write_bytes(
        (photos / "dog" / "3.png").read_bytes()[:44]
    )  # header and half of the pixels
    (photos / "cat" / "4.png").write_bytes(b"nothing")


def test_a_broken_image_stops_and_is_named(photos):
    broken(photos)
    with pytest.raises(UserError, match=r"photos: '.*(4|3).png' \(.*\) cannot be read; go on .* --broken-images skip"):
        load(photos)


def test_a_broken_image_is_left_out_and_named(photos, capsys):
    broken(photos)
    dataset = load(photos, broken_images="skip")
    assert values(dataset.train) | values(dataset.test) == ALL - {(103, 1), (4, 0)}
    told = capsys.readouterr().err
    assert "left out: " in told
    assert "3.png'" in told
    assert "4.png'" in told
    load(photos, broken_images="skip")  # from the cache
    assert capsys.readouterr().err == told


def test_the_error_of_a_broken_image_has_its_path_once(photos):
    path = photos / "cat" / "4.png"
    path.write_bytes(b"")
    told = f"'{path}' (UnidentifiedImageError: cannot identify image file) cannot be read"
    with pytest.raises(UserError, match=re.escape(told)):
        load(photos)
    path.unlink()
    path.symlink_to("nowhere.png")
    with pytest.raises(UserError, match=re.escape(f"'{path}' (FileNotFoundError: No such file or directory) cannot")):
        load(photos)


def test_a_class_of_which_no_image_can_be_read_is_told(photos):
    for i in range(5):
        (photos / "dog" / f"{i}.png").write_bytes(b"no image")
        (photos / "dog" / f"{i + 5}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="has no image of class dog that can be read in its split"):
        load(photos, broken_images="skip")


def copies(folder, *names):
    for name in names:
        for each in ("cat", "dog"):
            shutil.copytree(folder / each, folder / name / each)


BAD = {
    "one class": (lambda f: shutil.rmtree(f / "dog"), "two classes or more; there is: cat"),
    "no class": (lambda f: [shutil.rmtree(f / name) for name in ("cat", "dog")], "there is: none"),
    "an empty class": (lambda f: (f / "fish").mkdir(), "there is no image in '.*fish'"),
    "one image": (lambda f: save(f / "fish/1.png"), "class fish needs two images or more"),
    "train without a test": (
        lambda f: [copies(f, "Train", "predict"), *(shutil.rmtree(f / name) for name in ("cat", "dog"))],
        r"has a folder Train with folders of its own, but none for the test: call that test, val, .*/Train",
    ),
    "no folder": (shutil.rmtree, "there is no such folder"),
    "two tests": (lambda f: copies(f, "train", "Test", "test_set"), "has Test and test_set: which"),
    "a split that is there": (
        lambda f: copies(f, "train", "test"),
        "is split already, in folders: drop --split-by",
        {"split_by": "folder"},
    ),
    "a share of a split that is there": (
        lambda f: copies(f, "train", "test"),
        "is split already, in folders: drop --test-fraction 0.2",
        {"test_fraction": 0.2},
    ),
    "other classes in the test": (
        lambda f: [copies(f, "train", "test"), save(f / "test/fish/1.png")],
        "class fish is in only one of train and test",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_cannot_be_used_is_told_in_one_sentence(case, photos):
    spoil, sentence, *options = BAD[case]
    spoil(photos)
    with pytest.raises(UserError, match=sentence) as caught:
        load(photos, **(options[0] if options else {}))
    assert str(caught.value).startswith("--dataset ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_bare_name_of_a_folder_is_told_how_to_give_it(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    with pytest.raises(UserError, match=r"'photos' is no set of TFDS; if the folder .* give --dataset ./photos"):
        data.load("photos")
    assert data.load("./photos").name == "photos"


def test_the_second_start_decodes_nothing(photos, monkeypatch, tmp_path):
    first = load(photos, cache_dir=str(tmp_path / "cache"))
    assert isinstance(first.train.image, np.memmap)
    monkeypatch.setattr("jax_mix.training.data.pixels.decode", None)
    second = load(photos, cache_dir=str(tmp_path / "cache"))
    np.testing.assert_array_equal(second.train.image, first.train.image)
    np.testing.assert_array_equal(second.test.label, first.test.label)
    np.testing.assert_array_equal(second.normalize.std, first.normalize.std)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_other_images_or_options_are_another_cache(photos, tmp_path):
    load(photos, cache_dir=str(tmp_path / "cache"))
    save(photos / "dog" / "3.png", value=55)
    dataset = load(photos, cache_dir=str(tmp_path / "cache"))
    assert (55, 1) in values(dataset.train) | values(dataset.test)
    assert load(photos, cache_dir=str(tmp_path / "cache"), image_size=4).train.image.shape == (16, 4, 4, 3)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_the_cache_is_one_of_what_is_read(tmp_path, monkeypatch):
    """Two folders of one relative name, of the same sizes and times, and one of another content in its place."""
    for k, place in enumerate(("one", "two", "three")):
        for i in range(4):
            for name in ("cat", "dog"):
                file = tmp_path / place / "photos" / name / f"{i}.bmp"
                save(file, value=10 * k + i)
                os.utime(file, (1, 1))
    read = []
    for place in ("one", "two"):
        monkeypatch.chdir(tmp_path / place)
        read.append(data.load("./photos", cache_dir=str(tmp_path / "cache")))
    assert [set(each.train.image[:, 0, 0, 0].tolist()) <= set(range(10 * k, 10 * k + 4)) for k, each in enumerate(read)]
    assert [int(each.train.image.max()) // 10 for each in read] == [0, 1]
    shutil.rmtree(tmp_path / "two" / "photos")
    (tmp_path / "three" / "photos").rename(tmp_path / "two" / "photos")
    assert int(data.load("./photos", cache_dir=str(tmp_path / "cache")).train.image.max()) // 10 == 2


def test_a_file_is_known_by_its_ends_where_size_and_times_are_equal(tmp_path, monkeypatch):
    for name, content in (("a", b"1" * 9999), ("b", b"1" * 9998 + b"2"), ("c", b"2" + b"1" * 9998)):
        (tmp_path / name).write_bytes(content)
    stat = os.stat(tmp_path / "a")
    monkeypatch.setattr(os, "fstat", lambda _: stat)
    assert len({str(identity(tmp_path / name)) for name in "abc"}) == 3
    assert identity(tmp_path / "a") == identity(tmp_path / "a")
    assert identity(tmp_path / "gone") == [2]


def test_a_start_elsewhere_with_the_same_path_reads_the_cache(photos, tmp_path, monkeypatch):
    load(photos, cache_dir=str(tmp_path / "cache"))
    monkeypatch.chdir(photos.parent)
    for name in ("./photos", "photos/", "./photos/../photos"):
        data.load(name, cache_dir=str(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path, at):
    """One bit of one byte."""
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1
    path.write_bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: truncate(folder / "train_image.npy"),
        lambda folder: (folder / "test_label.npy").unlink(),
        lambda folder: (folder / "about.json").write_text("{"),
        lambda folder: (folder / "about.json").unlink(),
        lambda folder: (folder / "about.json").write_text(""),
        lambda folder: (folder / "about.json").write_text('{"arrays": {}, "sum": 0}'),
        lambda folder: flip(folder / "about.json", -10),
        lambda folder: flip(folder / "train_label.npy", -1),
        lambda folder: flip(folder / "train_label.npy", 0),
        lambda folder: flip(folder / "test_image.npy", 12),
        lambda folder: flip(folder / "train_image.npy", -1),
        lambda folder: (folder / "train_label.npy").write_bytes(b""),
    ],
)
def test_a_damaged_cache_is_made_anew(damage, photos, tmp_path, capsys):
    load(photos, cache_dir=str(tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").iterdir()
    damage(folder)
    assert values(load(photos, cache_dir=str(tmp_path / "cache")).train) <= ALL
    assert "is damaged" in capsys.readouterr().err
    load(photos, cache_dir=str(tmp_path / "cache"))
    assert capsys.readouterr().err == ""


def test_a_disk_that_fills_while_the_cache_is_written_costs_the_cache_alone(photos, tmp_path, capsys, monkeypatch):
    """The space is reserved before it is written, as a write to mapped memory would end the process."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    assert values(load(photos, cache_dir=str(tmp_path / "cache")).train) <= ALL
    assert "decoded images cannot be kept in" in (told := capsys.readouterr().err)
    assert "No space left on device" in told
    assert not list((tmp_path / "cache").iterdir())


def test_what_killed_processes_left_of_a_cache_goes_after_a_day(photos, tmp_path):
    """Not before: another process may be writing it."""
    for name, hours in ((".photos-1.a", 25), (".photos-2.b", 23)):
        (tmp_path / "cache" / name).mkdir(parents=True)
        os.utime(tmp_path / "cache" / name, times=(then := time.time() - 3600 * hours, then))
    load(photos, cache_dir=str(tmp_path / "cache"))
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]
    assert left == [".photos-2.b"]


def test_a_cache_that_another_process_has_just_made_is_used(photos, tmp_path, capsys, monkeypatch):
    load(photos, cache_dir=str(tmp_path / "other"))
    decode_all = cache._decode_all

    def meanwhile(*arguments):
        shutil.copytree(tmp_path / "other", tmp_path / "cache", dirs_exist_ok=True)
        return decode_all(*arguments)

    monkeypatch.setattr(cache, "_decode_all", meanwhile)
    dataset = load(photos, cache_dir=str(tmp_path / "cache"))
    assert values(dataset.train) | values(dataset.test) == ALL
    assert os.listdir(tmp_path / "cache") == os.listdir(tmp_path / "other")
    assert capsys.readouterr().err == ""


def test_without_a_place_for_the_cache_it_goes_on(photos, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    dataset = load(photos, cache_dir=str(tmp_path / "file" / "cache"))
    assert values(dataset.train) <= ALL
    assert "--cache-dir: decoded images cannot be kept in" in capsys.readouterr().err

    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: full)
    assert values(load(photos, cache_dir=str(tmp_path / "cache")).train) <= ALL
    assert "are free): going on without" in capsys.readouterr().err
    assert os.listdir(tmp_path / "cache") == []


def test_train_py_on_a_folder(photos, tmp_path, capsys):
    arguments = ["--dataset", str(photos), "--epochs", "1", "--batch-size", "8", "--devices", "1", "--mix", "cutmix"]
    assert train.main([*arguments, "--width", "4", "--out", str(tmp_path / "runs"), "--name", "photos"]) == 0
    assert "photos: 16 training and 4 test images of 6x5x3, 2 classes" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs/photos/config.json").read_text())["dataset"] == str(photos)

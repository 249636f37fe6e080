"""Folders of images in which something lies that should not: each gives the right images, or a sentence."""

import contextlib
import io
import os
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

import train
from jax_mix.training.config import Config
from jax_mix.training.errors import UserError
from jax_mix.training.run import choose_folder
from parity_tests.training.test_layout import load, make


def png(width, height):
    """A PNG of that size without a pixel."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def values(dataset):
    """Each image's value and class, all in order; images of one value each."""
    return sorted(
        (int(image.flat[0]), dataset.class_names[label])
        for split in (dataset.train, dataset.test)
        for image, label in zip(split.image, split.label, strict=True)
    )


ALL = [(i, name) for i in range(4) for name in ("a", "b")]
BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "no image": lambda path: path.write_bytes(b"no"),
    "no width": lambda path: path.write_bytes(png(0, 4)),
    "no pixel": lambda path: path.write_bytes(png(4, 4)),
    "a bomb": lambda path: path.write_bytes(png(60_000, 60_000)),
    "a larger one": lambda path: path.write_bytes(png(2**31 - 1, 2**31 - 1)),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "bytes in its name": lambda path: path.with_name(os.fsdecode(b"\xff\n.png")).write_bytes(b"no"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_image_is_told_or_left_out(kind, tmp_path):
    make(tmp_path, "a", "b", count=10)
    BROKEN[kind](tmp_path / "a" / "x.png")
    assert "cannot be read; go on without such: --broken-images skip." in refused_by_train(tmp_path)
    dataset, _, err = load(tmp_path, broken_images="skip")
    assert values(dataset) == [(i, name) for i in range(10) for name in ("a", "b")]
    (line,) = err.splitlines()
    assert line.startswith("left out: '")


def refused_by_train(folder):
    """The one line that train.py says of it."""
    with contextlib.redirect_stderr(told := io.StringIO()):
        assert train.main(["--dataset", str(folder), "--out", str(folder / "runs")]) == 2
    (line,) = told.getvalue().splitlines()
    return line


PASSED_OVER = {
    "a pipe": lambda path: os.mkfifo(path),
    "no end": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a link back": lambda path: path.symlink_to(path.parent),
}


@pytest.mark.parametrize("kind", PASSED_OVER)
def test_what_is_no_file_is_passed_over(kind, tmp_path):
    make(tmp_path, "a", "b")
    PASSED_OVER[kind](tmp_path / "a" / "x.png")
    PASSED_OVER[kind](tmp_path / "b" / "c.png")
    dataset, _, err = load(tmp_path)
    assert values(dataset) == ALL
    assert ("left out" in err) == (kind != "a folder")


@pytest.mark.parametrize("name", ["$x$", "$", " ", "it's", "A", "-", "*", "%s{}", "e\u0301", "con", "a" * 255])
def test_names_of_all_kinds_are_classes_and_files(name, tmp_path):
    make(tmp_path, name, "0")
    (tmp_path / name / "1.png").rename(tmp_path / name / f"{name[:251]}.png")
    dataset, *_ = load(tmp_path)
    assert values(dataset) == [(i, each) for i in range(4) for each in sorted((name, "0"))]


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    """Each of the eight ways, and numbers that mean none."""
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    half, quarter, back = (np.rot90(upright, turns) for turns in (2, 1, -1))
    ways = [upright, np.fliplr(upright), half, np.flipud(upright), upright.T, quarter, half.T, back, upright, upright]
    for number, lies in enumerate(ways, 1):
        exif = PIL.Image.Exif()
        exif[0x0112] = number
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            PIL.Image.fromarray(np.ascontiguousarray(lies)).save(tmp_path / name / f"{number}.png", exif=exif)
    dataset, *_ = load(tmp_path)
    for split in (dataset.train, dataset.test):
        for image in split.image:
            np.testing.assert_array_equal(image[..., 0], upright)


def test_all_broken_is_told(tmp_path):
    make(tmp_path, "a", "b")
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(png(0, 1))
    with pytest.raises(UserError, match="no images in its split 'train'"):
        load(tmp_path, broken_images="skip")


def test_a_folder_that_must_not_be_read_is_told(tmp_path, monkeypatch):
    make(tmp_path, "a", "b")
    scandir = os.scandir

    def guarded(folder):
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    assert refused_by_train(tmp_path).endswith(f"Permission denied: '{tmp_path}/b'")


def test_names_that_would_move_the_cursor_are_spelled_out(tmp_path):
    folder = tmp_path / "two\nlines"
    make(folder, "a\nb", "\x1b[31mred", "\u202eleft")
    dataset, out, err = load(folder)
    assert dataset.class_names == ("\\x1b[31mred", "a\\nb", "\\u202eleft")
    assert out.startswith("two\\nlines: ")
    (folder / "a\nb" / "no\nimage.txt").write_text("")
    (folder / "a\nb" / "broken\n.png").write_text("")
    *_, err = load(folder, broken_images="skip")
    assert r"two\nlines/a\nb/broken\n.png" in err
    assert len(err.splitlines()) == 2


def test_long_names_are_no_hindrance(tmp_path):
    """Also that of the folder itself, which is in that of the cache and of the run."""
    folder = tmp_path / ("d" * 255)
    make(folder, "a", "ö" * 127)
    os.symlink(folder / "a", folder / ("l" * 255))
    dataset, *_ = load(folder, cache_dir=str(tmp_path / "cache"))
    assert len(dataset.class_names) == 3
    (cached,) = os.listdir(tmp_path / "cache")
    assert cached.startswith("ddd")
    chosen = choose_folder(Config(dataset=str(folder / ("ö" * 127)), out=str(tmp_path / "runs")))
    assert chosen.name.endswith("öö-manifold-0")
    chosen.mkdir(parents=True)

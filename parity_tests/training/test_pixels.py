"""What the pixels of each kind of image file become: by the file's mode alone, one rule for all images."""

import os
import re
import shlex
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL.Image
import pytest

from jax_mix.training import data
from jax_mix.training.data import pixels
from jax_mix.training.data.source import resized
from jax_mix.training.errors import UserError


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, PIL.Image.Image) else PIL.Image.fromarray(array)
    image.save(path, **options)


def decoded(path, *, grey=False, bits=16):
    assert isinstance(pixels.header(path), pixels.Header)
    result = pixels.decode(path, grey=grey, size=None, bits=bits)
    assert isinstance(result, pixels.Decoded), result
    return result.image


def ramp(top, dtype=np.uint16):
    """From 0 to `top`, 6 by 6 values."""
    return np.linspace(0, top, 36).astype(dtype).reshape(6, 6)


@pytest.mark.parametrize("ending", ["png", "tif", "jp2"])
def test_16_bits_become_the_upper_8_whatever_their_values(ending, tmp_path):
    for top in (250, 4000, 65535):
        save(tmp_path / f"{top}.{ending}", ramp(top))
        np.testing.assert_array_equal(decoded(tmp_path / f"{top}.{ending}", grey=True)[..., 0], ramp(top) // 256)


def test_16_bits_of_a_pgm_too(tmp_path):
    save(tmp_path / "a.pgm", ramp(60000, np.int32))
    np.testing.assert_array_equal(decoded(tmp_path / "a.pgm", grey=True)[..., 0], ramp(60000) // 256)


@pytest.fixture
def scans(tmp_path):
    """A dark class, up to 250, and a bright one, up to 4000, of 16 bits."""
    for i in range(5):
        save(tmp_path / "scans" / "bright" / f"{i}.png", ramp(4000))
        save(tmp_path / "scans" / "dark" / f"{i}.png", ramp(250))
    return str(tmp_path / "scans")


def test_a_dark_class_stays_darker_and_the_rule_is_told_each_time(scans, capsys):
    for _ in range(2):  # the second from the cache
        dataset = data.load(scans)
        assert [dataset.train.image[dataset.train.label == k].max() for k in (0, 1)] == [15, 0]
        out, err = capsys.readouterr()
        assert "10 images of 16 bits: values of 0 to 65535 become 0 to 255" in out
        assert "16-bit images reach 4000 of 65535, which leaves 16 of 256 shades: --bits 12 keeps more." in err


def test_so_it_is_of_images_that_stay_encoded(scans, capsys):
    for _ in range(2):
        data.load(scans, image_size=8, cropping=data.Cropping(8))
        assert capsys.readouterr().err.count("16-bit images reach 4000 of 65535") == 1
    data.load(scans, image_size=8, cropping=data.Cropping(8), bits=12)
    assert capsys.readouterr().err == ""


def test_fewer_bits_keep_more_shades(scans, capsys):
    dataset = data.load(scans, bits=12)
    np.testing.assert_array_equal(dataset.train.image[0, ..., 0], ramp(4000) // 16)
    assert [dataset.train.image[dataset.train.label == k].max() for k in (0, 1)] == [250, 15]
    assert capsys.readouterr() == ("10 images of 16 bits: values of 0 to 4095 become 0 to 255\n", "")
    with pytest.raises(
        UserError, match=r"png' \(ValueError: it has the value 4000, which is not of --bits 11 but of 12"
    ):
        data.load(scans, bits=11)


def test_bits_are_refused_where_no_image_has_16(tmp_path):
    for name in ("a/1", "a/2", "b/1", "b/2"):
        save(tmp_path / f"{name}.png", ramp(255, np.uint8))
    with pytest.raises(UserError, match=r"--bits is 12, but .* has no images of 16 bits"):
        data.load(str(tmp_path), bits=12)


def png(color, channels, value):
    """A PNG of 16 bits a channel, which Pillow cannot write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + struct.pack(f">{4 * channels}H", *[value] * (4 * channels)) for _ in range(4))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bits_of_colours_follow_the_same_rule(tmp_path, capsys):
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (tmp_path / name[0]).mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(png(2, 3, 2304))
    assert (data.load(str(tmp_path)).train.image == 9).all()
    out, err = capsys.readouterr()
    assert "4 images of 16 bits: values of 0 to 65535 become 0 to 255" in out
    assert "which leaves 10 of 256 shades: scale them." in err
    with pytest.raises(UserError, match="its colours have 16 bits, and --bits 12 is for images without colour"):
        data.load(str(tmp_path), bits=12)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (ramp(1, np.float32), "floating-point numbers, mode F"),
        (ramp(65535, np.int32), "whole numbers of 32 bits, mode I"),
    ],
)
def test_32_bits_are_refused_with_a_command_that_works(array, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1", "a/2", "b/1", "b/2"):
        save(tmp_path / "photos" / f"{name}.tif", array)
    with pytest.raises(UserError) as caught:
        data.load("./photos")
    told = str(caught.value)
    assert told.startswith("--dataset ./photos: 'photos/a/")
    assert f"its pixels are {kind}; 8 or 16 bits are needed" in told
    command, dataset = re.search(r"(python -c .*) and then --dataset (\S+) instead\.$", told).groups()
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    image = data.load(dataset).train.image[0, ..., 0]
    np.testing.assert_array_equal(image, (array.astype(float) / array.max() * 65535).round() // 256)
    with pytest.raises(UserError, match=r"no image of class|has no images"):
        data.load("./photos", broken_images="skip")


def test_what_is_transparent_is_white(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (10, 20, 30, 255)
    clear[3] = (0, 0, 0, 51)  # a fifth of black
    expected = np.array([[10, 20, 30], [10, 20, 30], [255] * 3, [204] * 3])[:, None].repeat(4, 1)
    save(tmp_path / "rgba.png", clear)
    np.testing.assert_array_equal(decoded(tmp_path / "rgba.png"), expected)
    grey = np.dstack([np.full((4, 4), 9, np.uint8), clear[..., 3]])
    bands = [PIL.Image.fromarray(np.ascontiguousarray(grey[..., k])) for k in (0, 1)]
    save(tmp_path / "la.png", PIL.Image.merge("LA", bands))
    assert decoded(tmp_path / "la.png", grey=True)[:, 0, 0].tolist() == [9, 9, 255, 206]
    palette = PIL.Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.paste(1, (0, 0, 4, 2))
    for ending in ("png", "gif"):
        save(tmp_path / f"p.{ending}", palette, transparency=0)
        assert decoded(tmp_path / f"p.{ending}")[[0, 3], 0].tolist() == [[40, 50, 60], [255] * 3]
    save(tmp_path / "l.png", PIL.Image.new("L", (4, 4), 7), transparency=7)
    assert (decoded(tmp_path / "l.png", grey=True) == 255).all()


def test_other_modes(tmp_path):
    save(tmp_path / "one.png", PIL.Image.new("1", (3, 2), 1))
    assert decoded(tmp_path / "one.png", grey=True).tolist() == [[[255]] * 3] * 2
    save(tmp_path / "grey.png", PIL.Image.new("L", (3, 2), 70))
    assert decoded(tmp_path / "grey.png")[0, 0].tolist() == [70] * 3  # beside images with colour
    for ending, options in (("tif", {}), ("jpg", {"quality": 100})):
        save(tmp_path / f"ink.{ending}", PIL.Image.new("CMYK", (8, 8), (10, 20, 30, 40)), **options)
        assert np.abs(decoded(tmp_path / f"ink.{ending}")[0, 0].astype(int) - (207, 198, 190)).max() <= 1
    save(tmp_path / "ycc.jpg", PIL.Image.new("YCbCr", (8, 8), (100, 128, 128)), quality=100)
    assert decoded(tmp_path / "ycc.jpg")[0, 0].tolist() == [100] * 3


def test_of_several_images_in_a_file_the_first_is_used_and_told(tmp_path, capsys):
    frames = [PIL.Image.new("L", (4, 4), value) for value in (5, 6, 7)]
    for name, ending in (("a/1", "gif"), ("a/2", "tif"), ("b/1", "tif"), ("b/2", "png")):
        save(tmp_path / f"{name}.{ending}", frames[0], save_all=True, append_images=frames[1:])
    dataset = data.load(str(tmp_path))
    assert set(np.concatenate([dataset.train.image, dataset.test.image]).ravel().tolist()) == {5}
    assert "4 files with several images each, of which the first is used" in capsys.readouterr().out


def test_a_file_is_read_by_its_content_where_its_ending_is_that_of_another_image(tmp_path):
    save(tmp_path / "a.png", ramp(255, np.uint8))
    os.rename(tmp_path / "a.png", tmp_path / "a.jpg")
    np.testing.assert_array_equal(decoded(tmp_path / "a.jpg", grey=True)[..., 0], ramp(255, np.uint8))


def scaled_then_cut(image, size):
    """The whole image scaled, and its middle: what `resized` gives, at the cost of all that is cut off."""
    height, width, _ = image.shape
    scale = size / min(height, width)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (high - size) // 2
    picture = PIL.Image.fromarray(image).resize((wide, high), PIL.Image.Resampling.BILINEAR)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("shape", [(40, 60), (61, 33), (7, 90), (50, 50), (28, 28)])
@pytest.mark.parametrize("size", [5, 28, 64])
def test_an_image_is_scaled_and_its_middle_cut(shape, size):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    apart = resized(image, size).astype(int) - scaled_then_cut(image, size)
    assert np.abs(apart).max() <= (0 if shape[0] == shape[1] else 1)  # Pillow rounds where the square begins


NARROW = """
import resource, numpy
from jax_mix.training.data.source import resized
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, resource.RLIM_INFINITY))
print(resized(numpy.zeros((1, 3000, 3), numpy.uint8), 4096).shape)
"""


def test_a_narrow_image_needs_no_more_memory_than_its_square():
    """Scaled as a whole it would have 12 million columns."""
    done = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True, check=True)
    assert done.stdout == "(4096, 4096, 3)\n"


def test_a_file_of_another_format_than_its_ending_starts_no_program(tmp_path, monkeypatch):
    """Pillow would give an EPS file to Ghostscript, whatever it is called."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    for name in ("a", "b"):
        for i in range(3):
            save(tmp_path / name / f"{i}.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "a" / "3.png").write_bytes(eps)
    with pytest.raises(UserError, match=r"'.*a/3\.png' \(UnidentifiedImageError: cannot identify image file\)"):
        data.load(str(tmp_path), cache_dir=str(tmp_path / "cache"))


def test_a_jpeg_that_is_called_png_is_read(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            save(tmp_path / name / f"{i}.png", np.full((8, 8), 100, np.uint8), format="JPEG")
    assert np.all(data.load(str(tmp_path), cache_dir=str(tmp_path.parent / "cache")).train.image == 100)


@pytest.mark.parametrize("bits", [12, 16])
def test_where_white_is_0_values_are_turned_round(bits, tmp_path):
    """As in scans of 16 bits, whose files say so."""
    values = ramp(2**bits - 1)
    save(tmp_path / "a.tif", values, tiffinfo={262: 0})
    expected = (2**bits - 1 - values) >> (bits - 8)
    np.testing.assert_array_equal(decoded(tmp_path / "a.tif", grey=True, bits=bits)[..., 0], expected)


def test_a_phones_preview_is_no_second_image(tmp_path):
    first, second = (PIL.Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200))
    for name in ("a.mpo", "a.gif"):
        save(tmp_path / name, first, save_all=True, append_images=[second])
        assert abs(int(decoded(tmp_path / name).max()) - 10) < 3
    assert [pixels.header(tmp_path / name).frames for name in ("a.mpo", "a.gif")] == [False, True]

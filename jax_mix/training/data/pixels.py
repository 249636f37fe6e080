"""An image file as uint8 pixels: what each of Pillow's modes becomes, by the mode alone and never by the values."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps

from jax_mix.training.data.hints import as_flag, python_command
from jax_mix.training.data.listing import readable
from jax_mix.training.data.source import resized

_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}  # Pillow's names of modes without colour
_WIDE = {"I": ("whole numbers of 32 bits", 65535), "F": ("floating-point numbers", 1)}  # and what white may be
_PHOTOMETRIC = 262  # the TIFF tag
_PAPER = 255  # what is behind transparent pixels: white, as a page is


class Header(NamedTuple):
    """What a file says of its image, before it is decoded."""

    size: tuple[int, int]  # height, width, once it is turned
    grey: bool
    bits: int  # 8 or 16 a channel
    frames: bool  # whether there are several images, of which the first is used


class WidePixels(Exception):
    """An image whose mode does not say which values are black and white."""

    def __init__(self, mode: str) -> None:
        self.kind, self.white = _WIDE[mode]
        super().__init__(f"its pixels are {self.kind}, mode {mode}; 8 or 16 bits are needed")

    def how(self, root: Path) -> str:
        """A line for the shell that writes such images as ones of 16 bits, and all others as they are."""
        out = root.resolve().with_name(f"{root.resolve().name}-16-bits")
        code = (
            f"import pathlib, numpy, PIL.Image; black, white = 0, {self.white}; "
            f"old, new = pathlib.Path({str(root)!r}), pathlib.Path({str(out)!r}); "
            f"[((to := new / f.relative_to(old).with_suffix('.png')).parent.mkdir(parents=True, exist_ok=True), "
            f"(PIL.Image.fromarray(((numpy.asarray(i).astype(float) - black) / (white - black) * 65535).round()"
            f".clip(0, 65535).astype('uint16')) if (i := PIL.Image.open(f)).mode in ('I', 'F') else i).save(to)) "
            f"for f in old.rglob('*') if f.suffix.lower() in PIL.Image.registered_extensions()]"
        )
        return f"{python_command(code)} and then --dataset {as_flag(out)} instead"


class Decoded(NamedTuple):
    """An image, and the largest value that its file has."""

    image: Any  # uint8 [height, width, channels]
    top: int


def header(file: Path) -> Header | Exception:
    """Of an image, or the exception that was raised: it cannot be read, or its mode cannot be used."""
    try:
        with warnings.catch_warnings(action="ignore"), _open(file) as image:
            bits = _bits(image)  # first: to look for the orientation may decode the image, and forget how it lies there
            # The orientation: a quarter turn, two of them mirrored.
            turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
            size = (image.width, image.height) if turned else (image.height, image.width)
            frames = image.format != "MPO" and getattr(image, "is_animated", False)  # a phone's has a preview
            return Header(size, image.mode in _GREY, bits, frames)
    except Exception as error:
        return error


def decode(
    file: Path | BinaryIO, *, grey: bool, size: int | tuple[int, int] | None, bits: int, crop: float | None = None
) -> Decoded | Exception:
    """The image, or the exception that was raised.

    Args:
      file: an image.
      grey: whether it becomes one channel; else three.
      size: as for `resized`; None: as it is.
      crop: as for `resized`.
      bits: how many of a 16-bit image's values are used: the upper 8 of these are kept.
    """
    try:
        with warnings.catch_warnings(action="ignore"), _open(file) as opened:
            deep = _bits(opened) == 16
            image: Any = PIL.ImageOps.exif_transpose(opened)
            top = 0
            if deep and image.mode.startswith("I"):
                values = np.asarray(image)
                top = int(values.max())
                if top >= 2**bits:
                    raise ValueError(f"it has the value {top}, which is not of --bits {bits} but of {top.bit_length()}")
                if (
                    getattr(opened, "tag_v2", {}).get(_PHOTOMETRIC) == 0
                ):  # white is 0, which Pillow minds at 8 bits alone
                    values = 2**bits - 1 - values.astype(np.int32)
                image = PIL.Image.fromarray((values >> (bits - 8)).astype(np.uint8))
            elif deep and bits < 16:
                raise ValueError(f"its colours have 16 bits, and --bits {bits} is for images without colour")
            elif image.has_transparency_data:
                image = image.convert("RGBA")
                paper = PIL.Image.new("RGBA", image.size, (_PAPER, _PAPER, _PAPER, 255))
                image = PIL.Image.alpha_composite(paper, image)
            array = np.asarray(image.convert("L" if grey else "RGB"))
        if deep and not top:  # of colours Pillow gives the upper 8 bits
            top = int(array.max()) << 8 | 255
        array = array.reshape(*array.shape[:2], -1)
        return Decoded(array if size is None else resized(array, size, crop), top)
    except Exception as error:
        return error


def _open(file: Path | BinaryIO) -> PIL.Image.Image:
    """The image, whatever its ending, if its format is one of those read here: for others Pillow may start programs."""
    return PIL.Image.open(file, formats=sorted({*readable().values()}))


def reason(file: Path, error: Exception) -> str:
    """Why a file cannot be used, in words that name it once."""
    text = str(getattr(error, "strerror", None) or error)
    for name in (repr(str(file)), str(file)):
        text = text.replace(f" {name}", "")
    return f"'{file}' ({type(error).__name__}: {(text.splitlines() or [''])[0]})"


def _bits(image: PIL.Image.Image) -> int:
    """Of a channel, 8 or 16.

    Raises:
      WidePixels: it has 32 bits, of which nothing tells where black and white are.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return 16
    if image.mode in _WIDE:
        raise WidePixels(image.mode)
    return 16 if any(";16" in str(tile.args) for tile in getattr(image, "tile", ())) else 8

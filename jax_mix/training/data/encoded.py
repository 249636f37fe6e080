"""An image as it lies in a file: its size without decoding, and its pixels, of a JPEG at a part of the size."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from jax_mix.training.data import pixels
from jax_mix.training.data.source import Form

if TYPE_CHECKING:
    from jaxtyping import UInt8

_JPEG, _APP1 = b"\xff\xd8\xff", b"\xff\xe1"
_ORIENTATION = 0x0112
# What each orientation needs, to be upright.
_TURNS: dict[int, Any] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


class Picture:
    """One image. The two decoders give the same pixels; simplejpeg gives them sooner, and does not know all JPEGs.

    Attributes:
      height, width: once it is turned.
    """

    def __init__(self, content: bytes, form: Form) -> None:
        """
        Raises:
          Exception: it cannot be read.
        """
        self._content, self._form = content, form
        self._orientation = 1
        self._pixels: Any = None
        size: Any = self._size_of_jpeg()
        if size is None:
            self._pixels = self._by_pillow()
            size = self._pixels.shape[:2]
        self.height, self.width = size if self._orientation < 5 else size[::-1]

    def pixels(self, shrink: int = 1) -> tuple[UInt8[np.ndarray, "height width channels"], int]:
        """The pixels, and how many times smaller they are, along each side, than the image: `shrink` or 1.

        Args:
          shrink: 1, 2, 4 or 8. Only a JPEG can be decoded smaller; sides are rounded up before the image is turned, so
            that a pixel of a turned one may lie beside its place by less than a pixel.

        Raises:
          Exception: it cannot be decoded.
        """
        if self._pixels is not None:
            return self._pixels, 1
        height, width = (self.height, self.width) if self._orientation < 5 else (self.width, self.height)
        least = {"min_height": -(-height // shrink), "min_width": -(-width // shrink), "min_factor": shrink}
        colours = "GRAY" if self._form.grey else "RGB"
        import simplejpeg  # here, so that who trains on other data needs none

        try:
            array = simplejpeg.decode_jpeg(self._content, colours, **(least if shrink > 1 else {}))
        except ValueError:  # Pillow knows better what can be read all the same
            return self._by_pillow(), 1
        return _TURNS.get(self._orientation, lambda a: a)(array), shrink

    def _size_of_jpeg(self) -> tuple[int, int] | None:
        """Height and width as they lie in the file; None: it is not for simplejpeg."""
        if not self._content.startswith(_JPEG):
            return None
        import simplejpeg

        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(self._content)
        except ValueError:
            return None
        if colours not in (("Gray",) if self._form.grey else ("Gray", "YCbCr")):
            return None
        if _APP1 in self._content:  # where the orientation stands, if anywhere; compressed pixels have no such bytes
            image = PIL.Image.open(io.BytesIO(self._content), formats=["JPEG"])
            orientation = image.getexif().get(_ORIENTATION)
            self._orientation = orientation if orientation in _TURNS else 1
        return height, width

    def _by_pillow(self) -> Any:
        decoded = pixels.decode(io.BytesIO(self._content), grey=self._form.grey, size=None, bits=self._form.bits)
        if isinstance(decoded, Exception):
            raise decoded
        return decoded.image

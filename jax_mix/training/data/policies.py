"""RandAugment and TrivialAugment: operations on one image, drawn at random; the image is Pillow's, of 8 bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import cast

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps

from jax_mix._checks import suggest
from jax_mix.training.errors import UserError, require

_LEVELS = 31  # from none of an operation to the most of it
_MOST = 10  # operations one after the other
_NAMES = ("none", "trivial", "rand")


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which operations an image gets.

    Attributes:
      wide: TrivialAugment's ranges, and a level of each operation's own; else RandAugment's ranges, and one level.
      operations: how many, one after the other.
      level: of `_LEVELS`, counted from 0, of each; None: drawn.
    """

    wide: bool
    operations: int = 1
    level: int | None = None

    def __call__(self, image: PIL.Image.Image, rng: np.random.Generator) -> PIL.Image.Image:
        """The image after operations that `rng` draws."""
        for _ in range(self.operations):
            name = tuple(_OPERATIONS)[int(rng.integers(len(_OPERATIONS)))]
            level = int(rng.integers(_LEVELS)) if self.level is None else self.level
            back = bool(rng.random() <= 0.5)
            image = _OPERATIONS[name](image, magnitude(name, level, image.size, wide=self.wide, back=back))
        return image


def parse_policy(words: str) -> Policy | None:
    """What `--auto-augment` says: none, trivial, rand, or rand:OPERATIONS,LEVEL.

    >>> parse_policy("rand:2,9")
    Policy(wide=False, operations=2, level=9)

    Raises:
      UserError: there is no such policy, or a number is out of range.

    Source: Cubuk et al., arXiv:1909.13719; Müller and Hutter, arXiv:2103.10158. Operations, ranges and defaults are
    those of torchvision's `RandAugment` and `TrivialAugmentWide`.
    """
    name, colon, numbers = words.partition(":")
    if name not in _NAMES:
        raise UserError(f"--auto-augment is {words!r}: {suggest(name, list(_NAMES))}")
    if name != "rand":
        require(not colon, f"--auto-augment {name} takes no numbers, got {words!r}; rand does, as rand:2,9.")
        return Policy(wide=True) if name == "trivial" else None
    given = numbers.split(",") if colon else ["2", "9"]
    if len(given) != 2 or not all(each.isascii() and each.isdigit() for each in given):
        raise UserError(f"--auto-augment must be rand:OPERATIONS,LEVEL, as rand:2,9; got {words!r}.")
    operations, level = map(int, given)
    require(1 <= operations <= _MOST, f"--auto-augment rand must have 1 to {_MOST} operations, got {operations}.")
    require(level < _LEVELS, f"--auto-augment rand must have a level from 0 to {_LEVELS - 1}, got {level}.")
    return Policy(wide=False, operations=operations, level=level)


def magnitude(name: str, level: int, size: tuple[int, int], *, wide: bool, back: bool) -> float:
    """How much of an operation a level is, in the operation's own unit.

    Args:
      name: of the operation.
      level: from 0, none of it, to 30.
      size: width and height of the image.
      wide: TrivialAugment's ranges.
      back: the other way round, of an operation that has two ways: to the left, darker.
    """
    part = level / (_LEVELS - 1)
    if name == "posterize":
        return round(8 - part * (6 if wide else 4))
    if name == "solarize":
        return 255 * (1 - part)
    if name in ("identity", "auto_contrast", "equalize"):
        return 0
    if name in ("translate_x", "translate_y"):
        most = 32 if wide else 150 / 331 * size[name == "translate_y"]
    elif name == "rotate":
        most = 135 if wide else 30
    elif name in ("shear_x", "shear_y"):
        most = 0.99 if wide else 0.3
    else:
        most = 0.99 if wide else 0.9
    return -part * most if back else part * most


def _affine(image: PIL.Image.Image, *matrix: float) -> PIL.Image.Image:
    """Pixel (x, y) is that at (a x + b y + c, d x + e y + f); black comes in at the border."""
    return image.transform(image.size, PIL.Image.Transform.AFFINE, matrix, PIL.Image.Resampling.NEAREST)


def _enhanced(kind: type) -> Callable[[PIL.Image.Image, float], PIL.Image.Image]:
    return lambda image, m: kind(image).enhance(1 + m)


# In torchvision's order: the number that is drawn means the same operation here and there.
_OPERATIONS: dict[str, Callable[[PIL.Image.Image, float], PIL.Image.Image]] = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, m: _affine(image, 1, m, 0, 0, 1, 0),
    "shear_y": lambda image, m: _affine(image, 1, 0, 0, m, 1, 0),
    "translate_x": lambda image, m: _affine(image, 1, 0, -int(m), 0, 1, 0),
    "translate_y": lambda image, m: _affine(image, 1, 0, 0, 0, 1, -int(m)),
    "rotate": lambda image, m: image.rotate(m, PIL.Image.Resampling.NEAREST),
    "brightness": _enhanced(PIL.ImageEnhance.Brightness),
    "color": _enhanced(PIL.ImageEnhance.Color),
    "contrast": _enhanced(PIL.ImageEnhance.Contrast),
    "sharpness": _enhanced(PIL.ImageEnhance.Sharpness),
    "posterize": lambda image, m: PIL.ImageOps.posterize(image, int(m)),
    "solarize": lambda image, m: PIL.ImageOps.solarize(image, cast(int, m)),  # any number will do
    "auto_contrast": lambda image, _: PIL.ImageOps.autocontrast(image),
    "equalize": lambda image, _: PIL.ImageOps.equalize(image),
}


def apply(name: str, image: PIL.Image.Image, m: float) -> PIL.Image.Image:
    """One operation of that magnitude."""
    return _OPERATIONS[name](image, m)

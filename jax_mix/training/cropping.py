"""The flags of `--augment crop`: what they must be together, and what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jax_mix.training.data.crops import Cropping
from jax_mix.training.data.policies import parse_policy
from jax_mix.training.errors import require

if TYPE_CHECKING:
    from jax_mix.training.config import Config


def check(config: Config) -> None:
    """Raise `UserError` if flags of crops are given without them, or do not go together."""
    policy = parse_policy(config.auto_augment or "none")
    given = {
        "crop-scale": config.crop_scale and " ".join(map(str, config.crop_scale)),
        "auto-augment": None if policy is None else config.auto_augment,
        "erasing": config.erasing or None,
        "test-crop": config.test_crop,
    }
    if config.augment != "crop":
        for name, value in given.items():
            told = f"--{name} is {value}, but --augment is {config.augment}: give --augment crop, or drop it."
            require(value is None, told)
        return
    told = "--augment crop needs --image-size, the side of the squares that images become, such as --image-size 224."
    require(config.image_size is not None, told)
    require(
        config.feed != "device",
        "--feed device keeps decoded images, but --augment crop decodes each when its batch comes: give --feed grain.",
    )
    scale = config.crop_scale
    require(
        scale is None or (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1),
        "--crop-scale must be two parts of an image's area, above 0, at most 1, the smaller first, as 0.08 1; got "
        f"{given['crop-scale']}.",
    )


def of(config: Config) -> Cropping | None:
    """What becomes of images of any size; None: they are decoded beforehand."""
    if config.augment != "crop" or config.image_size is None:
        return None
    scale = config.crop_scale or Cropping.scale
    return Cropping(
        config.image_size,
        scale=(scale[0], scale[1]),
        policy=parse_policy(config.auto_augment or "none"),
        erasing=config.erasing or 0.0,
        test_crop=config.test_crop or Cropping.test_crop,
    )

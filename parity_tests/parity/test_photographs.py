"""Photographs: crops, erased boxes, RandAugment and TrivialAugment are torchvision's, given the same draws."""

import io

import numpy as np
import PIL.Image
import pytest
import scipy.stats
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from jax_mix.training.data import policies
from jax_mix.training.data.crops import Cropping, central_image, crop_box, erased_box, random_image
from jax_mix.training.data.source import Form
from parity_tests.tolerances import assert_close

RGB = Form(grey=False)


def photograph(height=61, width=83, seed=0):
    """Shapes and noise, for every operation to show."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (height, width, 3)) + np.linspace(0, 150, width, dtype=int)[None, :, None]
    image[10:30, 20:50, 1] += 40
    return PIL.Image.fromarray(image.astype(np.uint8))


def encoded(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


class Replayed:
    """Draws of numpy's kind, from a list of numbers in [0, 1)."""

    def __init__(self, numbers):
        self.numbers = list(numbers)

    def uniform(self, low, high):
        return low + (high - low) * self.numbers.pop(0)

    def integers(self, high):
        return int(self.numbers.pop(0) * high)

    def random(self):
        return self.numbers.pop(0)


@pytest.fixture
def torch_replays(monkeypatch):
    """torch's draws from a list of numbers, too; the list is given to what it returns."""
    numbers = []

    def uniform_(self, low=0.0, high=1.0):
        return self.fill_(float(low) + (float(high) - float(low)) * numbers.pop(0))

    def randint(low, high, size, **_):
        return torch.full(size, int(low + numbers.pop(0) * (high - low)))

    monkeypatch.setattr(torch.Tensor, "uniform_", uniform_)
    monkeypatch.setattr(torch, "randint", randint)
    return numbers


SIZES = [(61, 83), (300, 40), (40, 300), (5, 7), (1, 1), (500, 375)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0), (0.001, 0.002)])
def test_crops_of_the_same_draws(size, scale, torch_replays):
    height, width = size
    transform = v2.RandomResizedCrop(8, scale=scale)
    image = torch.zeros(3, height, width)
    for draws in np.random.default_rng(1).random((60, 22)).tolist():
        torch_replays[:] = draws
        theirs = transform.make_params([image])
        assert crop_box(Replayed(draws), height, width, scale) == tuple(
            theirs[name] for name in ("top", "left", "height", "width")
        )


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (3, 3), (9, 40)])
def test_erased_boxes_of_the_same_draws(size, torch_replays):
    height, width = size
    transform = v2.RandomErasing(1.0)
    image = torch.zeros(3, height, width)
    found = set()
    for draws in np.random.default_rng(1).random((100, 22)).tolist():
        torch_replays[:] = draws
        theirs = transform.make_params([image])
        box = tuple(theirs[name] for name in "ijhw") if theirs["v"] is not None else None
        ours = erased_box(Replayed(draws), height, width)
        assert ours == box
        found.add(ours)
    assert len(found) > 1


def test_our_own_draws_are_distributed_as_torchvisions():
    rng, transform = np.random.default_rng(0), v2.RandomResizedCrop(8)
    torch.manual_seed(0)
    image, n = torch.zeros(3, 300, 400), 4000
    ours = np.array([crop_box(rng, 300, 400, (0.08, 1.0)) for _ in range(n)])
    theirs = np.array([list(transform.make_params([image]).values()) for _ in range(n)])
    for of in (lambda box: box[:, 2] * box[:, 3], lambda box: box[:, 3] / box[:, 2], lambda box: box[:, 0]):
        assert scipy.stats.ks_2samp(of(ours), of(theirs)).pvalue > 0.01


def test_a_training_image_of_the_same_draws(torch_replays):
    """Every pixel: cropped, resized and flipped."""
    image = photograph()
    for draws in np.random.default_rng(2).random((12, 22)).tolist():
        for flip in (0.2, 0.7):
            torch_replays[:] = draws
            theirs = v2.RandomResizedCrop(24)(image)
            used = len(draws) - len(torch_replays)
            theirs = functional.horizontal_flip(theirs) if flip < 0.5 else theirs
            ours = random_image(encoded(image), RGB, Cropping(24), Replayed([*draws[:used], flip]))
            np.testing.assert_array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize("size", [(61, 83), (83, 61), (50, 50), (32, 37), (20, 90)])
@pytest.mark.parametrize("crop", [0.875, 1.0, 0.7])
def test_a_test_image(size, crop):
    image = photograph(*size)
    theirs = functional.center_crop(functional.resize(image, [int(32 / crop)]), [32, 32])
    ours = central_image(encoded(image), RGB, Cropping(32, test_crop=crop))
    assert_close(ours.astype(int), np.asarray(theirs).astype(int), "pixels of a part that is scaled alone")


THEIR_NAMES = {
    "identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX",
    "translate_y": "TranslateY", "rotate": "Rotate", "brightness": "Brightness", "color": "Color",
    "contrast": "Contrast", "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize",
    "auto_contrast": "AutoContrast", "equalize": "Equalize",
}  # fmt: skip


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_operations(wide, grey):
    """Each at each third level, both ways: the magnitude, and every pixel."""
    theirs = v2.TrivialAugmentWide() if wide else v2.RandAugment()
    assert [THEIR_NAMES[name] for name in policies._OPERATIONS] == list(theirs._AUGMENTATION_SPACE)
    image = photograph().convert("L" if grey else "RGB")
    for name, their_name in THEIR_NAMES.items():
        magnitudes, signed = theirs._AUGMENTATION_SPACE[their_name]
        values = magnitudes(31, image.height, image.width)
        for level in range(0, 31, 3):
            for back in (False, True):
                ours = policies.magnitude(name, level, image.size, wide=wide, back=back)
                value = 0.0 if values is None else float(values[level]) * (-1 if signed and back else 1)
                assert ours == pytest.approx(value * (255 if name == "solarize" else 1), rel=1e-6, abs=1e-6)
                expected = theirs._apply_image_or_video_transform(image, their_name, value, "nearest", {})
                there = value * (255 if name == "solarize" else 1)
                np.testing.assert_array_equal(policies.apply(name, image, there), expected, err_msg=f"{name} {value}")

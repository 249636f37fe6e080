"""jax_mix/compare/corruptions.py: each does what it says, the same each time."""

import numpy as np
import pytest
from scipy import ndimage

from jax_mix.compare.corruptions import CORRUPTIONS, corrupt

SIDE = 32
IMAGE = np.zeros((4, SIDE, SIDE, 3), np.uint8)
IMAGE[:, 10:20, 12:18] = 200


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_worse_from_mild_to_severe_within_the_range_of_pixels_and_the_same_each_time(name):
    before, distances = IMAGE.copy(), []
    for strength in CORRUPTIONS[name].strengths:
        found = corrupt(name, IMAGE, strength, peak=255)
        assert found.shape == IMAGE.shape
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 255
        np.testing.assert_array_equal(found, corrupt(name, IMAGE, strength, peak=255))
        distances.append(np.abs(found - IMAGE).mean())
    np.testing.assert_array_equal(IMAGE, before)
    assert 0 < distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_of_pixels_that_count_to_16_as_of_those_to_255(name):
    strength = CORRUPTIONS[name].strengths[1]
    small = corrupt(name, IMAGE.astype(np.float32) * 16 / 255, strength, peak=16)
    np.testing.assert_allclose(small * 255 / 16, corrupt(name, IMAGE, strength, peak=255), atol=1e-3)


def test_noise_has_its_standard_deviation():
    grey = np.full((20, SIDE, SIDE, 1), 128, np.uint8)
    assert corrupt("noise", grey, 0.1, peak=255).std() == pytest.approx(25.5, rel=0.02)


def test_contrast_keeps_the_mean_and_its_part_of_the_spread():
    found = corrupt("contrast", IMAGE, 0.3, peak=255)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), IMAGE.mean(axis=(1, 2, 3)), rtol=1e-5)
    assert found.std() == pytest.approx(0.3 * IMAGE.std(), rel=1e-5)


def test_blur_keeps_the_sum():
    found = corrupt("blur", IMAGE, 0.05, peak=255)
    assert found.sum() == pytest.approx(IMAGE.sum(), rel=1e-3)
    assert 0 < found[0, 8, 15, 0] < found[0, 11, 15, 0] < 200


def test_rotation_turns_both_ways_about_the_middle():
    many = np.repeat(IMAGE[:1], 20, 0)
    found = corrupt("rotation", many, 45.0, peak=255)
    kinds = np.unique(found.reshape(20, -1).round(2), axis=0)
    assert len(kinds) == 2
    np.testing.assert_allclose(found[:, 15:17, 15:17], 200, rtol=1e-3)


@pytest.mark.parametrize("side", [0.25, 0.5])
def test_occlusion_blackens_one_box_somewhere(side):
    white = np.full((30, SIDE, SIDE, 1), 255, np.uint8)
    black = corrupt("occlusion", white, side, peak=255) == 0
    assert set(black.sum(axis=(1, 2, 3)).tolist()) == {round(side * SIDE) ** 2}
    rows = black.any(axis=(2, 3)).argmax(1)
    assert len(set(rows.tolist())) > 3
    assert black[0].any(1).sum() == black[0].any(0).sum() == round(side * SIDE)  # in one piece


def test_blur_is_scipys_of_each_channel_by_itself():
    image = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    image[..., 1] = 0
    found = corrupt("blur", image, 0.1, peak=255)
    assert not found[..., 1].any()  # red and blue do not run into green
    for i in range(2):  # nor one image into the next
        for channel in (0, 2):
            alone = ndimage.gaussian_filter(image[i, ..., channel].astype(np.float32), 0.1 * 20, mode="nearest")
            np.testing.assert_allclose(found[i, ..., channel], alone, rtol=1e-4)


@pytest.mark.parametrize("name", ["rotation", "occlusion"])
def test_what_moves_pixels_keeps_their_colours(name):
    colours = np.zeros((6, SIDE, SIDE, 3), np.uint8)
    colours[..., 0], colours[..., 2] = 200, 100
    found = corrupt(name, colours, CORRUPTIONS[name].strengths[0], peak=255)
    assert not found[..., 1].any()
    np.testing.assert_allclose(found[..., 0], 2 * found[..., 2], rtol=1e-5)
    assert found[..., 0].max() == pytest.approx(200, rel=1e-5)


def test_noise_is_drawn_for_each_pixel_image_and_channel():
    grey = np.full((4, SIDE, SIDE, 3), 128, np.uint8)
    noise = corrupt("noise", grey, 0.1, peak=255) - 128
    apart = [noise[0, ..., 0], noise[0, ..., 1], noise[1, ..., 0], np.roll(noise[0, ..., 0], 1, 0)]
    between = np.corrcoef([each.ravel() for each in apart])
    assert np.abs(between - np.eye(4)).max() < 0.15


def test_occlusion_reaches_all_borders():
    white = np.full((400, 8, 8, 1), 255, np.uint8)
    black = (corrupt("occlusion", white, 0.25, peak=255) == 0)[..., 0]
    for rows in (black.any(2), black.any(1)):
        assert np.unique(rows.argmax(1)).tolist() == list(range(7))

"""jax_mix/compare/attacks.py against what can be computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_mix.compare import attacks
from jax_mix.training.data import Normalize
from jax_mix.training.evaluation import accuracy, predict

KEY = jax.random.key(0)
WEIGHT = np.array([[2.0, -1.0], [-0.5, 0.25], [0.0, 0.0]], np.float32)


class Logistic(nnx.Module):
    """Two classes of images of three pixels; its logits are linear."""

    def __init__(self):
        self.weight = nnx.Param(jnp.asarray(WEIGHT))

    def __call__(self, image):
        return image.reshape(image.shape[0], -1) @ self.weight[...]


def sum_of_squares(image):
    return ((image - 0.5) ** 2).sum()


def test_fgsm_of_logistic_regression_by_hand():
    """The loss of class y rises along the weights of the other class less those of y, whatever the image."""
    image = jnp.full((2, 1, 3, 1), 0.5)
    label = jnp.array([0, 1])

    def loss(image):
        logits = Logistic()(image)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1).sum()

    up = np.sign(WEIGHT[:, 1] - WEIGHT[:, 0])  # for an image of class 0; of the third pixel 0
    found = np.asarray(attacks.fgsm(loss, image, 0.1))[:, 0, :, 0]
    np.testing.assert_allclose(found, 0.5 + 0.1 * np.stack([up, -up]), rtol=1e-6)


def test_fgsm_stays_in_the_range_of_pixels():
    found = attacks.fgsm(sum_of_squares, jnp.array([0.0, 15.9, 8.0]), 0.5, peak=16.0)
    assert found.tolist() == [0.0, 16.0, 16.0]


def test_pgd_finds_the_corner_and_stays_within_the_radius():
    image = jnp.array([0.3, 0.52, 0.9, 0.02])
    found = attacks.pgd(sum_of_squares, KEY, image, 0.1)
    np.testing.assert_allclose(found[jnp.array([0, 2, 3])], [0.2, 1.0, 0.0], atol=1e-6)  # the last at the border
    assert abs(float(found[1]) - 0.52) <= 0.1 + 1e-6


def test_pgd_starts_at_random():
    flat = [attacks.pgd(lambda image: 0 * image.sum(), jax.random.key(i), jnp.full(100, 0.5), 0.1) for i in range(2)]
    assert float(jnp.abs(flat[0] - 0.5).max()) > 0.09  # nothing to climb: where it started
    assert not jnp.array_equal(*flat)
    assert all(-0.02 < float((each - 0.5).mean()) < 0.02 for each in flat)  # to either side


@pytest.mark.parametrize("batch_size", [7, 20, 250])
def test_at_radius_0_the_error_is_that_of_clean_images(batch_size):
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 17, (20, 1, 3, 1), np.uint8), rng.integers(0, 2, 20)
    normalize, model = Normalize(jnp.full(1, 8.0), jnp.full(1, 4.0)), Logistic()
    found = attacks.errors(model, normalize, image, label, (0.0, 1e-9, 0.05, 1.0), peak=16.0, batch_size=batch_size)
    clean = 1 - float(accuracy(jnp.asarray(predict(model, normalize, image)), jnp.asarray(label)))
    for errors in found.values():
        assert errors[0] == pytest.approx(clean)
        assert errors[1] == pytest.approx(clean)  # no pixel changes by more than it rounds to
        assert 0.2 < clean < 0.8
        assert errors == sorted(errors)  # of a linear network every step is towards an error
        assert 0.95 < errors[3] <= 1  # black pixels may become white


def test_radii_are_parts_of_the_range_of_pixels():
    """The same images counted to 1, 16 or 255 are attacked alike."""
    rng = np.random.default_rng(0)
    image, label = rng.random((50, 1, 3, 1), np.float32), rng.integers(0, 2, 50)
    found = [
        attacks.errors(
            Logistic(),
            Normalize(jnp.full(1, 0.5 * peak), jnp.full(1, peak)),
            image * peak,
            label,
            (0.1, 0.2),
            peak=peak,
        )
        for peak in (1.0, 16.0, 255.0)
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]["fgsm"][0] < found[0]["fgsm"][1]

"""jax_mix/training/evaluation.py against hand-computed values and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, log_loss

from jax_mix.training import evaluation
from jax_mix.training.data import Dataset, Examples, Normalize


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, 1000)
    logits = rng.normal(0, 2, (1000, 5)) + 2 * np.eye(5)[label]
    return jnp.asarray(logits, jnp.float32), jnp.asarray(label, jnp.int32)


def test_accuracy_and_nll_are_scikit_learns(predictions):
    logits, label = predictions
    probability = np.asarray(jax.nn.softmax(logits), np.float64)
    probability /= probability.sum(1, keepdims=True)  # scikit-learn wants sums of 1 in float64
    assert float(evaluation.accuracy(logits, label)) == pytest.approx(accuracy_score(label, probability.argmax(1)))
    assert float(evaluation.nll(logits, label)) == pytest.approx(log_loss(label, probability), rel=1e-5)


def test_nll_of_a_hopeless_prediction_is_finite():
    assert float(evaluation.nll(jnp.array([[0.0, 500.0]]), jnp.array([0]))) == 500


def test_ece_by_hand():
    # Confidences 0.9, 0.9, 0.6, 0.6 of which 0.9 is right once and 0.6 never: gaps 0.4 and 0.6, half of all each.
    logits = jnp.log(jnp.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]))
    label = jnp.array([0, 1, 1, 1])
    assert float(evaluation.ece(logits, label, bins=10)) == pytest.approx(0.5 * 0.4 + 0.5 * 0.6, rel=1e-5)
    assert float(evaluation.ece(logits, label, bins=1)) == pytest.approx(0.75 - 0.25, rel=1e-5)


def test_ece_counts_a_confidence_between_two_intervals_in_the_lower():
    logits = jnp.array([[0.0, 0.0], [np.log(9.0), 0.0]])  # confidences 0.5, wrong, and 0.9, right
    assert float(evaluation.ece(logits, jnp.array([1, 0]), bins=2)) == pytest.approx(0.5 * 0.5 + 0.5 * 0.1, rel=1e-5)


def test_ece_is_guos(predictions):
    """Against a loop over the intervals (k/15, (k+1)/15] in float64."""
    logits, label = map(np.asarray, predictions)
    probability = np.exp(logits.astype(np.float64))
    probability /= probability.sum(1, keepdims=True)
    confidence, correct = probability.max(1), probability.argmax(1) == label
    expected = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert expected > 0.01
    assert float(evaluation.ece(*predictions)) == pytest.approx(expected, rel=1e-4)


def test_the_reliability_diagram_is_scikit_learns(predictions):
    """Which leaves out intervals that hold nothing."""
    logits, label = predictions
    found = evaluation.reliability(logits, label, bins=10)
    probability = np.asarray(jax.nn.softmax(logits), np.float64)
    accuracy, confidence = calibration_curve(probability.argmax(1) == label, probability.max(1), n_bins=10)
    there = np.asarray(found.number) > 0
    assert 3 < there.sum() < 10
    np.testing.assert_allclose(np.asarray(found.accuracy)[there], accuracy, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(found.confidence)[there], confidence, rtol=1e-5)
    assert float(found.number.sum()) == len(label)
    assert not np.asarray(found.confidence)[~there].any()


def test_ece_counts_full_confidence_in_the_last_interval():
    assert float(evaluation.ece(jnp.array([[100.0, 0.0]] * 4), jnp.array([0, 0, 0, 1]))) == pytest.approx(0.25)


class SeesThrough(nnx.Module):
    """Its logits are the image's two pixels."""

    def __init__(self):
        self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))

    def __call__(self, image):
        assert self.norm.use_running_average  # in evaluation mode
        return image[:, 0, :, 0]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20, 500])
def test_every_test_image_counts_once(batch_size):
    pixels = np.random.default_rng(0).permutation(40).astype(np.uint8).reshape(20, 1, 2, 1)
    test = Examples(jnp.asarray(pixels), jnp.zeros(20, jnp.int32))
    train = Examples(test.image[:1] * 0, test.label[:1])
    dataset = Dataset(train, test, Normalize(jnp.zeros(1), jnp.ones(1)), "pixels", ("left", "right"))
    model = SeesThrough()
    model.eval()
    np.testing.assert_array_equal(
        evaluation.predict(model, dataset.normalize, dataset.test.image, batch_size=batch_size), pixels[:, 0, :, 0]
    )
    model.train()
    measured = evaluation.evaluate(model, dataset)
    assert measured["accuracy"] == pytest.approx(np.mean(pixels[:, 0, 0, 0] > pixels[:, 0, 1, 0]))
    assert not model.norm.use_running_average  # back in training
    watched = Examples(pixels[:3], np.ones(3, np.int32))
    more = evaluation.evaluate(model, dataset, None, watched)
    assert more.keys() - measured.keys() == {"fit_accuracy", "fit_nll"}
    assert {name: more[name] for name in measured} == measured
    assert more["fit_accuracy"] == pytest.approx(np.mean(pixels[:3, 0, 0, 0] < pixels[:3, 0, 1, 0]))

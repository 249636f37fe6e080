"""Several labels an image: the loss against torch's and timm's, what is measured against scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from timm.loss import BinaryCrossEntropy

import jax_mix
from jax_mix.training import evaluation, tasks
from jax_mix.training.losses import Loss
from parity_tests.tolerances import assert_close

N, CLASSES = 6, 4


@pytest.fixture
def batch():
    """Logits, labels, and a draw whose partners are timm's, the batch the other way round."""
    rng = np.random.default_rng(0)
    label = (rng.random((N, CLASSES)) < 0.5).astype(np.float64)
    lam = np.array([0.9, 0.5, 0.3, 1.0, 0.0, 0.7])
    return 4 * rng.normal(size=(N, CLASSES)), label, jax_mix.Mix(jnp.asarray(lam), jnp.arange(N)[::-1])


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("name", ["bce", "bce_sum"])
def test_the_loss_and_its_gradient_are_timms_and_torchs(batch, name, threshold, mixed):
    logits, label, _ = batch
    lam = np.array([0.9, 0.5, 0.3, 1.0, 0.0, 0.7])[:, None]
    x = torch.tensor(logits, requires_grad=True)
    target = torch.tensor(lam * label + (1 - lam) * label[::-1] if mixed else label)
    theirs = BinaryCrossEntropy(target_threshold=threshold, sum_classes=name == "bce_sum")(x, target)
    theirs.backward()
    if name == "bce" and threshold is None:
        assert_close(theirs.item(), torch.nn.BCEWithLogitsLoss()(x, target).item(), "loss float64")
    with jax.enable_x64(True):
        draw = jax_mix.Mix(jnp.asarray(lam[:, 0]), jnp.arange(N)[::-1]) if mixed else None

        def ours(logits):
            return Loss(name, 0.0, threshold)(logits, jnp.asarray(label), draw).mean()

        value, gradient = jax.value_and_grad(ours)(jnp.asarray(logits))
        assert_close(value, theirs.item(), "loss float64")
        assert_close(gradient, x.grad.numpy(), "gradients float64")


@pytest.mark.parametrize("ties", [False, True])
def test_what_is_measured_is_scikit_learns_and_torchs(ties):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(50, 5)).astype(np.float32)
    logits = np.round(logits) if ties else logits
    label = (rng.random((50, 5)) < [0.5, 0.1, 0.9, 1.0, 0.0]).astype(np.float32)
    found = evaluation.average_precisions(logits, label)
    theirs = average_precision_score(label[:, :4], logits[:, :4], average=None)
    assert_close(found[:4], theirs, "loss float64")
    assert np.isnan(found[4])  # no image has it; theirs would be 0
    measured = evaluation.measure(logits, label)
    x, y = torch.tensor(logits), torch.tensor(label)
    assert_close(measured["mean_average_precision"], theirs.mean(), "loss float64")
    assert_close(measured["bce"], torch.nn.functional.binary_cross_entropy_with_logits(x, y).item(), "loss float32")
    # fastai's accuracy_multi.
    assert measured["label_accuracy"] == pytest.approx(((x.sigmoid() > 0.5) == y.bool()).float().mean().item())


def test_hits_of_a_mixed_batch_are_of_both_images_by_their_weights(batch):
    logits, label, mix = batch
    right = ((logits > 0) == label.astype(bool)).mean(1), ((logits > 0) == label[::-1].astype(bool)).mean(1)
    lam = np.asarray(mix.lam)
    wanted = lam * right[0] + (1 - lam) * right[1]
    hits = tasks.of(label).hits(jnp.asarray(logits, jnp.float32), jnp.asarray(label, jnp.float32), mix)
    assert_close(hits, wanted, "loss float32")

"""`mixed_loss` against the loss that fastai's Learner computes under its own callbacks, on the same logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from fastai.callback.mixup import CutMix, MixUp
from fastai.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    LabelSmoothingCrossEntropy,
    LabelSmoothingCrossEntropyFlat,
    MSELossFlat,
)
from torch.distributions import Beta

import jax_mix
from parity_tests.parity.twins import CrossEntropy, precision
from parity_tests.tolerances import assert_close
from torch_ref import models, recording

CLASSES = 10
METHODS = {"mixup": MixUp, "cutmix": CutMix}
REDUCTIONS = {"none": lambda losses: losses, "mean": jnp.mean, "sum": jnp.sum}


def smoothed(eps):
    """fastai's `eps * mean(-log p) + (1 - eps) * -log p[y]` is cross-entropy against `optax.smooth_labels`."""

    def loss_fn(logits, labels):
        one_hot = jax.nn.one_hot(labels, logits.shape[-1])
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, eps))

    return loss_fn


XENT = optax.softmax_cross_entropy_with_integer_labels
LOSSES = {  # name: fastai's or torch's, ours
    "cross-entropy": (CrossEntropy, XENT),
    "cross-entropy, fastai's": (CrossEntropyLossFlat, XENT),
    "smoothing 0.1": (LabelSmoothingCrossEntropy, smoothed(0.1)),
    "smoothing 0.1, fastai's flat": (LabelSmoothingCrossEntropyFlat, smoothed(0.1)),
    "smoothing 0.3": (lambda reduction: LabelSmoothingCrossEntropy(0.3, reduction=reduction), smoothed(0.3)),
}


def in_dtypes(losses):
    """(loss, dtype): fastai's "flat" losses cast to float32."""
    return [(loss, dtype) for loss in losses for dtype in (np.float32, np.float64)[: 1 if "fastai" in loss else 2]]


def record(method, loss_func, y, n=32, alpha=1.0, seed=0, scale=1.0, dtype=np.float32):
    x = scale * np.random.default_rng(seed).normal(size=(n, 3, 8, 8))
    torch.manual_seed(seed)
    model, callback = models.Pooled(3, CLASSES), METHODS[method](alpha)
    if dtype == np.float64:
        model = model.double()
        callback.distrib = Beta(*torch.tensor([alpha, alpha], dtype=torch.float64))
    with recording.default_dtype(torch.tensor(x.astype(dtype)).dtype):
        return recording.run(callback, model, loss_func, x.astype(dtype), y, seed=seed)


def class_numbers(n=32, seed=0):
    return np.random.default_rng(seed).integers(0, CLASSES, n)


def one_hot(n=32, seed=0, dtype=np.float32):
    return np.eye(CLASSES, dtype=dtype)[class_numbers(n, seed)]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("loss", "dtype"), in_dtypes(LOSSES))
@pytest.mark.parametrize("method", METHODS)
def test_mixed_loss_of_class_numbers_equals_fastai(method, loss, reduction, dtype):
    theirs, ours = LOSSES[loss]
    y = class_numbers()
    fastai = record(method, theirs(reduction=reduction), y, dtype=dtype)
    with precision(dtype):
        losses = jax_mix.mixed_loss(ours, fastai.logits, y, fastai.mix())
        assert losses.dtype == dtype
        assert_close(REDUCTIONS[reduction](losses), fastai.loss, f"loss {np.dtype(dtype).name}")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(4))
def test_over_seeds_alphas_and_large_logits(loss, seed):
    theirs, ours = LOSSES[loss]
    y = class_numbers(n=16 + seed, seed=seed)
    alpha = (0.1, 0.4, 1.0, 8.0)[seed]
    fastai = record("mixup", theirs(reduction="none"), y, len(y), alpha=alpha, seed=seed, scale=100)
    losses = jax.jit(lambda mix, logits: jax_mix.mixed_loss(ours, logits, y, mix))(fastai.mix(), fastai.logits)
    assert_close(losses, fastai.loss, "loss of large logits")


FLOAT_LOSSES = {  # fastai mixes float targets and computes one loss
    "cross-entropy": (torch.nn.CrossEntropyLoss, optax.softmax_cross_entropy),
    "sigmoid": (torch.nn.BCEWithLogitsLoss, optax.sigmoid_binary_cross_entropy),
    "sigmoid, fastai's": (BCEWithLogitsLossFlat, optax.sigmoid_binary_cross_entropy),
    "squared error": (torch.nn.MSELoss, optax.squared_error),
    "squared error, fastai's": (MSELossFlat, optax.squared_error),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("loss", "dtype"), in_dtypes(FLOAT_LOSSES))
@pytest.mark.parametrize("method", METHODS)
def test_loss_of_mixed_one_hot_targets_equals_fastai(method, loss, reduction, dtype):
    theirs, ours = FLOAT_LOSSES[loss]
    y = one_hot(dtype=dtype)
    fastai = record(method, theirs(reduction=reduction), y, dtype=dtype)
    with precision(dtype):
        losses = ours(jnp.asarray(fastai.logits), fastai.mix().targets(y))
        assert losses.dtype == dtype
        assert_close(np.ravel(REDUCTIONS[reduction](losses)), np.ravel(fastai.loss), f"loss {np.dtype(dtype).name}")


@pytest.mark.parametrize("method", METHODS)
def test_class_numbers_and_mixed_one_hot_targets_give_one_cross_entropy(method):
    y = class_numbers()
    fastai = record(method, CrossEntropyLossFlat(reduction="none"), y)
    losses = optax.softmax_cross_entropy(jnp.asarray(fastai.logits), fastai.mix().targets(one_hot()))
    assert_close(losses, fastai.loss, "loss float32")


@pytest.mark.parametrize("wrong", ["partner's weight", "another partner", "other smoothing"])
def test_the_comparison_fails_for_another_loss(wrong):
    y = class_numbers()
    fastai = record("mixup", LabelSmoothingCrossEntropyFlat(), y)
    mix = fastai.mix()
    other, eps = {
        "partner's weight": (dataclasses.replace(mix, lam=1 - mix.lam), 0.1),
        "another partner": (dataclasses.replace(mix, partner=np.roll(mix.partner, 1)), 0.1),
        "other smoothing": (mix, 0.1 * CLASSES / (CLASSES - 1)),  # eps spread over the other classes only
    }[wrong]
    with pytest.raises(AssertionError):
        assert_close(jax_mix.mixed_loss(smoothed(eps), fastai.logits, y, other).mean(), fastai.loss, "loss float32")

"""Class weights and ignored labels of a mixed batch, weighted as torch weighs them."""

import jax
import numpy as np
import optax
import pytest
import torch

import jax_mix
from jax_mix import CutMix, MixUp
from parity_tests.tolerances import assert_close

KEY = jax.random.key(0)
XENT = optax.softmax_cross_entropy_with_integer_labels
SIZE = (8, 6)
CUT = CutMix(lam=0.5, per="sample").sample(KEY, (5, *SIZE, 3))
WEIGHTS = np.array([0.2, 1.0, 5.0], np.float32)


OPTIONS = (
    {"class_weights": WEIGHTS},
    {"ignore_index": 1},
    {"class_weights": WEIGHTS, "ignore_index": 0},
    {"ignore_index": -100},
)


@pytest.mark.parametrize("options", OPTIONS)
def test_weights_and_ignored_labels_are_torchs_weighted_mean(options):
    """mixup's criterion with torch's own loss: lam * CE(y_a) + (1 - lam) * CE(y_b), each a weighted mean."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 16)
    if options.get("ignore_index", 0) < 0:
        labels[:4] = -100
    logits = rng.standard_normal((16, 3)).astype(np.float32) * 3
    given = {"weight": options.get("class_weights"), "ignore_index": options.get("ignore_index", -100)}
    given["weight"] = None if given["weight"] is None else torch.tensor(given["weight"])
    criterion = torch.nn.CrossEntropyLoss(**given)
    for mix in (MixUp(1.0, per="batch", fold=False).sample(KEY, (16,)), CutMix().sample(KEY, (16, 8, 8)), None):
        partner, lam = (np.arange(16), 1.0) if mix is None else (np.asarray(mix.partner), float(mix.lam[0]))
        own, theirs = (criterion(torch.tensor(logits), torch.tensor(y)).item() for y in (labels, labels[partner]))
        got = jax.jit(lambda y, mix=mix: jax_mix.mixed_loss(XENT, logits, y, mix, **options))(labels.astype(np.int32))
        assert got.shape == (16,)
        assert_close(got.mean(), lam * own + (1 - lam) * theirs, "loss float32")
        if "class_weights" in options:
            plain = jax_mix.mixed_loss(lambda l, y: XENT(l, y) * WEIGHTS[np.asarray(y)], logits, labels, mix).mean()
            assert abs(float(plain) - float(got.mean())) > 0.1


def test_ignored_pixels_of_pasted_masks_are_torchs():
    rng = np.random.default_rng(0)
    masks, x = rng.integers(0, 3, (5, *SIZE)), rng.standard_normal((5, *SIZE, 3)).astype(np.float32)
    masks = np.where(rng.random(masks.shape) < 0.3, 255, masks).astype(np.int32)
    pasted = torch.tensor(np.asarray(CUT.targets(masks, dense=True)), dtype=torch.int64)
    logits = torch.tensor(np.moveaxis(x, -1, 1))
    want = torch.nn.functional.cross_entropy(logits, pasted, torch.tensor(WEIGHTS), ignore_index=255).item()
    options = {"class_weights": WEIGHTS, "ignore_index": 255, "dense": True}
    assert_close(jax_mix.mixed_loss(XENT, x, masks, CUT, **options).mean(), want, "loss float32")
    gradient = jax.grad(lambda l: jax_mix.mixed_loss(XENT, l, masks, CUT, **options).mean())(x)
    assert (np.asarray(gradient)[np.asarray(pasted) == 255] == 0).all()

"""The calibration error against torchmetrics' own."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from jax_mix.training import evaluation


@pytest.mark.parametrize("bins", [5, 15])
def test_ece_is_torchmetrics(bins):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, 1000)
    logits = (rng.normal(0, 2, (1000, 5)) + 2 * np.eye(5)[label]).astype(np.float32)
    theirs = multiclass_calibration_error(
        torch.from_numpy(logits), torch.from_numpy(label), num_classes=5, n_bins=bins, norm="l1"
    )
    ours = evaluation.ece(jnp.asarray(logits), jnp.asarray(label, jnp.int32), bins=bins)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)

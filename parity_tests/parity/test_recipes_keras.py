"""The recipes against Keras, on JAX, as installed: the same draws give the same batch, and draws are alike."""

import dataclasses
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jax_mix
from jax_mix import recipes
from parity_tests.parity.batches import batch
from parity_tests.parity.measured import alike, of_one_batch, ours_of_one_batch
from parity_tests.parity.replaying import Drawn, assert_same_batch, replayed
from parity_tests.tolerances import assert_close, assert_within_ulp

KEY = jax.random.key(0)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def keras_batches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    out = folder / "out.npz"
    environment = os.environ | {"KERAS_BACKEND": "jax", "KERAS_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "parity_tests.parity.keras_layers", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(out)


def keras_draws(batches, name):
    """The draws of one batch, in their order: of each its kind, its range if it has one, and the values."""
    at = [key.rpartition("/")[2] for key in batches.files if key.startswith(f"{name}/")]
    found = sorted(key for key in at if key[0].isdigit() and not key.endswith("range"))
    ranges = {key: batches[f"{name}/{key[0]} range"] for key in found if key.endswith("uniform")}
    return [(key[2:], ranges.get(key), batches[f"{name}/{key}"]) for key in found]


def test_kerass_draws_make_kerass_mixup(keras_batches):
    x, y = batch()
    (_, _, partner), (_, _, lam) = keras_draws(keras_batches, "mixup")
    with replayed(beta=[Drawn((keras_batches["mixup/alpha"],), lam)], partner=[Drawn((), partner)]):
        mix = recipes.keras_mixup().sample(KEY, x.shape)
    assert_same_batch(mix, x, keras_batches["mixup/x"])
    assert_within_ulp(mix.targets(y), keras_batches["mixup/y"], np.ones_like(y), ulps=2)


@pytest.mark.parametrize(("name", "factor"), [("cutmix", 1.0), ("cutmix 0.2-0.9", (0.9, 0.2))])
def test_kerass_draws_make_kerass_cutmix(keras_batches, name, factor):
    x, y = batch()
    (_, (low, high), alpha), (_, _, lam), (_, _, left), (_, _, top), (_, _, partner) = keras_draws(keras_batches, name)
    uniform = [Drawn((0, 1), (high - alpha) / (high - low)), Drawn((0, 1), top), Drawn((0, 1), left)]
    given = {"beta": [Drawn((keras_batches[f"{name}/alpha"],), lam)], "partner": [Drawn((), partner)]}
    with replayed(**given, uniform=uniform):
        mix = recipes.keras_cutmix(factor).sample(KEY, x.shape)
    assert_same_batch(mix, x, keras_batches[f"{name}/x"], range(len(x)))
    assert_close(mix.targets(y), keras_batches[f"{name}/y"], "lambda of a box of fractions")


def test_the_version_of_keras_that_ran(keras_batches):
    assert str(keras_batches["version"]) == importlib.metadata.version("keras")


def kerass(batches, name):
    mixed, labels = batches[f"{name}/x"][..., 0], batches[f"{name}/y"]
    at = next(key for key in batches.files if key.startswith(f"{name}/") and key.endswith("shuffle"))
    n = len(labels)
    return of_one_batch(mixed, labels[np.arange(n), np.arange(n) % 10], batches[at])


def test_draws_are_distributed_as_kerass(keras_batches):
    assert alike(ours_of_one_batch(recipes.keras_mixup()), kerass(keras_batches, "mixup")) > 1e-3
    assert alike(ours_of_one_batch(jax_mix.MixUp(0.2)), kerass(keras_batches, "mixup")) < 1e-3, "folded"
    # Its alpha is drawn once a batch, so that its one batch has one: that of the recipe, fixed.
    alpha = float(keras_batches["cutmix/alpha"])
    method = dataclasses.replace(recipes.keras_cutmix(), alpha=alpha)
    assert alike(ours_of_one_batch(method), kerass(keras_batches, "cutmix")) > 1e-3
    assert alike(ours_of_one_batch(dataclasses.replace(method, box="inside")), kerass(keras_batches, "cutmix")) < 1e-3

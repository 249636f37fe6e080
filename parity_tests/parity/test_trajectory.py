"""Two hundred steps of training: fastai's Learner against train.py's own update, on the same batches and draws."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from parity_tests import evidence
from parity_tests.parity.trajectories import CALLBACKS, ORDERS, Setup, fastai_trajectory, our_trajectory
from parity_tests.tolerances import assert_close
from torch_ref import fitting

STEPS, BATCH, EARLY = 200, 32, 20
SHORT = [  # each method, optimizer and schedule at least once; all combinations are a long run
    ("none", "adamw", "one_cycle"),
    ("mixup", "adam", "constant"),
    ("manifold", "sgd", "one_cycle"),
    ("manifold", "adamw", "one_cycle"),
    ("cutmix", "sgd", "constant"),
]
ALL = list(itertools.product(CALLBACKS, fitting.OPTIMIZERS, ("one_cycle", "constant")))


def setup(digits, dtype, mix, optimizer="sgd", schedule="one_cycle", steps=STEPS):
    index = np.random.default_rng(0).integers(0, len(digits.train.label), (steps, BATCH))
    images = np.asarray(digits.normalize(digits.train.image[index.ravel()]), dtype)
    labels = np.asarray(digits.train.label)[index]
    return Setup(images.reshape(*index.shape, *images.shape[1:]), labels, mix, optimizer, schedule)


@pytest.fixture
def float64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # Flax's norms in float64 need promotion
        yield


def same_but_running_variances(ours, theirs):
    """Flax keeps the biased running variance, PyTorch the unbiased; training does not read it."""
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        if not name.endswith(".var"):
            assert_close(array, theirs[name], "trajectory parameters float64")


def check_in_float64(digits, mix, optimizer, schedule):
    shared = setup(digits, np.float64, mix, optimizer, schedule)
    theirs = fastai_trajectory(shared)
    ours = our_trajectory(shared, theirs.mixes)
    assert ours.losses.dtype == theirs.losses.dtype == np.float64
    assert theirs.losses[-10:].mean() < theirs.losses[:10].mean(), "it learns"
    assert_close(ours.losses, theirs.losses, "trajectory float64")
    same_but_running_variances(ours.parameters, theirs.parameters)


@pytest.mark.parametrize(("mix", "optimizer", "schedule"), SHORT)
def test_every_step_and_the_final_parameters_equal_in_float64(digits, float64, mix, optimizer, schedule):
    check_in_float64(digits, mix, optimizer, schedule)


@pytest.mark.long
@pytest.mark.parametrize(
    ("mix", "optimizer", "schedule"), [combination for combination in ALL if combination not in SHORT]
)
def test_every_other_combination_equals_in_float64(digits, float64, mix, optimizer, schedule):
    check_in_float64(digits, mix, optimizer, schedule)


@pytest.mark.parametrize(
    "mix", [pytest.param(m, marks=evidence.SLOW if m in ("none", "mixup") else ()) for m in CALLBACKS]
)
def test_in_float32_we_part_no_faster_than_pytorch_from_itself(digits, mix):
    shared = setup(digits, np.float32, mix)
    theirs = fastai_trajectory(shared)
    ours = our_trajectory(shared, theirs.mixes)
    assert_close(ours.losses[:EARLY], theirs.losses[:EARLY], "early trajectory float32")
    others = {f"PyTorch, {order},": fastai_trajectory(shared, order=order) for order in ORDERS}
    apart = {name: np.abs(t.losses - theirs.losses) / theirs.losses for name, t in {"jax_mix": ours, **others}.items()}
    evidence.results.setdefault("divergence", {})[mix] = {name: values.tolist() for name, values in apart.items()}
    # The honest yardstick: PyTorch against itself in other orders of summation. Training is chaotic, so they are
    # compared in size, by the median over steps.
    ours_apart, *theirs_apart = (np.median(values) for values in apart.values())
    assert 0 < ours_apart < 10 * max(theirs_apart)


@pytest.mark.parametrize("wrong", ["draws of another step", "lambda off by a millionth", "another schedule"])
def test_the_comparison_fails_for_another_training(digits, float64, wrong):
    shared = setup(digits, np.float64, "mixup", steps=EARLY)
    theirs = fastai_trajectory(shared)
    mixes = list(theirs.mixes)
    if wrong == "draws of another step":
        mixes = mixes[1:] + mixes[:1]
    elif wrong == "lambda off by a millionth":
        mixes = [dataclasses.replace(mix, lam=mix.lam * (1 - 1e-6)) for mix in mixes]
    else:
        shared = dataclasses.replace(shared, schedule="constant")
    with pytest.raises(AssertionError):
        assert_close(our_trajectory(shared, mixes).losses, theirs.losses, "trajectory float64")

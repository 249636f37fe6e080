"""MixUp against fastai's own callback, unmodified, run in a real Learner with its draws recorded and replayed here."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from fastai.callback.mixup import MixUp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Beta

import jax_mix
from parity_tests.parity.twins import CrossEntropy, nhwc, precision
from parity_tests.tolerances import assert_close, assert_within_ulp
from torch_ref import models, recording

TARGETS = {
    "soft": lambda rng, n: rng.dirichlet(np.ones(10), n),
    "one-hot": lambda rng, n: np.eye(10)[rng.integers(0, 10, n)],
    "multi-label": lambda rng, n: rng.integers(0, 2, (n, 10)),
    "regression": lambda rng, n: 100 * rng.normal(size=(n, 10)),
}


def data(n, channels, height, width, seed=0, dtype=np.float32, target="soft"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, channels, height, width)).astype(dtype)
    return x, TARGETS[target](rng, n).astype(dtype)


def record(x, y, alpha=0.4, seed=0):
    callback, model = MixUp(alpha), models.Pooled(x.shape[1])
    if x.dtype == np.float64:  # its code as it is; its Beta gives float32 else, which torch.lerp refuses
        callback.distrib, model = Beta(*torch.tensor([alpha, alpha], dtype=torch.float64)), model.double()
    loss = CrossEntropy() if y.dtype == np.int64 else torch.nn.MSELoss()
    return recording.run(callback, model, loss, x, y, seed=seed)


def assert_same_blend(mixed, own, theirs, partner):
    assert_within_ulp(mixed, theirs, np.maximum(np.abs(own), np.abs(own[partner])))


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    n=st.one_of(st.integers(2, 17), st.sampled_from([129, 512])),
    channels=st.integers(1, 3),
    size=st.sampled_from([(1, 9), (9, 1), (1, 1), (5, 8), (13, 4)]),
    alpha=st.floats(0.05, 32),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([np.float32, np.float64]),
    target=st.sampled_from(sorted(TARGETS)),
)
def test_batch_and_targets_equal_fastai_within_one_ulp(n, channels, size, alpha, seed, dtype, target):
    x, y = data(n, channels, *size, seed, dtype, target)
    fastai = record(x, y, alpha, seed)
    with precision(dtype):
        mix = fastai.mix()
        assert_close(mix.lam, fastai.lam, "recorded draw")
        # One program is compiled sooner than a dozen operations; anew each time, as test_mutations.py breaks the parts.
        mixed_x, mixed_y = jax.jit(lambda mix, x, y: (mix.blend(x), mix.targets(y)))(mix, nhwc(x), y)
    assert_same_blend(mixed_x, nhwc(x), nhwc(fastai.x), mix.partner)
    assert_same_blend(mixed_y, y, fastai.y, mix.partner)
    assert fastai.x.dtype == fastai.y.dtype == dtype


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_outside_of_jit_too(alpha):
    x, y = data(64, 3, 16, 16)
    fastai = record(x, y, alpha)
    mix = fastai.mix()
    assert_same_blend(mix.blend(nhwc(x)), nhwc(x), nhwc(fastai.x), mix.partner)
    assert_same_blend(mix.targets(y), y, fastai.y, mix.partner)


def test_class_numbers_are_left_as_they_are():
    x, _ = data(8, 3, 4, 4)
    y = np.arange(8)
    fastai = record(x, y)
    assert_close(fastai.y, y, "recorded draw")
    assert_same_blend(fastai.mix().blend(nhwc(x)), nhwc(x), nhwc(fastai.x), fastai.partner)


@pytest.mark.parametrize("wrong", ["partner's weight", "another partner", "not folded"])
def test_the_comparison_fails_for_another_draw(wrong):
    x, y = data(8, 3, 4, 4)
    fastai = record(x, y, alpha=1.0)
    mix = fastai.mix()
    assert np.any(fastai.lam_drawn < 0.5)
    other = {
        "partner's weight": dataclasses.replace(mix, lam=1 - mix.lam),
        "another partner": dataclasses.replace(mix, partner=np.roll(mix.partner, 1)),
        "not folded": jax_mix.Mix(fastai.lam_drawn, mix.partner),
    }[wrong]
    with pytest.raises(AssertionError):
        assert_same_blend(other.blend(nhwc(x)), nhwc(x), nhwc(fastai.x), mix.partner)
    with pytest.raises(AssertionError):
        assert_same_blend(other.targets(y), y, fastai.y, mix.partner)

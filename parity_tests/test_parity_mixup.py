"""MixUp against fastai's own callback, unmodified, run in a real Learner with its draws recorded and replayed here."""

import dataclasses

import jax
import numpy as np
import pytest
from fastai.callback.mixup import MixUp
from fastai.losses import CrossEntropyLossFlat, MSELossFlat
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_mix
from parity_tests.tolerances import assert_close, assert_within_ulp
from torch_ref import models, recording


def nhwc(x):
    return np.moveaxis(x, 1, -1)


def data(n, channels, height, width, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, channels, height, width)).astype(np.float32)
    return x, rng.dirichlet(np.ones(10), n).astype(np.float32)


def record(x, y, alpha=0.4, seed=0):
    loss = CrossEntropyLossFlat() if y.dtype == np.int64 else MSELossFlat()
    return recording.run(MixUp(alpha), models.Pooled(x.shape[1]), loss, x, y, seed=seed)


def assert_same_blend(mixed, own, theirs, partner):
    assert_within_ulp(mixed, theirs, np.maximum(np.abs(own), np.abs(own[partner])))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    n=st.integers(2, 17),
    channels=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    alpha=st.floats(0.05, 8.0),
    seed=st.integers(0, 2**31),
)
def test_batch_and_targets_equal_fastai_within_one_ulp(n, channels, height, width, alpha, seed):
    x, y = data(n, channels, height, width, seed)
    fastai = record(x, y, alpha, seed)
    mix = fastai.mix()
    assert_close(mix.lam, fastai.lam, "recorded draw")
    assert_same_blend(mix.blend(nhwc(x)), nhwc(x), nhwc(fastai.x), mix.partner)
    assert_same_blend(mix.targets(y), y, fastai.y, mix.partner)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_inside_jit_too(alpha):
    x, y = data(64, 3, 16, 16)
    fastai = record(x, y, alpha)
    mix = fastai.mix()
    mixed_x, mixed_y = jax.jit(lambda mix, x, y: (mix.blend(x), mix.targets(y)))(mix, nhwc(x), y)
    assert_same_blend(mixed_x, nhwc(x), nhwc(fastai.x), mix.partner)
    assert_same_blend(mixed_y, y, fastai.y, mix.partner)


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

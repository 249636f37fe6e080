"""Draws both ways: fastai's own, recorded over a whole epoch of real data, replayed here; ours injected into fastai."""

from unittest import mock

import jax
import numpy as np
import pytest
from fastai.basics import DataLoader
from fastai.callback.mixup import CutMix, MixUp
from fastai.losses import CrossEntropyLossFlat, MSELossFlat
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_mix
from jax_mix import _sampling
from parity_tests.parity.twins import nhwc
from parity_tests.tolerances import assert_close, assert_within_ulp
from torch_ref import fitting, models, recording
from torch_ref.manifold_mixup import ManifoldMixup


def assert_mixed_alike(mix, fastai):
    """Inputs: CutMix's bit for bit, the others' within one unit in the last place."""
    own = nhwc(fastai.own_x)
    mixed = jax.jit(lambda mix, x: mix.blend(x))(mix, own)
    if mix.box is not None:
        assert_close(mixed, nhwc(fastai.x), "cutmix batch")
    else:
        assert_within_ulp(mixed, nhwc(fastai.x), np.maximum(np.abs(own), np.abs(own[mix.partner])))


@pytest.mark.parametrize("callback", [MixUp(0.4), CutMix(1.0)], ids=["mixup", "cutmix"])
def test_a_shuffled_epoch_of_real_images(digits, callback):
    images = np.moveaxis(np.array(digits.normalize(digits.train.image)), -1, 1)
    samples = list(zip(images, np.asarray(digits.train.label, np.int64), strict=True))
    loader = DataLoader(samples, bs=64, shuffle=True, num_workers=0)
    learner = fitting.learner(models.Pooled(1), CrossEntropyLossFlat(), loader, learning_rate=0.1)
    with recording.one_thread():
        batches = recording.record(lambda cbs: learner.fit(1, cbs=cbs), callback)
    assert [len(batch.y) for batch in batches] == [64] * 22 + [29]  # 1,437 images
    assert (
        len({batch.lam_drawn.tobytes() for batch in batches})
        == len({batch.partner.tobytes() for batch in batches})
        == 23
    )
    for batch in batches:
        mix = batch.mix()
        assert sorted(batch.partner) == list(range(len(batch.y)))
        assert_close(mix.lam, np.broadcast_to(batch.lam, len(batch.y)), "recorded draw")
        assert_mixed_alike(mix, batch)
        one_hot = np.eye(10, dtype=np.float32)[batch.own_y]
        assert np.argmax(mix.take_partners(one_hot), -1).tolist() == batch.own_y[batch.partner].tolist()


def sampled(method, seed, shape):
    """A draw of jax_mix's, and the numbers it is made of, for fastai to be given."""
    drawn = {"lambdas": [], "below": []}

    def draw(key):
        return method.sample(key, shape), drawn

    def spy(name, function):
        def call(*args, **kwargs):
            drawn[name].append(function(*args, **kwargs))
            return drawn[name][-1]

        return call

    with (
        mock.patch.object(_sampling, "lambdas", spy("lambdas", _sampling.lambdas)),
        mock.patch.object(_sampling.Words, "below", spy("below", _sampling.Words.below)),
    ):
        mix, drawn = jax.device_get(jax.jit(draw)(jax.random.key(seed)))  # one program is compiled sooner than many
    lam = np.atleast_1d(drawn["lambdas"][0])
    centre = tuple(int(at) for at in drawn["below"]) if isinstance(method, jax_mix.CutMix) else None
    return mix, recording.Given(lam, mix.partner, centre)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    n=st.one_of(st.integers(2, 17), st.sampled_from([64, 511, 512])),
    channels=st.integers(1, 4),
    size=st.sampled_from([(1, 9), (9, 1), (1, 1), (5, 8), (8, 8), (13, 4)]),
    alpha=st.floats(0.05, 32),
    seed=st.integers(0, 2**31 - 1),
    name=st.sampled_from(["mixup", "cutmix", "manifold"]),
)
def test_our_draws_given_to_fastai_make_the_same_batch(n, channels, size, alpha, seed, name):
    if name == "cutmix":  # which can cut no box from a line of pixels
        size = tuple(max(side, 2) for side in size)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, channels, *size)).astype(np.float32)
    y = np.eye(10, dtype=np.float32)[rng.integers(0, 10, n)]
    method, callback = {
        "mixup": (jax_mix.MixUp(alpha), MixUp(alpha)),
        "cutmix": (jax_mix.CutMix(alpha), CutMix(alpha)),
        "manifold": (jax_mix.ManifoldMixup(alpha, layers="input"), ManifoldMixup(alpha, layers=())),
    }[name]
    mix, given_draw = sampled(method, seed, nhwc(x).shape)
    fastai = recording.run(callback, models.Pooled(channels), MSELossFlat(), x, y, given=given_draw)
    assert_close(fastai.partner, mix.partner, "recorded draw")
    if mix.box is not None:
        assert_close(mix.box, fastai.box, "box")
    assert_close(mix.lam, np.broadcast_to(fastai.lam, n), "recorded draw")
    assert_mixed_alike(mix, fastai)
    assert_within_ulp(jax.jit(lambda mix, y: mix.targets(y))(mix, y), fastai.y, np.maximum(y, y[fastai.partner]))


def test_the_comparison_fails_for_a_draw_that_was_not_given():
    x = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
    mix, _ = sampled(jax_mix.MixUp(1.0), 0, nhwc(x).shape)
    fastai = recording.run(MixUp(1.0), models.Pooled(3), CrossEntropyLossFlat(), x, np.arange(8))
    with pytest.raises(AssertionError):
        assert_mixed_alike(mix, fastai)

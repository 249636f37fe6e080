"""CutMix against fastai's own callback, unmodified, run in a real Learner with its draws recorded and replayed here."""

import dataclasses
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from fastai.callback.mixup import CutMix
from fastai.losses import CrossEntropyLossFlat, MSELossFlat

import jax_mix
from jax_mix import _sampling
from parity_tests.parity.twins import nhwc, precision
from parity_tests.tolerances import assert_close, assert_within_ulp
from torch_ref import models, recording

SIZES = [(32, 32), (28, 28), (17, 33), (8, 5), (9, 1), (1, 9), (1, 1)]


def data(n, height, width, channels=3, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, channels, height, width)).astype(dtype)
    return x, rng.dirichlet(np.ones(10), n).astype(np.float32)


def record(x, y, alpha=1.0, seed=0):
    model = models.Pooled(x.shape[1]).to(torch.tensor(x[:0]).dtype)
    loss = CrossEntropyLossFlat() if y.dtype == np.int64 else MSELossFlat()
    return recording.run(CutMix(alpha), model, loss, x, y, seed=seed)


def boxes_at(centre, lam, height, width, how="fastai", transform=lambda f: f):
    """jax_mix's boxes for given centres (row, column): the only random thing in them."""
    row_column = [jnp.asarray(at, jnp.int32) for at in centre]
    words = mock.Mock(below=mock.Mock(side_effect=row_column))
    return transform(lambda lam: _sampling.boxes(words, lam, (height, width), how))(jnp.asarray(lam))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_batch_box_and_lambda_equal_fastai_bit_for_bit(size, seed):
    x, y = data(n=2 + seed, height=size[0], width=size[1], channels=1 + seed % 3, seed=seed)
    fastai = record(x, y, alpha=(1.0, 0.3)[seed % 2], seed=seed)
    mix = fastai.mix()
    assert_close(mix.blend(nhwc(x)), nhwc(fastai.x), "cutmix batch")
    assert_close(jax.jit(jax_mix.Mix.blend)(mix, nhwc(x)), nhwc(fastai.x), "cutmix batch")
    assert_close(mix.lam, np.broadcast_to(fastai.lam, len(x)), "cutmix lambda")
    box = boxes_at(fastai.centre, fastai.lam_drawn[0], *size)
    assert_close(box, fastai.box, "box")
    assert_within_ulp(mix.targets(y), fastai.y, np.maximum(y, y[fastai.partner]))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes_too(dtype):
    x, y = data(9, 17, 12, dtype=dtype)
    fastai = record(x, y, seed=1)
    with precision(dtype):
        mixed = fastai.mix().blend(nhwc(x))
    assert mixed.dtype == fastai.x.dtype == dtype
    assert_close(mixed, nhwc(fastai.x), "cutmix batch")


def test_class_numbers_are_left_as_they_are():
    x, _ = data(8, 16, 16)
    fastai = record(x, np.arange(8), seed=1)
    assert_close(fastai.y, np.arange(8), "recorded draw")
    assert_close(fastai.mix().blend(nhwc(x)), nhwc(fastai.x), "cutmix batch")


def lambdas_with_ties(length):
    """Many lambdas, with those at which a side is k + 1/2 pixels, where rounding decides, and their neighbours."""
    ties = np.float32(1) - (np.arange(0.5, length) / length) ** 2
    lam = np.concatenate([np.linspace(0, 1, 100_001), ties, np.random.default_rng(0).beta(0.3, 0.3, 100_000)])
    lam = lam.astype(np.float32)
    return np.concatenate([lam, np.nextafter(lam, np.float32(0)), np.nextafter(lam, np.float32(1))])


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (17, 33), (224, 224), (1, 9)])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_boxes_round_as_fastai_rounds(size, transform):
    height, width = size
    lam = lambdas_with_ties(height)
    rng = np.random.default_rng(0)
    row, column = rng.integers(0, height, lam.shape), rng.integers(0, width, lam.shape)

    def theirs():
        callback = CutMix()
        callback.learn = types.SimpleNamespace(x=torch.zeros(()))  # `rand_bbox` asks it for the device
        with mock.patch("torch.randint", side_effect=[torch.tensor(column), torch.tensor(row)]):
            x1, y1, x2, y2 = callback.rand_bbox(width, height, torch.tensor(lam))
        return np.stack([y1, x1, y2, x2], axis=-1)

    ours = boxes_at((row, column), lam, height, width, transform=transform)
    # Where PyTorch has Intel's vector mathematics, its float32 square root is a unit off for a part of all numbers,
    # on some processors. At a tie a side is another pixel then.
    off = np.any(ours != theirs(), axis=-1)
    exact = torch.sqrt(1 - torch.tensor(lam)).numpy() == np.sqrt(1 - lam)
    assert not np.any(off & exact)
    assert off.mean() < 1e-4
    with mock.patch("torch.sqrt", lambda x: torch.tensor(np.sqrt(x.numpy()))):  # rounded correctly, as IEEE 754 has it
        assert_close(ours, theirs(), "box")
        with pytest.raises(AssertionError):
            assert_close(boxes_at((row, column), lam, height, width, "paper", transform), theirs(), "box")


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (17, 33), (9, 1)])
@pytest.mark.parametrize(
    "transform",
    [lambda f: f, jax.jit, jax.vmap, lambda f: jax.jit(jax.vmap(f))],
    ids=["eager", "jit", "vmap", "jit vmap"],
)
def test_lambda_of_every_area_equals_fastai_bit_for_bit(size, transform):
    whole = size[0] * size[1]
    area = np.arange(whole + 1)
    boxes = np.stack([0 * area, 0 * area, area, 0 * area + 1], axis=-1).astype(np.int32)
    theirs = 1 - torch.tensor(area) / float(whole)  # as in fastai's `before_batch`
    assert_close(transform(lambda box: _sampling.area_left(box, size))(jnp.asarray(boxes)), theirs, "cutmix lambda")


@pytest.mark.parametrize("wrong", ["box off by one", "rows as columns", "another partner", "partner's weight"])
def test_the_comparison_fails_for_another_draw(wrong):
    x, y = data(6, 16, 16)
    fastai = record(x, y, seed=23)
    mix = fastai.mix()
    y1, x1, y2, x2 = fastai.box
    assert 0 < y1 != x1, "a box that can move up and is not its own transpose"
    other = {
        "box off by one": lambda: jax_mix.Mix.from_box(mix.partner, np.array([y1 - 1, x1, y2, x2]), (16, 16)),
        "rows as columns": lambda: jax_mix.Mix.from_box(mix.partner, np.array([x1, y1, x2, y2]), (16, 16)),
        "another partner": lambda: dataclasses.replace(mix, partner=np.roll(mix.partner, 1)),
        "partner's weight": lambda: dataclasses.replace(mix, lam=1 - mix.lam),
    }[wrong]()
    if wrong != "partner's weight":
        with pytest.raises(AssertionError):
            assert_close(other.blend(nhwc(x)), nhwc(fastai.x), "cutmix batch")
    if wrong != "rows as columns":
        with pytest.raises(AssertionError):
            assert_within_ulp(other.targets(y), fastai.y, np.maximum(y, y[fastai.partner]))

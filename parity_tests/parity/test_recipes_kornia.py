"""The recipes against Kornia as installed: the same draws give the same batch, and draws are alike."""

import contextlib
from unittest import mock

import jax
import kornia.augmentation as kornia
import numpy as np
import pytest
import torch
from kornia.augmentation.random_generator._2d import cutmix as kornia_cutmix

import jax_mix
from jax_mix import recipes
from parity_tests.parity import twins
from parity_tests.parity.batches import batch
from parity_tests.parity.measured import alike, of_one_batch, ours_of_one_batch
from parity_tests.parity.recorder import Recorder
from parity_tests.parity.replaying import Drawn, assert_same_batch, images, nchw, replayed
from parity_tests.tolerances import assert_within_ulp

KEY = jax.random.key(0)


def kornia_gate(p, batch_prob):
    return {} if p == 1 else {"choice": [Drawn((p, 1 - p), 0 if batch_prob[0] else 1)]}


@pytest.mark.parametrize("same_on_batch", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"lambda_val": (0.1, 0.6)}, {"lambda_val": (0.0, 0.5), "p": 0.4}], ids=str)
def test_kornias_draws_make_kornias_mixup(arguments, same_on_batch):
    x, labels = images(), np.arange(8)
    for seed in range(4):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            transform = kornia.RandomMixUpV2(**arguments, same_on_batch=same_on_batch, data_keys=["input", "class"])
            theirs_x, theirs_y = transform(nchw(x), torch.tensor(labels))
        drawn = {name: value.numpy() for name, value in transform._params.items()}
        low, high = arguments.get("lambda_val", (0, 1))
        own = 1 - drawn["mixup_lambdas"]  # theirs is the partner's
        given = kornia_gate(arguments.get("p", 1), drawn["batch_prob"])
        given["uniform"] = [Drawn((1 - high, 1 - low), own[0] if same_on_batch else own)]
        with replayed(**given, partner=[Drawn((), drawn["mixup_pairs"])]):
            mix = recipes.kornia_mixup(**arguments, same_on_batch=same_on_batch).sample(KEY, x.shape)
        assert_same_batch(mix, x, twins.nhwc(theirs_x.numpy()))
        assert_same_labels(mix, theirs_y.numpy(), 1 - theirs_y.numpy()[:, 2])


def assert_same_labels(mix, theirs, lam):
    """Kornia's rows are (label, partner's label, lambda), with labels that count the rows."""
    assert_within_ulp(np.asarray(mix.lam, np.float32), lam, np.ones(len(lam)))
    assert theirs[:, 0].tolist() == [*range(len(lam))]
    assert theirs[:, 1].tolist() == np.asarray(mix.partner).tolist()


@pytest.mark.parametrize("same_on_batch", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"beta": 0.3, "cut_size": (0, 1)}, {"beta": 2.0, "p": 0.4}], ids=str)
def test_kornias_draws_make_kornias_cutmix(arguments, same_on_batch):
    x, labels = images(), np.arange(8)
    arguments = arguments | {"same_on_batch": same_on_batch, "use_correct_lambda": True}
    for seed in range(4):
        calls = Recorder()
        sampling = calls.of("draw", kornia_cutmix._adapted_rsampling)
        with torch.random.fork_rng(), mock.patch.object(kornia_cutmix, "_adapted_rsampling", sampling):
            torch.manual_seed(seed)
            transform = kornia.RandomCutMixV2(**arguments, data_keys=["input", "class"])
            theirs_x, theirs_y = transform(nchw(x), torch.tensor(labels))
        params = {name: value.numpy() for name, value in transform._params.items()}
        (_, beta, _), lam = calls.next("draw")
        starts = [
            params["crop_src"][0, :, 0, axis] for axis in (1, 0)
        ]  # of y and of x; below the first that is outside
        cuts = [params["crop_src"][0, :, 2, axis] + 1 - start for axis, start in zip((1, 0), starts, strict=True)]
        ends = [length - cut + 1 for length, cut in zip(x.shape[1:3], cuts, strict=True)]
        (rows,) = (0,) if same_on_batch else (slice(None),)
        given = kornia_gate(arguments.get("p", 1), params["batch_prob"])
        given["beta"] = [Drawn((beta.concentration1.item(),), lam.numpy()[rows])]
        given["integers"] = [Drawn((0, e[rows]), s[rows]) for s, e in zip(starts, ends, strict=True)]
        with replayed(**given, partner=[Drawn((), params["mix_pairs"][0])]):
            mix = recipes.kornia_cutmix(**arguments).sample(KEY, x.shape)
        assert_same_batch(mix, x, twins.nhwc(theirs_x.numpy()), range(8))
        assert len(theirs_y) == 1
        own = theirs_y.numpy()[0, :, 2]
        assert_same_labels(mix, theirs_y.numpy()[0], own if params["batch_prob"][0] else 1 - own)


def test_kornias_two_lambdas_are_one_mix():
    assert recipes.kornia_cutmix(use_correct_lambda=True) == recipes.kornia_cutmix()
    x, labels, lams = nchw(images()), torch.arange(8), []
    for right in (True, False):
        with (
            torch.random.fork_rng(),
            contextlib.nullcontext() if right else pytest.warns(DeprecationWarning, match="lambda"),
        ):
            torch.manual_seed(0)
            transform = kornia.RandomCutMixV2(use_correct_lambda=right, data_keys=["input", "class"])
            lams.append(transform(x, labels)[1].numpy()[0, :, 2])
    assert_within_ulp(lams[0], 1 - lams[1], np.ones(8))


def kornias(transform, **arguments):
    x, _ = batch()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixed, labels = transform(**arguments, data_keys=["input", "class"])(nchw(x), torch.arange(len(x)))
    labels = labels.numpy().reshape(-1, 3)
    own = labels[:, 2] if "use_correct_lambda" in arguments else 1 - labels[:, 2]
    return of_one_batch(mixed.numpy()[:, 0], own, labels[:, 1])


def test_draws_are_distributed_as_kornias():
    theirs = kornias(kornia.RandomMixUpV2, lambda_val=(0.1, 0.7))
    assert alike(ours_of_one_batch(recipes.kornia_mixup(lambda_val=(0.1, 0.7))), theirs) > 1e-3
    assert alike(ours_of_one_batch(recipes.kornia_mixup(lambda_val=(0.3, 0.9))), theirs) < 1e-3
    theirs = kornias(kornia.RandomCutMixV2, use_correct_lambda=True)
    assert alike(ours_of_one_batch(recipes.kornia_cutmix()), theirs) > 1e-3
    assert alike(ours_of_one_batch(jax_mix.CutMix(1.0, box="paper")), theirs) < 1e-3

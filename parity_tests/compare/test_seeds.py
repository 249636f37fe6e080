"""All seeds of a method trained as one: the same as each alone."""

import dataclasses

import numpy as np
import pytest
from tqdm.auto import tqdm

from jax_mix.compare import seeds
from jax_mix.training import data, loop
from jax_mix.training.build import make_learner, prepare, resolve, split_seed
from jax_mix.training.config import Config
from jax_mix.training.errors import TrainingFailed
from parity_tests.tolerances import assert_close


@pytest.mark.parametrize("flags", [{}, {"mix_off_epochs": 1, "ema": 0.9}, {"accumulate": 2, "alpha_end": 0.2}])
def test_seeds_trained_as_one_are_those_trained_alone(flags, digits, capsys):
    config = Config(mix="manifold", model="mlp", epochs=2, train_images=320, devices=1, **flags)
    configs = [resolve(dataclasses.replace(config, seed=seed)) for seed in range(3)]
    datasets = [data.corrupt_labels(digits, 0.5, split_seed(each)[4]) for each in configs]
    together = seeds.train_seeds(configs, datasets, tqdm(disable=True))
    for each, dataset, (_, found) in zip(configs, datasets, together, strict=True):
        _, history = loop.train(prepare(each, dataset))
        for one, other in zip(history, found, strict=True):
            assert_close(list(other.values()), list(one.values()), "another order of summation")


def test_a_seed_that_fails_leaves_the_others(digits):
    configs = [resolve(Config(mix="none", model="mlp", epochs=2, devices=1, seed=seed)) for seed in (0, 1)]
    broken = digits.train._replace(image=digits.train.image)
    datasets = [digits, dataclasses.replace(digits, train=broken)]
    make = make_learner

    def one_too_high(config, model, steps):
        learner = make(config, model, steps)
        if config.seed == 1:
            learner.model.head.kernel[...] = learner.model.head.kernel[...] * np.float32(np.inf)
        return learner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "make_learner", one_too_high)
        fine, failed = seeds.train_seeds(configs, datasets, tqdm(disable=True))
    assert isinstance(failed, TrainingFailed)
    assert fine[1][-1]["accuracy"] > 0.5


def test_seeds_are_trained_as_one_without_convolutions(digits):
    assert seeds.is_faster(Config(model="mlp", devices=1), digits)
    assert not seeds.is_faster(Config(devices=1), digits)
    assert not seeds.is_faster(Config(model="mlp", devices=8), digits)

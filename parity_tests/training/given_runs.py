"""Folders of runs whose networks are as they were made: nothing is trained."""

import numpy as np
from flax import nnx

from jax_mix.training.about import write_about
from jax_mix.training.build import described, make_learner, prepare, resolve
from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.data import Dataset, Examples, Normalize
from jax_mix.training.files import write_json
from jax_mix.training.run import write_config


def random_set(shape, class_names=("cat", "dog"), n=8):
    """Images of noise; mean and deviation are those of a photograph, a channel unlike the next."""
    rng = np.random.default_rng(0)
    label = np.arange(n, dtype=np.int32) % len(class_names)
    train, test = (Examples(rng.integers(0, 256, (n, *shape), np.uint8), label) for _ in range(2))
    mean = np.array([120.5, 110.1, 100.7], np.float32)[: shape[-1]]
    return Dataset(train, test, Normalize(mean, mean / 2), "noise", tuple(class_names))


def given_run(folder, config, dataset):
    """A folder as a finished run of one step leaves it; its model."""
    config = resolve(config)
    prepared = prepare(config, dataset)
    learner = make_learner(prepared.config, prepared.model, 1)
    write_config(folder, prepared.config, anew=True)
    write_about(folder, prepared)
    with Checkpoints(folder / "checkpoints", described(config, dataset)) as checkpoints:
        checkpoints.save(1, nnx.state(learner), {"history": [], "losses": []})
    write_json(folder / "metrics.json", {"accuracy": 0.5, "nll": 1.0, "ece": 0.1, "history": [{"epoch": 1, "step": 1}]})
    prepared.model.eval()
    return prepared.model

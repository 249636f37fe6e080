"""A whole run, written once more from the formulas: what runs one by one and seeds trained as one have in common."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tqdm.auto import tqdm

import jax_mix
from jax_mix.compare import seeds
from jax_mix.training import data, loop
from jax_mix.training.build import prepare, resolve, split_seed
from jax_mix.training.config import Config
from jax_mix.training.models import MLP
from parity_tests.tolerances import assert_close

CONFIG = Config(
    mix="mixup",
    alpha=0.3,
    alpha_end=5.0,
    mix_off_epochs=1,
    model="mlp",
    augment="none",
    epochs=3,
    batch_size=64,
    schedule="constant",
    learning_rate=0.05,
    weight_decay=0.02,
    label_smoothing=0.1,
    label_noise=0.2,
    seed=3,
    devices=1,
)
IMAGES, CLASSES = 350, 10  # five batches, and 30 images that fill none


def logits_of(weights, x):
    for kernel, bias in weights[:-1]:
        x = jnp.maximum(x @ kernel + bias[None], 0)
    return x @ weights[-1][0] + weights[-1][1][None]


@functools.partial(jax.jit, static_argnames="mixes")
def step(weights, momentum, x, label, key, alpha, mixes):
    lam, partner = jnp.ones(64), jnp.arange(64)
    if mixes:
        mix = jax_mix.MixUp(alpha).sample(jax.random.split(key)[1], (64, 8, 8, 1))
        lam, partner = mix.lam, mix.partner
    target = 0.9 * jax.nn.one_hot(label, CLASSES) + 0.1 / CLASSES
    lam = lam[:, None]

    def loss(weights):
        logits = logits_of(weights, lam * x + (1 - lam) * x[partner])
        mixed = lam * target + (1 - lam) * target[partner]
        taken_for = jax.nn.one_hot(logits.argmax(-1), CLASSES)
        one_hot = jax.nn.one_hot(label, CLASSES)
        hits = jnp.sum(taken_for * (lam * one_hot + (1 - lam) * one_hot[partner]), -1)
        return -jnp.mean(jnp.sum(mixed * jax.nn.log_softmax(logits), -1)), hits.mean()

    value, gradients = jax.value_and_grad(loss, has_aux=True)(weights)
    decayed = [(g + 0.02 * w, h) for (g, h), (w, _) in zip(gradients, weights, strict=True)]  # biases do not decay
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, decayed)
    return jax.tree.map(lambda w, m: w - 0.05 * m, weights, momentum), momentum, value


@pytest.fixture(scope="module")
def few(digits):
    return data.take(digits, IMAGES)


@pytest.fixture(scope="module")
def by_hand(few):
    """The history of that run."""
    weights_key, order_key, step_key, _, noise_key = jax.random.split(jax.random.key(3), 5)
    label = jnp.asarray(data.corrupt_labels(few, 0.2, noise_key).train.label)
    model = MLP(1, CLASSES, image_size=(8, 8), rngs=nnx.Rngs(weights_key))
    weights = [(layer.kernel[...], layer.bias[...]) for layer in (*model.hidden, model.head)]
    momentum = jax.tree.map(jnp.zeros_like, weights)
    mean, std = few.train.image.mean(), few.train.image.std()

    def ready(image):
        return ((np.asarray(image, np.float32) - np.float32(mean)) / np.float32(std)).reshape(len(image), -1)

    history, done = [], 0
    for epoch in (1, 2, 3):
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), IMAGES)
        measured = []
        for batch in range(5):
            index = np.asarray(order[64 * batch : 64 * batch + 64])
            key = jax.random.fold_in(step_key, done)
            alpha = 0.3 + (1 - np.cos(np.pi * done / 15)) / 2 * (5.0 - 0.3)
            x = ready(few.train.image[index])
            weights, momentum, values = step(weights, momentum, x, label[index], key, alpha, mixes=epoch < 3)
            measured.append(values)
            done += 1
        logits = np.asarray(logits_of(weights, ready(few.test.image)), np.float64)
        right = logits.argmax(1) == few.test.label
        chosen = logits[np.arange(len(logits)), few.test.label]
        nll = np.mean(np.log(np.exp(logits).sum(1)) - chosen)
        loss, hits = np.mean(measured, axis=0)
        record = {"epoch": epoch, "step": done, "loss": loss, "train_accuracy": hits}
        history.append({**record, "accuracy": right.mean(), "nll": nll})
    return history


def assert_same(history, by_hand):
    for found, expected in zip(history, by_hand, strict=True):
        assert_close([found[name] for name in expected], list(expected.values()), "another order of summation")


def noisy(config, dataset):
    return data.corrupt_labels(dataset, config.label_noise, split_seed(config)[4])


def test_a_run_alone(few, by_hand):
    _, history = loop.train(prepare(resolve(CONFIG), noisy(CONFIG, few)))
    assert_same(history, by_hand)


def test_seeds_trained_as_one(few, by_hand):
    configs = [resolve(dataclasses.replace(CONFIG, seed=seed, evaluate_every=2)) for seed in (7, 3)]
    datasets = [noisy(config, few) for config in configs]
    (_, other), (_, history) = seeds.train_seeds(configs, datasets, tqdm(disable=True))
    assert_same(history, by_hand[1:])
    assert other[0]["loss"] != history[0]["loss"]

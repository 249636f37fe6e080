"""jax_mix/training/step.py and loop.py: a step is the formula, compiles once, and exports for every platform."""

import dataclasses

import jax
import jax.export
import numpy as np
import optax
import pytest
from flax import nnx

import jax_mix
from jax_mix.training import data, loop
from jax_mix.training.build import make_learner, prepare
from jax_mix.training.config import Config
from jax_mix.training.errors import UserError
from jax_mix.training.losses import Loss
from jax_mix.training.models import PreActResNet
from jax_mix.training.step import Recipe, pure_step, train_step

METHODS = {
    "none": None,
    "mixup": jax_mix.MixUp(),
    "manifold": jax_mix.ManifoldMixup(layers=("layer1", "layer2")),
    "cutmix": jax_mix.CutMix(),
}


train_step = nnx.jit(train_step, static_argnames="recipe")


def small_resnet():
    return PreActResNet(1, 10, blocks=(1, 1), width=4, rngs=nnx.Rngs(0))


def batch_of(digits, n=16):
    return data.Examples(*(array[:n] for array in digits.train))


@pytest.mark.parametrize("name", METHODS)
def test_the_step_exports_for_cpu_gpu_and_tpu(name, digits):
    learner = make_learner(Config(), small_resnet(), 10)
    graphdef, state = nnx.split(learner)
    recipe = Recipe(METHODS[name])

    def step(state, key, batch):
        return pure_step(graphdef, state, key, batch, digits.normalize, recipe)

    arguments = state, jax.random.key(0), batch_of(digits)
    exported = jax.export.export(jax.jit(step), platforms=["cpu", "cuda", "tpu"])(*arguments)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    new_state, measured = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert [(each.shape, each.dtype) for each in measured] == [((), np.float32)] * 2
    assert [a.shape for a in jax.tree.leaves(new_state)] == [a.shape for a in jax.tree.leaves(state)]


def by_hand(model, batch, key, method, smoothing=0.0, normalize=None):
    """The loss and gradients of one batch from the library's parts; the model's BatchNorm sees the batch."""
    shift_key, key = jax.random.split(key)
    image = normalize(data.random_shift(shift_key, batch.image))
    mix = method.sample(key, image.shape)
    target = optax.smooth_labels(mix.targets(jax.nn.one_hot(batch.label, 10)), smoothing)

    @nnx.jit
    def step(model, image):
        def loss(model):
            return optax.softmax_cross_entropy(model(image), target).mean()

        return nnx.value_and_grad(loss)(model)

    return step(model, mix.blend(image))


def test_the_step_is_the_formula(digits):
    """One step's loss against the library's parts put together by hand; and the model moves."""
    method, batch = METHODS["mixup"], batch_of(digits)
    model = small_resnet()
    copy, initial = nnx.clone(model), nnx.clone(model)
    learner = make_learner(Config(), model, 10)
    recipe = Recipe(method, loss=Loss(label_smoothing=0.2))
    loss, _ = train_step(learner, jax.random.key(3), batch, digits.normalize, recipe)

    expected, _ = by_hand(copy, batch, jax.random.key(3), method, 0.2, digits.normalize)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert not np.array_equal(model.stem.kernel[...], initial.stem.kernel[...])
    np.testing.assert_allclose(model.norm.mean[...], copy.norm.mean[...], rtol=1e-4)  # BatchNorm saw the mixed batch
    assert not np.array_equal(model.norm.mean[...], np.zeros(8))


def test_accumulated_gradients_are_the_mean_over_the_parts(digits):
    """Every other image is a batch of its own, with a draw of its own."""
    method, batch = METHODS["mixup"], batch_of(digits)
    model = small_resnet()
    copy = nnx.clone(model)
    config = Config(optimizer="sgd", schedule="constant", learning_rate=1.0, weight_decay=0.0)
    learner = make_learner(config, model, 10)
    loss, _ = train_step(learner, jax.random.key(3), batch, digits.normalize, Recipe(method, accumulate=2))

    before = np.asarray(copy.stem.kernel[...])
    losses, grads = [], []
    for i, key in enumerate(jax.random.split(jax.random.key(3), 2)):
        part = data.Examples(*(array[i::2] for array in batch))
        part_loss, part_grads = by_hand(copy, part, key, method, normalize=digits.normalize)
        losses.append(part_loss)
        grads.append(part_grads.stem.kernel[...])
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(before - model.stem.kernel[...], np.mean(grads, 0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(model.norm.mean[...], copy.norm.mean[...], rtol=1e-4)  # moved twice


def test_averaged_weights_are_evaluated(digits):
    model = small_resnet()
    learner = make_learner(Config(ema=0.5), model, 10)
    expected = {"kernel": np.asarray(model.head.kernel[...]), "mean": np.asarray(model.norm.mean[...])}
    for step in range(1, 13):
        train_step(learner, jax.random.key(step), batch_of(digits), digits.normalize, Recipe(ema=0.5))
        kept = min(0.5, (1 + step) / (10 + step))
        for name, value in {"kernel": model.head.kernel, "mean": model.norm.mean}.items():
            expected[name] = kept * expected[name] + (1 - kept) * np.asarray(value[...])
    assert learner.evaluated is learner.average
    np.testing.assert_allclose(learner.average.head.kernel[...], expected["kernel"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(learner.average.norm.mean[...], expected["mean"], rtol=1e-5, atol=1e-7)
    assert not np.allclose(learner.average.head.kernel[...], model.head.kernel[...], rtol=1e-3)


OWN = """
from flax import nnx

class Sows(nnx.Module):
    def __init__(self, num_classes, *, image_size, rngs):
        self.block = nnx.Linear(image_size[0] * image_size[1], 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(8, num_classes, rngs=rngs)

    def __call__(self, image):
        hidden = nnx.relu(self.block(image.reshape(image.shape[0], -1)))
        self.sow(nnx.Intermediate, "hidden", hidden)
        return self.head(self.dropout(hidden))
"""


@pytest.fixture
def own(tmp_path):
    """What `--model` takes for a class of OWN, after its source is changed."""

    def model(name, old="", new=""):
        (tmp_path / "own.py").write_text(OWN.replace(old, new))
        return f"{tmp_path / 'own.py'}:{name}"

    return model


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")  # Flax would have it in nnx.capture
@pytest.mark.parametrize("flags", [{}, {"ema": 0.9, "accumulate": 2}])
def test_a_model_that_sows_has_one_program(flags, own, digits):
    config = Config(model=own("Sows"), layers=("block",), epochs=2, devices=1, **flags)
    before = pure_step._cache_size()
    model, _ = loop.train(prepare(config, data.take(digits, 256)))
    assert pure_step._cache_size() == before + 1
    assert not jax.tree.leaves(nnx.state(model, nnx.Intermediate))  # of the evaluation neither


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
@pytest.mark.parametrize("flags", [{}, {"ema": 0.9, "accumulate": 2}])
def test_a_model_that_adds_variables_is_told(flags, own, digits):
    config = Config(model=own("Sows", "self.sow(nnx.Intermediate", "self.sow(nnx.Cache"), layers=("block",), **flags)
    with pytest.raises(UserError, match=r"^--model: its forward pass adds Variables: make them before"):
        loop.train(prepare(config, digits))


def test_a_step_writes_over_the_old_state(digits):
    """So that weights and momentum are in memory once."""
    graphdef, state = nnx.split(make_learner(Config(), small_resnet(), 10))
    new, _ = pure_step(graphdef, state, jax.random.key(0), batch_of(digits), digits.normalize, Recipe())
    assert all(array.is_deleted() for array in jax.tree.leaves(state) if array.ndim > 0)
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_the_last_epochs_are_not_mixed(data_dir, digits):
    """Up to there the runs are equal; in the last epoch training loss falls below that of mixed batches."""
    config = Config(model="mlp", mix="mixup", alpha=8.0, epochs=2, devices=1)
    mixed, off = (
        loop.train(prepare(dataclasses.replace(config, mix_off_epochs=epochs), digits))[1] for epochs in (0, 1)
    )
    assert mixed[0] == off[0]
    assert off[1]["loss"] < 0.95 * mixed[1]["loss"]

"""What recipes train with, in the step and the run: dropped paths, clipping, weights and draws of classes."""

import dataclasses
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.utils.class_weight import compute_class_weight

import jax_mix
from jax_mix.training import build, data, devices, loop, models
from jax_mix.training.balance import weights_of
from jax_mix.training.build import make_learner, prepare, resolve
from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.config import Config
from jax_mix.training.errors import Stopped, UserError
from jax_mix.training.models import dropping, set_drop_path
from jax_mix.training.optimizers import make
from jax_mix.training.step import Recipe, apply_gradients, train_step
from parity_tests.tolerances import assert_close

KEY = jax.random.key(5)


class Block(models.ResidualBlock):
    def __init__(self, width, rngs):
        self.linear = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return x + self.branch(nnx.relu(self.linear(x)))


class Small(nnx.Module):
    """A network of one's own with stochastic depth: three residual blocks of a linear layer."""

    def __init__(self, in_channels, num_classes, *, image_size, rngs):
        width = in_channels * image_size[0] * image_size[1]
        self.blocks = nnx.List([Block(width, rngs) for _ in range(3)])
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, image):
        x = image.reshape(len(image), -1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def small():
    model = Small(1, 10, image_size=(8, 8), rngs=nnx.Rngs(0))
    set_drop_path(model, 0.5, "Small")
    return model


train_step = nnx.jit(train_step, static_argnames="recipe")


@pytest.fixture(scope="module")
def dropped():
    """A network whose last block is dropped for half of the images, and images."""
    return small(), jax.random.normal(jax.random.key(1), (8, 8, 8, 1))


def test_paths_are_dropped_by_the_key_alone_and_by_none_without(dropped):
    model, image = dropped
    plain = nnx.clone(model)
    for block in plain.blocks:
        block.drop_rate = 0.0
    structure = jax.tree.structure(nnx.state(model))

    @nnx.jit
    def logits(model, image, key):
        with dropping(model, key):
            return model(image)

    wanted = plain(image)
    np.testing.assert_array_equal(model(image), wanted)  # no key: evaluation
    first, again, other = (logits(model, image, key) for key in (KEY, KEY, jax.random.key(6)))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert jax.tree.structure(nnx.state(model)) == structure  # nothing is left in the model
    with pytest.raises(ZeroDivisionError), dropping(model, KEY):
        1 / 0  # noqa: B018
    assert jax.tree.structure(nnx.state(model)) == structure


def test_a_blend_at_a_layer_is_of_rows_with_paths_of_their_own(dropped):
    """Each row is dropped by itself before the layer; after it the blend is, by the row's own draw."""
    model, image = dropped
    mix = jax_mix.Mix(lam=jnp.full(8, 0.7), partner=jnp.arange(8)[::-1], layer="blocks.1")

    @nnx.jit
    def logits(model, image):
        with dropping(model, KEY):
            return jax_mix.forward(model, image, mix)

    @nnx.jit
    def by_hand(model, image):
        with dropping(model, KEY):
            x = model.blocks[1](model.blocks[0](image.reshape(8, -1)))
            x = model.blocks[2](0.7 * x + 0.3 * x[::-1])
        return model.head(x)

    assert_close(logits(model, image), by_hand(model, image), "another order of summation")


def test_parts_of_a_batch_are_dropped_and_their_mean_gradient_is_clipped(digits):
    """Steps of SGD at rate 1 are the gradients: those of two parts, each with a key of its own, then scaled down."""
    batch, gradients = data.Examples(*(array[:16] for array in digits.train)), []
    for clip, parts, key in ((None, 2, KEY), (0.05, 2, KEY), (None, 1, KEY), (None, 1, jax.random.key(6))):
        model = small()
        before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        config = Config(schedule="constant", learning_rate=1.0, weight_decay=0.0, clip_norm=clip)
        learner = make_learner(config, model, 10)
        recipe = Recipe(augment="none", accumulate=parts, drop_path=True)
        train_step(learner, key, batch, digits.normalize, recipe)
        after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        gradients.append(jax.tree.leaves(jax.tree.map(lambda a, b: a - np.asarray(b), before, after)))
    whole, clipped, *at_once = gradients
    norm = np.sqrt(sum(np.square(array).sum() for array in whole))
    assert norm > 0.5
    for mine, wanted in zip(clipped, whole, strict=True):
        np.testing.assert_allclose(mine, wanted * 0.05 / norm, atol=1e-6)
    for some, others in ((whole, at_once[0]), at_once):
        assert any(np.abs(one - other).max() > 1e-3 for one, other in zip(some, others, strict=True))


def test_nothing_is_added_to_a_run_that_asks_for_none_of_it(digits):
    """No key is drawn, and the optimizer's state is what it was: checkpoints of before are gone on with."""
    model = small()
    names = {"warmup": 0, "clip_norm": None, "beta2": None, "epsilon": None, "layer_rates": None}
    same = {"learning_rate": 0.1, "weight_decay": 5e-4, "steps": 10}
    states = [
        jax.eval_shape(make("adam", "one_cycle", **same, **options).init, nnx.state(model)) for options in ({}, names)
    ]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_layers_learn_at_rates_of_their_own():
    """A step of SGD at rate 1 along gradients of 1 is each parameter's rate; the head's is all of it."""
    config = Config(schedule="constant", learning_rate=1.0, weight_decay=0.0, layer_decay=0.5)
    model = nnx.eval_shape(lambda: models.ViT(1, 3, image_size=(8, 8), width=8, depth=2, rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), nnx.state(model, nnx.Param))
    nnx.update(model, params)
    optimizer = make_learner(config, model, 10).optimizer
    nnx.jit(apply_gradients)(model, optimizer, jax.tree.map(jnp.ones_like, params))
    moved = nnx.to_flat_state(nnx.state(model, nnx.Param))
    rates = {path[:2]: set(np.asarray(each[...]).ravel().tolist()) for path, each in moved}
    wanted = {("patch", "kernel"): 0.125, ("position",): 0.125, ("blocks", 0): 0.25, ("blocks", 1): 0.5}
    wanted |= {("norm", "scale"): 0.5, ("head", "kernel"): 1.0}
    assert {path: rates[path] for path in wanted} == {path: {-rate} for path, rate in wanted.items()}


class Eleven(nnx.Module):
    def __init__(self):
        for i in range(11):
            setattr(self, f"block{i + 1}", models.ResidualBlock())


def test_blocks_are_in_the_order_of_the_numbers_in_their_names():
    model = Eleven()
    models.set_drop_path(model, 0.5, "my.py:Eleven")
    assert [getattr(model, f"block{i + 1}").drop_rate for i in range(11)] == [0.5 * i / 10 for i in range(11)]


def test_what_a_network_or_a_set_cannot_have_is_told(digits):
    with pytest.raises(UserError, match=r"^--drop-path is 0\.1, but --model mlp has no residual blocks"):
        set_drop_path(small().head, 0.1, "mlp")
    with pytest.raises(UserError, match=r"^--layer-decay is 0\.5, but it is for vit and convnext networks"):
        make_learner(Config(layer_decay=0.5), small(), 10)
    dataset = dataclasses.replace(digits, class_names=("a", "b"))
    with pytest.raises(UserError, match=r"^--class-weights must be 2 numbers, one for each class, got 3\.$"):
        build._loss(Config(class_weights=("1", "2", "3")), dataset)
    with pytest.raises(UserError, match=r"^--target-threshold must be from 0\.1 to below 0\.9, .* got 0\.05\.$"):
        build._loss(Config(loss="bce", label_smoothing=0.2, target_threshold=0.05), dataset)


def test_balanced_weights_are_those_of_scikit_learn():
    label = np.repeat(np.array([3, 0, 1]), [2, 5, 13])
    theirs = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=label)
    found = weights_of(("balanced",), label, ("a", "b", "c", "d"))
    np.testing.assert_allclose([found[k] for k in (0, 1, 3)], theirs)


def test_balanced_batches_are_a_function_of_key_and_epoch_in_every_feed():
    label = np.repeat(np.array([0, 1, 2], np.int32), [4, 12, 34])
    examples = data.Examples(np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1), label)
    sampler, split = data.Balanced(label), devices.split(devices.make_mesh(1))
    options = {"start": 3, "stop": 12, "sharding": split, "sampler": sampler}
    feeds = [list(data.batches(examples, KEY, 8, feed=feed, **options)) for feed in ("device", "grain")]
    wanted = [data.epoch_batches(KEY, step // 6 + 1, 50, 8, sampler)[step % 6] for step in range(3, 12)]
    for batches in feeds:
        for batch, index in zip(batches, wanted, strict=True):
            np.testing.assert_array_equal(batch.image[:, 0, 0, 0], index)
            np.testing.assert_array_equal(batch.label, label[index])
    first, second = (data.epoch_batches(KEY, epoch, 50, 8, data.Balanced(label)) for epoch in (1, 2))
    np.testing.assert_array_equal(np.concatenate([first[3:], second])[:9], wanted)
    assert not np.array_equal(first, second)
    assert str(sampler).startswith("balanced: an epoch has about 17 images of each of 3 classes: one of the smallest")


ALL = Config(
    model="parity_tests.training.test_recipe_parts:Small",
    mix="timm:0.8,1.0",
    epochs=3,
    batch_size=64,
    schedule="cosine",
    optimizer="lamb",
    learning_rate=0.01,
    warmup_epochs=1,
    clip_norm=1.0,
    loss="bce",
    target_threshold=0.2,
    sampler="balanced",
    drop_path=0.3,
    accumulate=2,
    ema=0.9,
    devices=1,
)


def test_a_run_with_all_of_it_goes_on_to_the_same_bits(digits, tmp_path, monkeypatch, capsys):
    few = data.take(digits, 200)
    prepared = prepare(resolve(ALL), few)
    assert "sampler: balanced: an epoch has about 20 images of each of 10 classes" in capsys.readouterr().out
    model, history = loop.train(prepared)
    step, calls = loop.pure_step, []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 5:  # within the second epoch of three steps
            signal.raise_signal(signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(loop, "pure_step", stopped)
    with Checkpoints(tmp_path, {}) as checkpoints, pytest.raises(Stopped):
        loop.train(prepare(resolve(ALL), few), checkpoints)
    monkeypatch.undo()
    again = prepare(resolve(dataclasses.replace(ALL, resume=True)), few)
    with Checkpoints(tmp_path, {}) as checkpoints:
        resumed, history_again = loop.train(again, checkpoints)
    assert history_again == history
    leaves = (jax.tree.leaves(nnx.to_pure_dict(nnx.state(each))) for each in (model, resumed))
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(*leaves, strict=True))
    assert [each.drop_rate for each in models.residual_blocks(prepared.model).values()] == [0.0, 0.15, 0.3]

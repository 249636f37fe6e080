"""Training steps of NNX models: in every transform of JAX and NNX, the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_mix
from parity_tests.library import models_nnx as models
from parity_tests.library.test_running_nnx import data, draw
from parity_tests.tolerances import assert_close

XENT = optax.softmax_cross_entropy_with_integer_labels


def train_step(method, model, optimizer, key, x, label):
    mix = method.sample(key, x.shape)

    def loss_fn(model):
        return jax_mix.mixed_loss(XENT, jax_mix.forward(model, x, mix), label, mix).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


METHODS = {
    "mixup": jax_mix.MixUp(1.0),
    "manifold": jax_mix.ManifoldMixup(1.0, layers=("stem", "blocks.0")),
    "cutmix": jax_mix.CutMix(1.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_tree_mode_equals_graph_mode(name):
    """`graph=False`: NNX's transforms take the model as a plain pytree."""
    method, x = METHODS[name], data(6, shape=(5, 5, 1))
    mix = method.sample(jax.random.key(3), x.shape)

    def run(graph):
        model = models.ResNet(nnx.Rngs(0))
        logits = nnx.jit(lambda model: jax_mix.forward(model, x, mix), graph=graph)(model)
        return logits, nnx.state(model, nnx.BatchStat)

    for ours, expected in zip(jax.tree.leaves(run(False)), jax.tree.leaves(run(True)), strict=True):
        assert_close(ours, expected, "same program")


@pytest.mark.parametrize("name", METHODS)
def test_a_scan_over_steps_equals_a_loop_over_steps(name):
    method, label = METHODS[name], jnp.arange(6) % 3
    xs, keys = data(4 * 6, shape=(5, 5, 1)).reshape(4, 6, 5, 5, 1), jax.random.split(jax.random.key(3), 4)

    def fresh():
        model = models.ResNet(nnx.Rngs(0))
        return model, nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)

    model, optimizer = fresh()
    step = nnx.jit(lambda *args: train_step(method, *args))
    looped = [step(model, optimizer, key, x, label) for key, x in zip(keys, xs, strict=True)]

    scanned_model, scanned_optimizer = fresh()

    @nnx.jit
    def scan(model, optimizer):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
        def body(carry, key_and_x):
            loss = train_step(method, *carry, *key_and_x, label)
            return carry, loss

        return body((model, optimizer), (keys, xs))[1]

    scanned = scan(scanned_model, scanned_optimizer)
    assert_close(scanned, jnp.stack(looped), "another order of summation")
    assert len(set(np.asarray(scanned).tolist())) == 4


@pytest.mark.parametrize("name", METHODS)
def test_accumulated_gradients_equal_the_mean_of_the_microbatches(name):
    method, label = METHODS[name], jnp.arange(6) % 3
    xs, keys = data(2 * 6, shape=(5, 5, 1)).reshape(2, 6, 5, 5, 1), jax.random.split(jax.random.key(3), 2)

    accumulated = models.ResNet(nnx.Rngs(0))
    optimizer = nnx.Optimizer(accumulated, optax.MultiSteps(optax.sgd(0.1), 2), wrt=nnx.Param)
    step = nnx.jit(lambda *args: train_step(method, *args))
    with jax.numpy_dtype_promotion("standard"):  # optax.MultiSteps is not strict about dtypes
        for key, x in zip(keys, xs, strict=True):
            step(accumulated, optimizer, key, x, label)

    by_hand = models.ResNet(nnx.Rngs(0))
    gradients = []
    for key, x in zip(keys, xs, strict=True):
        mix = method.sample(key, x.shape)
        grad = nnx.grad(lambda m, x, mix: jax_mix.mixed_loss(XENT, jax_mix.forward(m, x, mix), label, mix).mean())
        gradients.append(nnx.state(nnx.jit(grad)(by_hand, x, mix)))
    want = jax.tree.map(
        lambda p, a, b: p - 0.1 * (a + b) / 2, nnx.state(models.ResNet(nnx.Rngs(0)), nnx.Param), *gradients
    )
    jax.tree.map(lambda a, b: assert_close(a, b, "another order of summation"), nnx.state(accumulated, nnx.Param), want)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_any_batch_size_and_a_batch_of_one_is_left_as_it_was(name, n):
    x = data(n, shape=(5, 5, 1))
    for seed in range(5):
        mix = METHODS[name].sample(jax.random.key(seed), x.shape)
        model, plain = models.ResNet(nnx.Rngs(0)), models.ResNet(nnx.Rngs(0))
        y = jax_mix.forward(model, x, mix)
        assert y.shape == (n, 3)
        if n == 1:
            np.testing.assert_array_equal(mix.blend(x), x)
            assert_close(y, plain(x), "same program")


def test_bfloat16_hidden_states_are_blended_in_float32():
    class Model(nnx.Module):
        def __init__(self):
            self.first = nnx.Linear(4, 64, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.first(x)

    model, x, mix = Model(), data(), draw("first")
    got, hidden = jax_mix.forward(model, x, mix), np.asarray(model.first(x), np.float32)
    lam = np.asarray(mix.lam)[:, None]
    want = (lam * hidden + (1 - lam) * hidden[np.asarray(mix.partner)]).astype(jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    assert (np.asarray(got) == want).mean() > 0.99  # float32's own rounding may tip a bfloat16 now and then
    np.testing.assert_allclose(np.asarray(got, np.float32), want.astype(np.float32), rtol=2**-8)

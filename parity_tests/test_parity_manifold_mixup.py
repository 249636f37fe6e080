"""Manifold Mixup: the same draw on the torch twin, by a forward hook, and on the Flax model, at every layer."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from fastai.basics import CancelFitException
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat, MSELossFlat
from flax import nnx

import jax_mix
from parity_tests.test_parity_model import images, nhwc, twins
from parity_tests.tolerances import assert_close
from torch_ref import convert, fitting, models, recording
from torch_ref.manifold_mixup import ManifoldMixup

XENT = optax.softmax_cross_entropy_with_integer_labels
LAYERS = ("input", "stem", "layer1", "layer1.conv1", "layer2", "layer2.shortcut", "layer3", "norm", "head")


def labels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 10, n)


def record(model, x, y, layers=LAYERS, loss=CrossEntropyLossFlat, seed=0, alpha=1.0):
    callback = ManifoldMixup(alpha, layers=[l for l in layers if l != "input"], use_input="input" in layers)
    return recording.run(callback, model, loss(reduction="none"), x, y, seed=seed)


@jax.jit
def forward_any_layer(graph, state, x, mix):
    return jax_mix.forward(nnx.merge(graph, state), x, mix)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_and_losses_equal_at_every_layer(layer, seed):
    theirs, ours = twins(seed)
    x, y = images(seed=seed), labels(16, seed)
    fastai = record(theirs, x, y, [layer], seed=seed)
    mix = fastai.mix()
    assert mix.layer == layer
    logits = jax_mix.forward(ours, nhwc(x), mix)
    assert_close(logits, fastai.logits, "logits float32")
    assert_close(jax_mix.mixed_loss(XENT, logits, y, mix), fastai.loss, "loss of a model float32")
    with pytest.raises(AssertionError):
        assert_close(twins(seed)[1](jnp.asarray(nhwc(x))), fastai.logits, "logits float32")


def test_one_compiled_step_replays_every_drawn_layer():
    theirs, ours = twins()
    graph, state = nnx.split(ours)
    x, y = images(), labels(16)
    drawn = set()
    for seed in range(30):
        fastai = record(theirs, x, y, seed=seed)
        mix = dataclasses.replace(fastai.mix(), layer=jnp.int32(LAYERS.index(fastai.layer)), layers=LAYERS)
        assert_close(forward_any_layer(graph, state, nhwc(x), mix), fastai.logits, "logits float32")
        drawn.add(fastai.layer)
    assert drawn == set(LAYERS)
    assert forward_any_layer._cache_size() == 1


def test_every_layer_gives_another_result():
    theirs, _ = twins()
    x, y = images(), labels(16)
    # One layer a run: numpy's draw then takes nothing from torch's, and all runs share lambdas and partners.
    logits = {layer: record(theirs, x, y, [layer]).logits for layer in LAYERS}
    for i, one in enumerate(LAYERS):
        for other in LAYERS[i + 1 :]:
            if (one, other) == ("input", "stem"):  # a linear stem: mixing before it is mixing after it
                assert_close(logits[one], logits[other], "logits float32")
                continue
            with pytest.raises(AssertionError):
                assert_close(logits[one], logits[other], "logits float32")


@pytest.mark.parametrize("wrong", ["layer", "partner's weight", "another partner", "not folded"])
def test_the_comparison_fails_for_another_draw(wrong):
    theirs, ours = twins()
    x, y = images(), labels(16)
    fastai = record(theirs, x, y, ["layer1"])
    mix = fastai.mix()
    other = {
        "layer": dataclasses.replace(mix, layer="layer2"),
        "partner's weight": dataclasses.replace(mix, lam=1 - mix.lam),
        "another partner": dataclasses.replace(mix, partner=np.roll(mix.partner, 1)),
        "not folded": dataclasses.replace(mix, lam=fastai.lam_drawn),
    }[wrong]
    with pytest.raises(AssertionError):
        assert_close(jax_mix.forward(ours, nhwc(x), other), fastai.logits, "logits float32")


@pytest.mark.parametrize("layer", ["input", "layer1"])
def test_label_smoothing_and_float_targets(layer):
    theirs, ours = twins()
    x, y = images(), labels(16)
    one_hot = np.eye(10, dtype=np.float32)[y]

    fastai = record(theirs, x, y, [layer], LabelSmoothingCrossEntropyFlat)
    logits = jax_mix.forward(ours, nhwc(x), fastai.mix())
    losses = jax_mix.mixed_loss(optax.softmax_cross_entropy, logits, optax.smooth_labels(one_hot, 0.1), fastai.mix())
    assert_close(losses, fastai.loss, "loss of a model float32")

    theirs, ours = twins()
    fastai = record(theirs, x, one_hot, [layer], MSELossFlat)
    logits = jax_mix.forward(ours, nhwc(x), fastai.mix())
    losses = optax.squared_error(logits, fastai.mix().targets(one_hot))
    assert_close(np.ravel(losses), fastai.loss, "loss of a model float32")


class TorchTwice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 10)

    def forward(self, x):
        return self.head(torch.tanh(self.first(torch.tanh(self.first(x.mean((2, 3)))))))


class FlaxTwice(nnx.Module):
    def __init__(self, rngs):
        self.first, self.head = nnx.Linear(3, 3, rngs=rngs), nnx.Linear(3, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.first(jnp.tanh(self.first(x.mean((1, 2)))))))


def test_a_layer_called_twice_is_mixed_at_its_first_call_only():
    theirs, ours = TorchTwice(), FlaxTwice(nnx.Rngs(0))
    convert.copy_to_flax(theirs, ours)
    x = images()
    with pytest.warns(UserWarning, match="first call only"):
        fastai = record(theirs, x, labels(16), ["first"])
    with pytest.warns(UserWarning, match="first call only"):
        logits = jax_mix.forward(ours, nhwc(x), fastai.mix())
    assert_close(logits, fastai.logits, "logits float32")


class Failing(torch.nn.Module):
    """Fails inside the forward pass, after the layer has run or before."""

    def __init__(self, error, *, after):
        super().__init__()
        self.stage, self.head, self.error, self.after = torch.nn.Identity(), models.Pooled(3), error, after

    def forward(self, x):
        if not self.after:
            self.check_hook_and_fail()
        x = self.stage(x)
        if self.after:
            self.check_hook_and_fail()
        return self.head(x)

    def check_hook_and_fail(self):
        assert self.stage._forward_hooks, "nothing to leave behind"
        raise self.error


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("in the model"), CancelFitException()])
def test_an_exception_leaves_no_hook_and_no_other_loss(error, after):
    model, loss, x, y = Failing(error, after=after), CrossEntropyLossFlat(), images(), labels(16)
    learner = fitting.learner(model, loss, fitting.in_order(x, y, len(x)))
    with contextlib.suppress(type(error)):
        learner.fit(1, cbs=ManifoldMixup(layers=["stage"], use_input=False))
    assert not model.stage._forward_hooks
    assert learner.loss_func is loss

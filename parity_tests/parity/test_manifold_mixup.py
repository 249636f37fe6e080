"""Manifold Mixup: one training step from the same draw, in fastai's Learner and in Flax, at every layer of every model.

A step is what a person trains with: logits, per-example losses, the gradient of every parameter of the losses' mean,
and BatchNorm's running statistics. In float64 the two agree to a dozen digits, which no mistake survives.
"""

import contextlib
import copy
import dataclasses
import functools
import math
import re
from typing import NamedTuple

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
from parity_tests.evidence import SLOW
from parity_tests.parity.twins import (
    MODELS,
    CrossEntropy,
    images,
    labels,
    nhwc,
    precision,
    relative_distance,
    relative_errors,
    twins,
)
from parity_tests.tolerances import assert_close
from torch_ref import convert, fitting, models, recording
from torch_ref.manifold_mixup import ManifoldMixup

XENT = optax.softmax_cross_entropy_with_integer_labels
FULL_WIDTH = ("resnet18", "xresnet18")
STAGES_AND_BLOCKS = r"input|fc|layer\d(\.layers\.\d)?"
FULL_WIDTH_LAYERS = {"float32": STAGES_AND_BLOCKS, "float64": rf"{STAGES_AND_BLOCKS}|.*(conv\d?|downsample\.layers\.0)"}

CONVNEXT_LAYERS = r"input|stem|stages\.[0123]|stages\.1\..*|norm|head"  # the insides of one stage; others are alike


class Step(NamedTuple):
    """What a training step computes, NHWC and by Flax names."""

    logits: np.ndarray
    losses: np.ndarray
    gradients: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


def assert_step_close(ours, theirs, rows):
    """`rows` ends the names of the tolerances."""
    assert_close(ours.logits, theirs.logits, f"logits {rows}")
    assert_close(ours.losses, theirs.losses, f"loss of a model {rows}")
    assert_close(relative_distance(ours.gradients, theirs.gradients), 0.0, f"gradients {rows}")
    assert_close(relative_errors(ours.statistics, theirs.statistics), 0.0, f"statistics {rows}")


def record(model, x, y, layers=("input",), loss=CrossEntropy, seed=0, alpha=1.0):
    """One batch in fastai; `layers` are torch's names. The model is left as it was."""
    callback = ManifoldMixup(alpha, layers=[l for l in layers if l != "input"], use_input="input" in layers)
    buffers = copy.deepcopy(dict(model.named_buffers()))
    try:
        return recording.run(callback, model, loss(reduction="none"), x, y, seed=seed)
    finally:
        model.load_state_dict(buffers, strict=False)


def torch_step(fastai):
    gradients, statistics = (convert.flax_from_torch(arrays) for arrays in (fastai.grads, fastai.statistics))
    return Step(fastai.logits, fastai.loss, gradients, statistics)


@jax.jit
def compiled_step(graph, params, statistics, x, y, mix):
    def loss_fn(params):
        model = nnx.merge(graph, params, statistics, copy=True)
        logits = jax_mix.forward(model, x, mix)
        losses = jax_mix.mixed_loss(XENT, logits, y, mix)
        return losses.mean(), (logits, losses, nnx.state(model, nnx.BatchStat))

    gradients, outputs = jax.grad(loss_fn, has_aux=True)(params)
    return *outputs, gradients


def flax_step(model, x, y, mix, counts):
    """`counts`: of each norm in `counts` the running variance is given as torch keeps it, see `norm_counts`."""
    x = jnp.asarray(nhwc(x))
    logits, losses, statistics, gradients = compiled_step(*nnx.split(model, nnx.Param, nnx.BatchStat), x, y, mix)
    before, after = convert.flax_arrays(model), convert.flax_arrays(statistics)
    for name, n in counts.items():
        drift = after[f"{name}.var"] - 0.9 * before[f"{name}.var"]
        after[f"{name}.var"] = 0.9 * before[f"{name}.var"] + drift * n / (n - 1)
    return Step(np.asarray(logits), np.asarray(losses), convert.flax_arrays(gradients), after)


def norm_counts(model, x):
    """How many values a channel has in each BatchNorm: Flax divides their squares' sum by n, torch by n - 1."""
    layers = jax_mix.list_layers(model, jnp.asarray(nhwc(x)))
    return {layer.name: math.prod(layer.output.shape[:-1]) for layer in layers if issubclass(layer.type, nnx.BatchNorm)}


def layers_of(theirs, ours, x):
    """Flax name -> torch name of every layer that can be mixed."""
    torch_names = {convert.flax_module(name): name for name, _ in theirs.named_modules()}
    found = [layer.name for layer in jax_mix.list_layers(ours, jnp.asarray(nhwc(x)))]
    # fastai has no module for xresnet18's stem as a whole, which puts out what its last layer does.
    assert [name for name in found if name not in torch_names] in ([], ["stem"])
    return {"input": "input"} | {name: torch_names[name] for name in found if name in torch_names}


def at(fastai, layer, layers):
    """The recorded draw for the compiled step: the layer as an index that is traced."""
    return dataclasses.replace(fastai.mix(), layer=jnp.int32(list(layers).index(layer)), layers=tuple(layers))


DEEP = ("preact_resnet18", "resnet18", "xresnet18")  # up to half a minute each, with the long tests
CASES = [
    pytest.param(name, dtype, marks=SLOW if name in DEEP or (name, dtype) == ("timm's ConvNeXt", np.float32) else ())
    for name in MODELS
    for dtype in (np.float32, np.float64)
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_step_is_equal_at_every_layer(name, dtype):
    with precision(dtype):
        theirs, ours = twins(name, dtype)
        x, y = images(dtype=dtype), labels()
        layers, counts = layers_of(theirs, ours, x), norm_counts(ours, x)
        if name in FULL_WIDTH:  # up to a second a layer: no norms, and in float32 nothing inside blocks
            kept = FULL_WIDTH_LAYERS[np.dtype(dtype).name]
            layers = {layer: layers[layer] for layer in layers if re.fullmatch(kept, layer)}
        if name == "timm's ConvNeXt":
            layers = {layer: layers[layer] for layer in layers if re.fullmatch(CONVNEXT_LAYERS, layer)}
        rows = np.dtype(dtype).name
        if name in FULL_WIDTH and dtype == np.float32:
            rows += ", full width"
        compiled_step.clear_cache()
        for seed, (layer, torch_layer) in enumerate(layers.items()):
            fastai = record(theirs, x, y, [torch_layer], seed=seed)
            assert fastai.logits.dtype == fastai.loss.dtype == dtype
            step = flax_step(ours, x, y, at(fastai, layer, layers), counts)
            assert step.logits.dtype == dtype
            try:
                assert_step_close(step, torch_step(fastai), rows)
            except AssertionError as error:
                error.add_note(f"(mixed at {layer!r})")
                raise
        assert compiled_step._cache_size() == 1, "one program for all layers"


@functools.cache
def preact():
    """A small model, a batch, the layers, fastai's step with the first stage mixed, and norm_counts. All float64."""
    with precision(np.float64):
        theirs, ours = twins("PreActResNet", np.float64)
        x, y = images(dtype=np.float64), labels()
        return theirs, ours, x, y, layers_of(theirs, ours, x), record(theirs, x, y, ["layer1"]), norm_counts(ours, x)


def assert_nothing_is_close(ours, theirs):
    """Every one of a step's four comparisons fails by itself."""
    for what in Step._fields:
        with pytest.raises(AssertionError):
            assert_step_close(theirs._replace(**{what: getattr(ours, what)}), theirs, "float64")


@pytest.mark.parametrize("wrong", [None, "layer", "partner's weight", "another partner", "not folded", "not mixed"])
def test_every_comparison_fails_for_another_draw(wrong):
    with precision(np.float64):
        _, ours, x, y, layers, fastai, counts = preact()
        mix = at(fastai, "layer1", layers)
        other = {
            None: mix,
            "layer": at(fastai, "stem", layers),
            "partner's weight": dataclasses.replace(mix, lam=1 - mix.lam),
            "another partner": dataclasses.replace(mix, partner=np.roll(mix.partner, 1)),
            "not folded": dataclasses.replace(mix, lam=fastai.lam_drawn),
            "not mixed": dataclasses.replace(mix, lam=np.ones_like(mix.lam)),
        }[wrong]
        step = flax_step(ours, x, y, other, counts)
        if wrong is None:
            assert_step_close(step, torch_step(fastai), "float64")
        else:
            assert_nothing_is_close(step, torch_step(fastai))


def test_every_comparison_fails_for_a_transposed_kernel():
    with precision(np.float64):
        _, ours, x, y, layers, fastai, counts = preact()
        ours = nnx.clone(ours)
        ours.stem.kernel[...] = ours.stem.kernel[...].swapaxes(0, 1)
        assert_nothing_is_close(flax_step(ours, x, y, at(fastai, "layer1", layers), counts), torch_step(fastai))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_variances_differ_but_for_the_correction(dtype):
    with precision(dtype):
        theirs, ours = twins("PreActResNet", dtype)
        x, y = images(dtype=dtype), labels()
        fastai = record(theirs, x, y)
        step = flax_step(ours, x, y, fastai.mix(), counts={})
        wanted = torch_step(fastai).statistics
        row = f"statistics {np.dtype(dtype).name}"
        for name in wanted:
            errors = relative_errors({name: step.statistics[name]}, {name: wanted[name]})
            if name.endswith(".mean"):
                assert_close(errors, 0.0, row)
            else:
                with pytest.raises(AssertionError):
                    assert_close(errors, 0.0, row)


def test_the_drawn_layer_is_the_one_mixed():
    """fastai draws the layer too; the same compiled step follows it."""
    with precision(np.float64):
        theirs, ours, x, y, layers, _, counts = preact()
        names = ("input", "stem", "layer1", "layer2", "layer3")
        drawn = set()
        for seed in range(15):
            fastai = record(theirs, x, y, names, seed=seed)
            step = flax_step(ours, x, y, at(fastai, fastai.layer, layers), counts)
            assert_step_close(step, torch_step(fastai), "float64")
            drawn.add(fastai.layer)
        assert drawn == set(names)


def test_every_layer_gives_another_result():
    """Else a mistaken layer could not be seen. All from the same draw, for no layer is drawn but the one."""
    with precision(np.float64):
        theirs, ours, x, y, layers, _, counts = preact()
        fastai = record(theirs, x, y)
        logits = {layer: flax_step(ours, x, y, at(fastai, layer, layers), counts).logits for layer in layers}
        # A stage is its only block; the stem is linear: mixing before it is mixing after it.
        same = {("input", "stem")} | {(f"layer{k}", f"layer{k}.layers.0") for k in (1, 2, 3)}
        for i, one in enumerate(layers):
            for other in list(layers)[i + 1 :]:
                if {(one, other), (other, one)} & same:
                    assert_close(logits[one], logits[other], "logits float64")
                else:
                    with pytest.raises(AssertionError):
                        assert_close(logits[one], logits[other], "logits float64")


def test_the_gradient_is_that_of_a_reduced_loss():
    """`recording` takes the mean of losses that it keeps unreduced: what fastai does if told to reduce."""
    theirs, _ = twins()
    x, y = images(), labels()
    callback = ManifoldMixup(1.0, layers=["layer1"], use_input=False)
    unreduced = record(theirs, x, y, ["layer1"])
    reduced = recording.run(callback, theirs, CrossEntropyLossFlat(), x, y)
    assert reduced.loss.shape == ()
    assert reduced.grads.keys() == unreduced.grads.keys() == dict(theirs.named_parameters()).keys()
    for name, gradient in reduced.grads.items():
        np.testing.assert_array_equal(unreduced.grads[name], gradient)


@pytest.mark.parametrize("layer", ["input", "layer1"])
def test_label_smoothing_and_float_targets(layer):
    theirs, ours = twins()
    x, y = images(), labels()
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
        fastai = record(theirs, x, labels(), ["first"])
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
    model, loss, x, y = Failing(error, after=after), CrossEntropyLossFlat(), images(), labels()
    learner = fitting.learner(model, loss, fitting.in_order(x, y, len(x)))
    with contextlib.suppress(type(error)):
        learner.fit(1, cbs=ManifoldMixup(layers=["stage"], use_input=False))
    assert not model.stage._forward_hooks
    assert learner.loss_func is loss

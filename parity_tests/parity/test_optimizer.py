"""Optimizers and schedules against fastai's own: each on a linear model, step by step, in float64."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from fastai.basics import Callback
from fastai.callback import schedule as fastai_schedule
from flax import nnx

import jax_mix
from jax_mix.training import optimizers
from jax_mix.training.build import make_learner
from jax_mix.training.config import Config
from jax_mix.training.step import Recipe
from parity_tests.tolerances import assert_close
from torch_ref import convert, fitting

STEPS, RATE, DECAY = 30, 0.02, 0.1


@pytest.mark.parametrize("steps", [1, 4, 7, 40, 1003])
@pytest.mark.parametrize("values", [(0.04, 1.0, 1e-5), (0.95, 0.85, 0.95)])
def test_one_cycle_is_combined_cos(steps, values):
    theirs = fastai_schedule.combined_cos(0.25, *values)
    ours = optimizers.one_cycle(steps, *values)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        assert_close([ours(i) for i in range(steps)], [theirs(i / steps) for i in range(steps)], "schedule")


def test_one_cycle_is_of_the_dtype_of_now():
    rate = optimizers.one_cycle(4, 0.04, 1.0, 1e-5)
    for x64 in (False, True, False):
        with jax.enable_x64(x64):
            assert jax.jit(rate)(0).dtype == (np.float64 if x64 else np.float32)


@pytest.mark.parametrize("steps", [1, 2, 12, 101])
@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_cosine_and_step_are_pytorchs(schedule, steps):
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    lr_scheduler = torch.optim.lr_scheduler
    theirs = {
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(sgd, steps),
        "step": lambda: lr_scheduler.MultiStepLR(sgd, [round(steps / 3), round(2 * steps / 3)]),
    }[schedule]()
    rates = []
    for _ in range(steps):
        rates.append(theirs.get_last_lr()[0])
        sgd.step()
        theirs.step()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        params = {"kernel": jnp.ones((2, 2))}
        ours = optimizers.make(
            "sgd", schedule, learning_rate=RATE, weight_decay=0.0, steps=steps, milestones=(1 / 3, 2 / 3)
        )
        state, used = ours.init(params), []
        for _ in range(steps):
            _, state = ours.update(params, state, params)
            used.append(state.hyperparams["rate"])
        assert_close(used, rates, "schedule")


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_momentum_stays_at_its_value_on_all_but_one_cycle(schedule):
    """PyTorch's SGD on the same schedule, of gradients that momentum remembers."""
    steps, lr_scheduler = 12, torch.optim.lr_scheduler
    gradients = np.random.default_rng(0).normal(size=(steps, 2, 2))
    kernel = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    sgd = torch.optim.SGD([kernel], lr=RATE, momentum=0.9, weight_decay=DECAY)
    theirs = {
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(sgd, steps),
        "step": lambda: lr_scheduler.MultiStepLR(sgd, [6, 9]),
        "constant": lambda: lr_scheduler.ConstantLR(sgd, 1.0),
    }[schedule]()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        params = {"kernel": jnp.ones((2, 2))}
        ours = optimizers.make("sgd", schedule, learning_rate=RATE, weight_decay=DECAY, steps=steps)
        adam = optimizers.make("adam", schedule, learning_rate=RATE, weight_decay=DECAY, steps=steps)
        state, adams = ours.init(params), adam.init(params)
        for gradient in gradients:
            kernel.grad = torch.tensor(gradient)
            sgd.step()
            theirs.step()
            updates, state = ours.update({"kernel": jnp.asarray(gradient)}, state, params)
            _, adams = adam.update({"kernel": jnp.asarray(gradient)}, adams, params)
            params = optax.apply_updates(params, updates)
            assert_close([state.hyperparams["momentum"], adams.hyperparams["momentum"]], [0.9, 0.9], "schedule")
            assert_close(params["kernel"], kernel.detach(), "optimizer float64")


def test_milestones_in_one_step_divide_twice():
    """As PyTorch's do: of a run of two steps half and three quarters are the same one."""
    ours = optimizers.make("sgd", "step", learning_rate=1.0, weight_decay=0.0, steps=2, milestones=(0.5, 0.6))
    with jax.numpy_dtype_promotion("standard"):
        params = {"kernel": jnp.ones((2, 2))}
        state, used = ours.init(params), []
        for _ in range(2):
            _, state = ours.update(params, state, params)
            used.append(float(state.hyperparams["rate"]))
    assert used == pytest.approx([1.0, 0.01])


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 8, dtype=torch.float64)
        self.norm = torch.nn.LayerNorm(8, dtype=torch.float64)

    def forward(self, x):
        return self.norm(self.head(x))


class FlaxLinear(nnx.Module):
    def __init__(self, model):
        self.head = nnx.Linear(3, 8, rngs=nnx.Rngs(0))
        self.norm = nnx.LayerNorm(8, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
        ours = self.head.kernel, self.head.bias, self.norm.scale, self.norm.bias
        for variable, value in zip(ours, model.parameters(), strict=True):
            variable.set_value(jnp.array(value.detach().numpy().T))

    def __call__(self, x):
        return self.norm(self.head(x))


class Keep(Callback):
    """Each step's loss and hyper-parameters."""

    order = 100

    def before_fit(self):
        self.losses, self.rates, self.momenta = [], [], []

    def after_step(self):
        self.losses.append(self.loss.item())
        self.rates.append(float(self.opt.hypers[0]["lr"]))
        self.momenta.append(float(self.opt.hypers[0]["mom"]))


def batches():
    rng = np.random.default_rng(0)
    return rng.normal(size=(STEPS, 4, 3)), rng.normal(size=(STEPS, 4, 8))


def fastais(optimizer, schedule, model):
    x, y = (a.reshape(-1, a.shape[-1]) for a in batches())
    loss, keep = torch.nn.MSELoss(), Keep()  # fastai's MSELossFlat computes in float32
    learner = fitting.learner(
        model,
        loss,
        fitting.in_order(x, y, 4),
        opt_func=fitting.OPTIMIZERS[optimizer],
        learning_rate=RATE,
        weight_decay=DECAY,
    )
    fitting.fit(learner, schedule, cbs=[keep])
    return keep


@nnx.jit
def step(model, state, x, y):
    loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
    with jax.numpy_dtype_promotion("standard"):
        state.update(model, grads)
    return loss


def ours(optimizer, schedule, model):
    config = Config(optimizer=optimizer, schedule=schedule, learning_rate=RATE, weight_decay=DECAY)
    state = make_learner(config, model, STEPS).optimizer

    return [float(step(model, state, jnp.asarray(x), jnp.asarray(y))) for x, y in zip(*batches(), strict=True)]


@pytest.mark.parametrize("optimizer", fitting.OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_losses_and_parameters_equal_fastai_step_by_step(optimizer, schedule):
    torch.manual_seed(0)
    model = Linear()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # Flax norms in float64 do not run under strict
        flax_model = FlaxLinear(model)
        keep = fastais(optimizer, schedule, model)
        assert_close(ours(optimizer, schedule, flax_model), keep.losses, "optimizer float64")
        assert_close(flax_model.head.kernel[...], model.head.weight.detach().T, "optimizer float64")
        for name in ("head", "norm"):
            mine, theirs = getattr(flax_model, name), getattr(model, name)
            assert_close(mine.bias[...], theirs.bias.detach(), "optimizer float64")
        assert_close(flax_model.norm.scale[...], model.norm.weight.detach(), "optimizer float64")
    if schedule == "constant":
        assert set(keep.rates) == {RATE}
        assert set(keep.momenta) == {0.9}
    else:
        rate = optimizers.one_cycle(STEPS, RATE / 25, RATE, RATE / 1e5)
        with jax.enable_x64(True):
            assert_close([rate(i) for i in range(STEPS)], keep.rates, "schedule")


@pytest.mark.parametrize("other", ["adam", "adamw"])
def test_the_comparison_fails_for_the_other_weight_decay(other):
    torch.manual_seed(0)
    model = Linear()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        flax_model = FlaxLinear(model)
        keep = fastais({"adam": "adamw", "adamw": "adam"}[other], "constant", model)
        with pytest.raises(AssertionError):
            assert_close(ours(other, "constant", flax_model), keep.losses, "optimizer float64")


def test_alpha_changes_as_fastais_cosine():
    recipe = Recipe(jax_mix.MixUp(0.2), alpha_end=1.0, steps=10)
    assert Recipe(recipe.method).method_at(5) is recipe.method
    for step in range(10):
        alpha = recipe.method_at(np.int32(step)).alpha
        np.testing.assert_allclose(alpha, fastai_schedule.SchedCos(0.2, 1.0)(step / 10), rtol=1e-6)
    draws = [jax.jit(lambda i: recipe.method_at(i).sample(jax.random.key(0), (1000,)).lam)(i) for i in (0, 9)]
    assert np.mean(draws[0]) > 1.1 * np.mean(draws[1])  # a small alpha mixes less


class Tuned(torch.nn.Module):
    """A body with a norm in it, and a head."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(3, 5)
        self.norm = torch.nn.BatchNorm1d(5)
        self.head = torch.nn.Linear(5, 8)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x))))


class FlaxTuned(nnx.Module):
    def __init__(self, rngs):
        self.body = nnx.Linear(3, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.9, use_fast_variance=False, rngs=rngs)
        self.head = nnx.Linear(5, 8, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.body(x))))


FROZEN, EPOCHS, PART = 2, 5, 0.02


def fine_tuned_by_fastai(optimizer, model):
    x, y = (a[:10].reshape(-1, a.shape[-1]) for a in batches())
    keep, parameters = Keep(), []
    learner = fitting.learner(
        model,
        torch.nn.MSELoss(),
        fitting.in_order(x, y, 4),
        opt_func=fitting.OPTIMIZERS[optimizer],
        learning_rate=RATE,
        weight_decay=DECAY,
    )
    learner.splitter = lambda model: [[*model.body.parameters(), *model.norm.parameters()], [*model.head.parameters()]]
    keep.losses, keep.rates, keep.momenta = [], [], []
    keep.before_fit = lambda: parameters.append(convert.flax_from_torch(convert.torch_arrays(copy.deepcopy(model))))
    learner.add_cb(keep)
    learner.fine_tune(EPOCHS - FROZEN, RATE, freeze_epochs=FROZEN, lr_mult=1 / PART)
    return keep.losses, parameters[1], convert.flax_from_torch(convert.torch_arrays(model))


def fine_tuned_by_us(optimizer, model):
    config = Config(
        optimizer=optimizer,
        schedule="fine_tune",
        learning_rate=RATE,
        weight_decay=DECAY,
        epochs=EPOCHS,
        freeze_epochs=FROZEN,
        body_rate=PART,
        weights="given",
    )
    state = make_learner(config, model, 10 * EPOCHS).optimizer

    losses, parameters = [], []
    for epoch in range(EPOCHS):
        if epoch == FROZEN:
            parameters = convert.flax_arrays(model)
        for x, y in zip(*(a[:10] for a in batches()), strict=True):
            losses.append(float(step(model, state, jnp.asarray(x), jnp.asarray(y))))
    return losses, parameters, convert.flax_arrays(model)


@pytest.mark.parametrize("optimizer", fitting.OPTIMIZERS)
def test_fine_tuning_equals_fastais_step_by_step(optimizer):
    """Frozen and not: rates of body, norms and head, and momentum begun anew."""
    torch.manual_seed(0)
    model = Tuned().double()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        flax_model = FlaxTuned(nnx.Rngs(0))
        convert.copy_to_flax(model, flax_model)
        start = convert.flax_arrays(flax_model)
        theirs, ours = fine_tuned_by_fastai(optimizer, model), fine_tuned_by_us(optimizer, flax_model)
        assert_close(ours[0], theirs[0], "optimizer float64")
        for mine, fastais in zip(ours[1:], theirs[1:], strict=True):
            for name in start:
                if name != "norm.var":  # Flax's is the biased one
                    assert_close(mine[name], fastais[name], "optimizer float64")
        frozen = [name for name, array in ours[1].items() if np.array_equal(array, start[name])]
        assert sorted(frozen) == ["body.bias", "body.kernel"]

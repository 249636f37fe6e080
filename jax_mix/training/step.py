"""The training step: draw, mix, loss."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

import jax_mix
from jax_mix.training import data, devices, models, sharding, tasks
from jax_mix.training.ema import update_average
from jax_mix.training.errors import require
from jax_mix.training.losses import CROSS_ENTROPY, Loss
from jax_mix.training.methods import Method

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key


# Of a step's key: apart from what it is split into.
_DROPPED = 0xD509


class Measured(NamedTuple):
    """Of a batch as it was mixed, float32 `[]` each: its loss, and its accuracy as its task counts hits."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def train_step(
    learner: Learner, key: Key[Array, ""], batch: data.Examples, normalize: data.Normalize, recipe: Recipe
) -> Measured:
    """One step on a batch of training images: updates the learner, returns what the batch's was before."""
    model, optimizer, average = learner
    method = recipe.method_at(optimizer.step[...])

    def gradients(model: nnx.Module, key: Key[Array, ""], batch: data.Examples) -> tuple[Measured, nnx.State]:
        augment_key, _ = jax.random.split(key)
        image = normalize(data.augment(recipe.augment, augment_key, batch.image))
        mix = method.sample(draw_key(key), image.shape) if method else None  # 1. draw
        if recipe.mesh is not None:  # small as it is, each device draws all of it; XLA would draw parts and send them
            mix = jax.lax.with_sharding_constraint(mix, devices.everywhere(recipe.mesh))
        drop_key = jax.random.fold_in(key, _DROPPED) if recipe.drop_path else None
        return loss_and_gradients(model, image, batch.label, mix, recipe.loss, drop_key, recipe.split_over)

    if recipe.accumulate == 1:
        measured, grads = gradients(model, key, batch)
    else:
        measured, grads = accumulate(gradients, model, key, batch, parts=recipe.accumulate)
    apply_gradients(model, optimizer, grads)
    if average is not None and recipe.ema is not None:
        update_average(average, model, optimizer.step[...], recipe.ema)
    return measured


def draw_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The key of a batch's draw, of that of its step."""
    return jax.random.split(key)[1]


def loss_and_gradients(
    model: nnx.Module,
    image: Float[Array, "batch height width channels"],
    label: Int[Array, " batch"],
    mix: jax_mix.Mix | None,
    loss: Loss = CROSS_ENTROPY,
    drop_key: Key[Array, ""] | None = None,
    split_over: Mesh | None = None,
) -> tuple[Measured, nnx.State]:
    """The loss and accuracy of a batch with its draw, and the loss's gradients; what is compared with fastai's.

    Args:
      model: its statistics are updated.
      image, label, mix: of the batch.
      loss: what is trained with.
      drop_key: of the paths that stochastic depth drops; None: none are.
      split_over: the devices that the model's parameters, and so the gradients, are split over; None: they are not.

    Raises:
      UserError: the forward pass leaves the model with other Variables than before.
    """
    before: Any = jax.tree.structure(nnx.state(model))

    def loss_fn(model: nnx.Module) -> tuple[Float[Array, ""], Float[Array, ""]]:
        with models.dropping(model, drop_key):
            logits = jax_mix.forward(model, image, mix)  # 2. mix
        nnx.pop(model, nnx.Intermediate)  # what layers have sown would make each step another program
        losses = loss(logits, label, mix)  # 3. loss
        return losses.mean(), tasks.of(label).hits(logits, label, mix).mean()

    of_model = loss_fn if split_over is None else sharding.gathering(loss_fn, split_over, image)
    measured, grads = nnx.value_and_grad(of_model, has_aux=True)(model)
    if split_over is not None:
        grads = sharding.kept_in_parts(grads, split_over)
    same = jax.tree.structure(nnx.state(model)) == before
    require(same, "--model: its forward pass adds Variables: make them before, or sow them as nnx.Intermediate.")
    return Measured(*measured), grads


def apply_gradients(model: nnx.Module, optimizer: nnx.Optimizer, grads: nnx.State) -> None:
    """The optimizer's step."""
    with jax.numpy_dtype_promotion("standard"):  # optax does not run under strict promotion
        optimizer.update(model, grads)


def accumulate(
    gradients: Callable[[nnx.Module, Key[Array, ""], Any], tuple[Measured, nnx.State]],
    model: nnx.Module,
    key: Key[Array, ""],
    batch: Any,
    *,
    parts: int,
) -> tuple[Measured, nnx.State]:
    """The means over the parts of a batch, one after the other, and of gradients: large batches in less memory.

    Each part is a batch of its own: it has its own draw, and BatchNorm normalises by it.

    Args:
      gradients: gives what is measured, and the gradients, for a model, a key and a batch.
      model: its BatchNorm statistics are updated `parts` times.
      key: split for the parts.
      batch: pytree of arrays `[batch, ...]`.
      parts: how many; divides the batch. Part i is every `parts`-th example from i on, so that where a batch is split
        over devices each part is too.
    """
    split = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0), batch)

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def part(carry: tuple[nnx.Module, nnx.State], key_and_batch: Any) -> tuple[tuple[nnx.Module, nnx.State], Any]:
        model, total = carry
        measured, grads = gradients(model, *key_and_batch)
        return (model, jax.tree.map(jnp.add, total, grads)), measured

    zeros = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    (_, total), measured = part((model, zeros), (jax.random.split(key, parts), split))
    return Measured(*map(jnp.mean, measured)), jax.tree.map(lambda g: g / parts, total)


@functools.partial(jax.jit, static_argnames=("graphdef", "recipe"), donate_argnames="state")
def pure_step(
    graphdef: Any,
    state: Any,
    key: Key[Array, ""],
    batch: data.Examples,
    normalize: data.Normalize,
    recipe: Recipe,
) -> tuple[Any, Measured]:
    """`train_step` on the two halves of a learner's `nnx.split`, jitted: gives the new state and what was measured.

    `nnx.jit` would walk over the learner's objects at every call, which takes longer than a small network's step. The
    new state is written where the old one was, which is gone then.
    """
    learner = nnx.merge(graphdef, state)
    measured = train_step(learner, key, batch, normalize, recipe)
    state = nnx.state(learner)
    return state if recipe.split_over is None else sharding.kept_in_parts(state, recipe.split_over), measured


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step does, and so what it is compiled for: values of `Config`, resolved for this model and data."""

    method: Method | None = None
    alpha_end: float | None = None
    steps: int = 1  # of the whole run
    augment: data.AugmentName = "shift"
    loss: Loss = CROSS_ENTROPY
    accumulate: int = 1
    ema: float | None = None
    mesh: Mesh | None = None  # the devices that a batch is split over; None: it is on one
    split_over: Mesh | None = None  # the devices that parameters are split over; None: they are whole
    drop_path: bool = False  # whether the model's blocks are dropped

    def method_at(self, step: Any) -> Method | None:
        """The method in a step, int `[]`: alpha goes to `alpha_end` along half a cosine, fastai's `SchedCos`."""
        method: Any = self.method
        if method is None or self.alpha_end is None:
            return method
        start = method.alpha
        done = jnp.asarray(step, jnp.float32) / self.steps
        return dataclasses.replace(method, alpha=start + (1 - jnp.cos(jnp.pi * done)) / 2 * (self.alpha_end - start))


class Learner(NamedTuple):
    """What training changes: the model, the optimizer's state, and the model with averaged weights, if asked for."""

    model: nnx.Module
    optimizer: nnx.Optimizer
    average: nnx.Module | None = None

    @property
    def evaluated(self) -> nnx.Module:
        return self.model if self.average is None else self.average

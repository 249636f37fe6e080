"""Train an image classifier with MixUp, Manifold Mixup or CutMix.

python train.py: handwritten digits with Manifold Mixup, twenty seconds on two CPU cores.

python train.py --mix cutmix --alpha 0.5: another method.

python train.py --dataset fashion_mnist --epochs 5: any image-classification set of TFDS that is in data-dir.

python train.py compare: train with every method, and write a report of what each does; compare --help tells more.

python train.py --config runs/digits-manifold-0/config.json --seed 1: as that run was, but for the flags that follow.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from tqdm.auto import tqdm

import jax_mix
from training import data, devices, models, optimizers, plots, signals
from training.checkpoints import Checkpoints, is_finite
from training.errors import Stopped, TrainingFailed, UserError, require
from training.evaluation import evaluate
from training.files import check_writable, write_json, write_npz
from training.logs import Logs
from training.optimizers import OptimizerName, ScheduleName
from training.steps import accumulate, cross_entropy, update_average

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Method = jax_mix.MixUp | jax_mix.ManifoldMixup | jax_mix.CutMix

AnyConfig = TypeVar("AnyConfig", bound="Config")
METHODS = {"mixup": jax_mix.MixUp, "manifold": jax_mix.ManifoldMixup, "cutmix": jax_mix.CutMix}
# What depends on where a run is, and what it is then. Other numbers of devices round otherwise, no more.
HERE: dict[str, Any] = {
    "resume": False,
    "devices": None,
    "coordinator": None,
    "num_processes": None,
    "process_id": None,
}
_OF_EACH_PROCESS = ("process_id", "data_dir", "cache_dir", "feed", "workers", "out")  # of several
MAY_DIFFER = ("data_dir", "cache_dir", "feed", "workers", "out", "name", "checkpoint_every", *HERE)


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on. The comments are what --help says."""

    mix: Literal["manifold", "mixup", "cutmix", "none"] = "manifold"  # how each batch is mixed
    alpha: float | None = None  # lambda is drawn from Beta(alpha, alpha); None: 0.4, for cutmix 1.0
    alpha_end: float | None = None  # alpha goes there during the run, along half a cosine; None: it stays
    layers: tuple[str, ...] | None = None  # where manifold mixes besides the input; None: as the model has it
    mix_off_epochs: int = 0  # how many epochs at the end are not mixed
    mix_groups: int | None = None  # groups of a batch that mix among themselves; None: one for each device
    dataset: str = "digits"  # digits, the name of a TFDS set that is in data-dir, or a folder of images, ./photos
    data_dir: str | None = None  # TFDS's folder; None: TFDS_DATA_DIR or ~/tensorflow_datasets
    train_images: int | None = None  # how many of the training images are used, drawn at random; None: all
    label_noise: float = 0.0  # share of training labels that are drawn anew, to see what wrong labels do
    image_size: int | None = None  # side to which images are resized, and cut square; None: they are of one size
    test_fraction: float = 0.2  # of a folder's images, if it has none for the test
    broken_images: data.BrokenImages = "stop"  # what to do about a folder's image that cannot be decoded
    cache_dir: str | None = None  # where decoded images are kept; None: ~/.cache/jax_mix
    augment: data.AugmentName = "shift"  # what is done to training images at random, besides mixing
    feed: data.FeedName = "auto"  # device: all images are kept there; grain: they are read as needed; auto: by size
    workers: int = 0  # processes that read images for grain; 0: threads of this one
    epochs: int = 20  # passes over the training images
    batch_size: int = 64  # images in a step
    optimizer: OptimizerName = "sgd"  # sgd and adam add weight decay to the gradient, adamw to the step
    schedule: ScheduleName = "one_cycle"  # of the learning rate; one_cycle: of momentum too
    milestones: tuple[float, ...] = (0.5, 0.75)  # parts of the run after which step divides the rate by 10
    learning_rate: float = 0.1  # the peak of the schedule
    weight_decay: float = 5e-4  # of convolutions and the head; none for BatchNorm and biases
    label_smoothing: float = 0.0  # share of each target that is spread over all classes
    accumulate: int = 1  # parts of a batch that are computed one after the other, to save memory
    ema: float | None = None  # decay of averaged weights, say 0.999, which are then evaluated; None: no average
    model: str = "preact_resnet8"  # a network's name, or package.module:factory or file.py:factory, one of your own
    width: int | None = None  # channels of the network's first stage; None: its own
    dtype: Literal["float32", "bfloat16"] = "float32"  # what layers compute in; parameters are float32
    seed: int = 0  # of everything random: the same seed on the same machine gives the same numbers
    out: str = "runs"  # folder for results
    name: str | None = None  # the run's folder in out; a finished run there is replaced; None: DATASET-MIX-SEED
    resume: bool = False  # continue the run of that name from its last checkpoint
    checkpoint_every: int | None = None  # steps between checkpoints; None: those of an epoch
    devices: int | None = None  # how many the batch is split over; None: all
    coordinator: str | None = None  # host:port of process 0 when there are several; auto on clusters that JAX knows
    num_processes: int | None = None  # how many processes --coordinator joins
    process_id: int | None = None  # which of them this is, from 0

    def __post_init__(self) -> None:
        mixing, alpha, rate, decay = self.mix, self.alpha, self.learning_rate, self.weight_decay
        require(self.epochs >= 1, f"--epochs must be at least 1, got {self.epochs}.")
        require(self.batch_size >= 1, f"--batch-size must be at least 1, got {self.batch_size}.")
        every = self.checkpoint_every
        require(every is None or every >= 1, f"--checkpoint-every must be at least 1, got {every}.")
        size, fraction = self.image_size, self.test_fraction
        require(size is None or 1 <= size <= 4096, f"--image-size must be from 1 to 4096, got {size}.")
        require(0 < fraction < 1, f"--test-fraction must be between 0 and 1, got {fraction}.")
        count, noise = self.train_images, self.label_noise
        require(count is None or count >= 1, f"--train-images must be at least 1, got {count}.")
        require(0 <= noise <= 1, f"--label-noise must be from 0 to 1, got {noise}.")
        most = 4 * (os.cpu_count() or 1)  # each is a Python with JAX in it: thousands would fill the memory
        require(0 <= self.workers <= most, f"--workers must be from 0 to {most}, four a core, got {self.workers}.")
        require(self.workers == 0 or self.feed != "device", f"--workers is {self.workers}, but --feed device has none.")
        require(self.width is None or self.width >= 1, f"--width must be at least 1, got {self.width}.")
        require(0 <= self.seed < 2**32, f"--seed must be from 0 to {2**32 - 1}, got {self.seed}.")
        require(0 < rate < math.inf, f"--learning-rate must be positive and finite, got {rate}.")
        require(0 <= decay < math.inf, f"--weight-decay must be 0 or positive, and finite, got {decay}.")
        require(alpha is None or mixing != "none", f"--alpha is {alpha}, but --mix none draws no lambda: drop one.")
        require(
            alpha is None or 0 < alpha < math.inf, f"--alpha must be positive and finite, got {alpha}; or --mix none."
        )
        at = self.milestones
        require(all(0 < each < 1 for each in at), f"--milestones must be parts between 0 and 1, got {at}.")
        require(
            self.schedule == "step" or at == (0.5, 0.75),
            f"--milestones is only for --schedule step, got --schedule {self.schedule}.",
        )
        end, groups, off, parts = self.alpha_end, self.mix_groups, self.mix_off_epochs, self.accumulate
        for name, value in {"alpha-end": end, "mix-groups": groups, "mix-off-epochs": off or None}.items():
            require(
                value is None or mixing != "none",
                f"--{name} is {value}, but --mix none does not mix: drop one of them.",
            )
        require(end is None or 0 < end < math.inf, f"--alpha-end must be positive and finite, got {end}.")
        require(0 <= off <= self.epochs, f"--mix-off-epochs must be from 0 to --epochs {self.epochs}, got {off}.")
        require(parts >= 1, f"--accumulate must be at least 1, got {parts}.")
        require(
            self.batch_size % parts == 0,
            f"--accumulate must divide --batch-size {self.batch_size}, got {parts}.",
        )
        require(groups is None or groups >= 1, f"--mix-groups must be at least 1, got {groups}.")
        part = self.batch_size // parts
        require(
            part % (groups or 1) == 0,
            f"--mix-groups must divide the {part} images of a batch, or of its part with --accumulate; got {groups}.",
        )
        require(
            groups in (None, 1) or part // groups >= 2,
            f"--mix-groups must leave two images or more in each group of {part}, or none has a partner; got {groups}.",
        )
        smoothing, ema = self.label_smoothing, self.ema
        require(0 <= smoothing < 1, f"--label-smoothing must be 0 or more, and less than 1, got {smoothing}.")
        require(ema is None or 0 < ema < 1, f"--ema must be between 0 and 1, got {ema}.")
        self._check_processes()
        given = self.layers is not None
        require(not given or mixing == "manifold", f"--layers is only for --mix manifold, got --mix {mixing}.")

    def _check_processes(self) -> None:
        count, which = self.num_processes, self.process_id
        require(self.devices is None or self.devices >= 1, f"--devices must be at least 1, got {self.devices}.")
        if self.coordinator in (None, "auto"):
            for name, value in {"num-processes": count, "process-id": which}.items():
                told = f"--{name} is {value}, but --coordinator is {self.coordinator}: it must be host:port."
                require(value is None, told)
            return
        host_and_port = re.fullmatch(r".+:\d{1,5}", self.coordinator)
        require(bool(host_and_port), f"--coordinator must be host:port or auto, got {self.coordinator!r}.")
        if count is None or which is None:
            missing = "--num-processes" if count is None else "--process-id"
            raise UserError(f"{missing} must be given with --coordinator {self.coordinator}.")
        require(count >= 1, f"--num-processes must be at least 1, got {count}.")
        require(
            0 <= which < count, f"--process-id must be from 0 to {count - 1} (--num-processes less 1), got {which}."
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step does, and so what it is compiled for. As in `Config`, but looked up in model and data."""

    method: Method | None = None
    alpha_end: float | None = None
    steps: int = 1  # of the whole run
    augment: data.AugmentName = "shift"
    label_smoothing: float = 0.0
    accumulate: int = 1
    ema: float | None = None

    def method_at(self, step: Any) -> Method | None:
        """The method in a step, int `[]`: alpha goes to `alpha_end` along half a cosine, fastai's `SchedCos`."""
        if self.method is None or self.alpha_end is None:
            return self.method
        start, done = self.method.alpha, jnp.asarray(step, jnp.float32) / self.steps
        return dataclasses.replace(
            self.method, alpha=start + (1 - jnp.cos(jnp.pi * done)) / 2 * (self.alpha_end - start)
        )


class Learner(NamedTuple):
    """What training changes: the model, the optimizer's state, and the model with averaged weights, if asked for."""

    model: nnx.Module
    optimizer: nnx.Optimizer
    average: nnx.Module | None = None

    @property
    def evaluated(self) -> nnx.Module:
        return self.model if self.average is None else self.average


def make_model(config: Config, dataset: data.Dataset, rngs: nnx.Rngs) -> nnx.Module:
    """The network that `config` names, for the images of `dataset`.

    Raises:
      UserError: there is no such network, or it cannot be used.
    """
    _, height, width, in_channels = dataset.train.image.shape
    model = models.make(
        config.model,
        in_channels=in_channels,
        num_classes=len(dataset.class_names),
        image_size=(height, width),
        width=config.width,
        rngs=rngs,
    )
    if config.dtype != "float32":
        models.set_dtype(model, jnp.dtype(config.dtype))
    model.train()
    return model


def make_recipe(config: Config, model: nnx.Module, dataset: data.Dataset, steps: int) -> Recipe:
    """The recipe that `config` names, for a run of `steps`; Manifold Mixup's layers are looked up in the model.

    Raises:
      UserError: a layer is not in the model.
    """
    same = {name: getattr(config, name) for name in ("alpha_end", "augment", "label_smoothing", "accumulate", "ema")}
    if config.mix == "none":
        return Recipe(steps=steps, **same)
    given = {"alpha": config.alpha, "groups": config.mix_groups}
    method = METHODS[config.mix](**{name: value for name, value in given.items() if value is not None})
    if isinstance(method, jax_mix.ManifoldMixup):
        layers = models.default_layers(config.model) if config.layers is None else config.layers
        image = jax.ShapeDtypeStruct((2, *dataset.train.image.shape[1:]), np.float32)
        try:
            method = dataclasses.replace(method, layers=layers).bind(model, image)
        except ValueError as error:
            where = "--" if str(error).startswith("layers ") else "--mix manifold: "
            raise UserError(f"{where}{error}") from error
    return Recipe(method, steps=steps, **same)


def make_learner(config: Config, model: nnx.Module, steps: int) -> Learner:
    """The model with the optimizer and schedule that `config` names, for a run of `steps`."""
    transformation = optimizers.make(
        config.optimizer,
        config.schedule,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        steps=steps,
        milestones=config.milestones,
    )
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    return Learner(model, optimizer, None if config.ema is None else nnx.clone(model))


def split_seed(config: Config) -> Key[Array, " 5"]:
    """Keys for the model's weights, the order of images, the steps, the picture of a mixed batch, and label noise."""
    return jax.random.split(jax.random.key(config.seed), 5)


def train_step(
    learner: Learner, key: Key[Array, ""], batch: data.Examples, normalize: Callable[[Any], Any], recipe: Recipe
) -> Float[Array, ""]:
    """One step on a batch of training images: updates the learner, returns the loss, float32 `[]`."""
    model, optimizer, average = learner
    method = recipe.method_at(optimizer.step[...])

    def gradients(model: nnx.Module, key: Key[Array, ""], batch: data.Examples) -> tuple[Float[Array, ""], nnx.State]:
        augment_key, key = jax.random.split(key)
        image = normalize(data.augment(recipe.augment, augment_key, batch.image))
        mix = method.sample(key, image.shape) if method else None  # 1. draw
        return loss_and_gradients(model, image, batch.label, mix, recipe.label_smoothing)

    if recipe.accumulate == 1:
        loss, grads = gradients(model, key, batch)
    else:
        loss, grads = accumulate(gradients, model, key, batch, parts=recipe.accumulate)
    apply_gradients(model, optimizer, grads)
    if average is not None and recipe.ema is not None:
        update_average(average, model, optimizer.step[...], recipe.ema)
    return loss


@functools.partial(jax.jit, static_argnames=("graphdef", "recipe"), donate_argnames="state")
def pure_step(
    graphdef: Any,
    state: Any,
    key: Key[Array, ""],
    batch: data.Examples,
    normalize: Callable[[Any], Any],
    recipe: Recipe,
) -> tuple[Any, Float[Array, ""]]:
    """`train_step` on the two halves of a learner's `nnx.split`, jitted: gives the new state and the loss.

    `nnx.jit` would walk over the learner's objects at every call, which takes longer than a small network's step. The
    new state is written where the old one was, which is gone then.
    """
    learner = nnx.merge(graphdef, state)
    loss = train_step(learner, key, batch, normalize, recipe)
    return nnx.state(learner), loss


def loss_and_gradients(
    model: nnx.Module,
    image: Float[Array, "batch height width channels"],
    label: Int[Array, " batch"],
    mix: jax_mix.Mix | None,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], nnx.State]:
    """The loss of a batch with its draw, float32 `[]`, and the gradients; what is compared with fastai's.

    Raises:
      UserError: the forward pass leaves the model with other Variables than before.
    """
    before: Any = jax.tree.structure(nnx.state(model))

    def loss_fn(model: nnx.Module) -> Float[Array, ""]:
        logits = jax_mix.forward(model, image, mix)  # 2. mix
        nnx.pop(model, nnx.Intermediate)  # what layers have sown would make each step another program
        losses = jax_mix.mixed_loss(cross_entropy(label_smoothing), logits, label, mix)  # 3. loss
        return losses.mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    same = jax.tree.structure(nnx.state(model)) == before
    require(same, "--model: its forward pass adds Variables: make them before, or sow them as nnx.Intermediate.")
    return loss, grads


def apply_gradients(model: nnx.Module, optimizer: nnx.Optimizer, grads: nnx.State) -> None:
    """The optimizer's step."""
    with jax.numpy_dtype_promotion("standard"):  # optax does not run under strict promotion
        optimizer.update(model, grads)


def train(
    config: Config,
    dataset: data.Dataset,
    checkpoints: Checkpoints | None = None,
    logs: Logs | None = None,
    progress: tqdm[Any] | None = None,
) -> tuple[nnx.Module, Recipe, list[dict[str, float]]]:
    """Train a new model, or go on from a checkpoint, to the same numbers.

    Args:
      config: what the run depends on.
      dataset: what to train on.
      checkpoints: of this run; None: there are none. Beside them goes the draw of a step that fails.
      logs: of this run; None: there are none.
      progress: a bar that counts the steps of several runs; None: this run has one of its own.

    Returns:
      The model, or that of averaged weights; the recipe; and for each epoch its "epoch", the "step" it ended with, the
      mean training "loss" and, on the test images, "accuracy", "nll" and "ece".

    Raises:
      UserError: the batch is larger than the training set, a layer is unknown, there is no checkpoint to go on from,
        or there is one that should be kept.
      TrainingFailed: the loss is no longer finite.
      Stopped: SIGINT or SIGTERM came; the last step is in a checkpoint.
    """
    n, *image_size = dataset.train.image.shape
    require(config.batch_size <= n, f"--batch-size must be at most {n}, all training images; got {config.batch_size}.")
    model_key, order_key, step_key, *_ = split_seed(config)
    model = make_model(config, dataset, nnx.Rngs(model_key))
    epoch_steps = n // config.batch_size
    steps = config.epochs * epoch_steps
    recipe = make_recipe(config, model, dataset, steps)
    print(recipe.method or "no mixing")
    learner = make_learner(config, model, steps)
    mesh = devices.make_mesh(config.devices)
    split = devices.split(mesh)
    graphdef, state = nnx.split(learner)
    # Copied: the average shares the model's arrays, and none can be given to a step to write on twice.
    state = jax.device_put(jax.tree.map(jnp.copy, state), devices.everywhere(mesh))
    nnx.update(learner, state)

    done, every = 0, config.checkpoint_every or epoch_steps
    history: list[dict[str, float]] = []
    losses: list[Any] = []  # of this epoch so far; on the device, for no step to wait for them
    if checkpoints and config.resume:
        done, state, saved = checkpoints.restore(state)
        nnx.update(learner, state)
        history, losses = saved["history"], saved["losses"]
        print("the run is finished: its results are written again" if done == steps else f"from step {done}")
    elif checkpoints:
        checkpoints.start_anew(lambda config, saved: len(saved["history"]) == config["epochs"])

    batches = data.batches(
        dataset.train,
        order_key,
        config.batch_size,
        start=done,
        stop=steps,
        sharding=split,
        feed=config.feed,
        workers=config.workers,
    )
    if progress is None:
        shown: Any = tqdm(total=steps, initial=done, unit="step", disable=not devices.is_first())
    else:
        shown = contextlib.nullcontext(progress)  # it goes on after this run
        progress.n += done
        progress.initial += done  # done before, they tell nothing of the time that is left
    with signals.catch() as stop, shown as bar, contextlib.closing(batches):
        for epoch in range(len(history) + 1, config.epochs + 1):
            mixes = epoch <= config.epochs - config.mix_off_epochs
            epoch_recipe = recipe if mixes else dataclasses.replace(recipe, method=None)
            for batch in itertools.islice(batches, epoch_steps - len(losses)):
                key = jax.random.fold_in(step_key, done)
                state, loss = pure_step(graphdef, state, key, batch, dataset.normalize, epoch_recipe)
                losses.append(loss)
                done += 1
                bar.update()
                stopping = stop.agreed(done)
                ends, saves = len(losses) == epoch_steps, done % every == 0 or done == steps or stopping is not None
                if ends or saves:
                    nnx.update(learner, state)
                    losses = [float(loss) for loss in jax.device_get(losses)]
                    at = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
                    if at is None and not is_finite(state):
                        at = len(losses) - 1  # of finite loss, and gradients that are not
                    if at is not None:
                        index = data.epoch_batches(order_key, epoch, n, config.batch_size)[at]
                        step = done - len(losses) + at
                        raise failed_step(config, tuple(image_size), epoch_recipe, step, index, losses[at], checkpoints)
                if ends:
                    loss = float(np.asarray(losses, np.float32).mean())
                    measured = evaluate(learner.evaluated, dataset, split)
                    history.append({"epoch": epoch, "step": done, "loss": loss, **measured})
                    if logs:
                        logs.epoch(history, losses)
                    losses = []
                    bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}", test_accuracy=f"{measured['accuracy']:.2%}")
                if checkpoints and saves:
                    checkpoints.save(done, state, {"history": history, "losses": losses})
                if stopping:
                    raise Stopped(f"stopped at step {done} by {stopping.name}; continue with --resume.", stopping)
    return learner.evaluated, recipe, history


def failed_step(
    config: Config,
    image_size: tuple[int, ...],
    recipe: Recipe,
    step: int,
    index: Int[Array, " batch"],
    loss: float,
    checkpoints: Checkpoints | None,
) -> TrainingFailed:
    """What to tell of a step, counted from 0, after which not all is finite; its draw is written, to be replayed."""
    what = f"the loss became {loss}" if not math.isfinite(loss) else "the model became infinite or nan"
    told = f"--learning-rate {config.learning_rate} is too high: {what} in step {step + 1}"
    if checkpoints is None:
        return TrainingFailed(told + ".")
    key = jax.random.fold_in(split_seed(config)[2], step)
    arrays = {"step": step + 1, "index": index, "key": jax.random.key_data(key)}
    if method := recipe.method_at(step):
        shape = (len(index) // recipe.accumulate, *image_size)
        draw = jax.jit(lambda key: method.sample(jax.random.split(key)[1], shape))  # as train_step
        mix = draw(key) if recipe.accumulate == 1 else jax.vmap(draw)(jax.random.split(key, recipe.accumulate))
        arrays |= {name: value for name, value in vars(mix).items() if value is not None}
    path = checkpoints.folder.parent / "failed_step.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, arrays)
    return TrainingFailed(f"{told}; its images and draw are in '{path}', checkpoints are kept.")


def run(config: Config) -> tuple[nnx.Module, dict[str, Any]]:
    """Load, train, evaluate, and write checkpoints, config.json, metrics.json and two pictures to the run's folder.

    Returns:
      The model, and what is in metrics.json: the last epoch's "accuracy", "nll" and "ece", and "history".

    Raises:
      UserError: something in `config` cannot be used.
      Stopped: SIGINT or SIGTERM came.
    """
    start = time.perf_counter()
    dataset_name = re.sub(r"[^\w.-]+", "-", config.dataset).strip("-.")
    folder = Path(config.out) / (config.name or f"{dataset_name}-{config.mix}-{config.seed}")
    check_writable(folder)
    config = resolve(config)
    dataset = load(config)
    print(dataset)
    depends_on = described(config, dataset)
    told = devices.disagreement(depends_on, of_each=_OF_EACH_PROCESS)
    require(not told, f"--process-id: {told}: all processes need the same flags and data.")
    with Checkpoints(folder / "checkpoints", depends_on, may_differ=MAY_DIFFER) as checkpoints:
        model, recipe, history = train(config, dataset, checkpoints, Logs(folder) if devices.is_first() else None)
        last = {name: history[-1][name] for name in ("accuracy", "nll", "ece")}
        metrics: dict[str, Any] = last | {"history": history}
        print("test accuracy {accuracy:.2%}, NLL {nll:.4f}, ECE {ece:.4f}".format(**metrics))
        if not devices.is_first():
            return model, metrics

        folder.mkdir(parents=True, exist_ok=True)
        method = recipe.method
        used = dataclasses.replace(config, layers=getattr(method, "layers", None), **HERE)
        # It tells how to repeat the run; not where, or what repeats it with other flags would replace it.
        write_json(folder / "config.json", dataclasses.asdict(used) | {"name": None})
        write_json(folder / "metrics.json", metrics)
        plots.plot_learning_curve(folder / "learning_curve.png", history, title=folder.name)
        image, label = (np.asarray(array[: config.batch_size // config.accumulate]) for array in dataset.train)
        mix = method.sample(split_seed(config)[3], image.shape) if method else None
        plots.plot_mixed_batch(folder / "mixed_batch.png", image, label, dataset.class_names, mix)
        print(f"wrote {folder} in {time.perf_counter() - start:.0f} s")
    return model, metrics


def described(config: Config, dataset: data.Dataset) -> dict[str, Any]:
    """All that a run depends on: its config, with the data set told by what is in it as well."""
    n = len(dataset.train.label)
    return dataclasses.asdict(config) | {"dataset": f"{config.dataset} ({n} images, {dataset.fingerprint})"}


def load(config: Config) -> data.Dataset:
    """The data set that `config` names, with as many training images and as wrong labels as it says.

    Raises:
      UserError: it cannot be used.
    """
    dataset = data.load(
        config.dataset,
        config.data_dir,
        image_size=config.image_size,
        test_fraction=config.test_fraction,
        broken_images=config.broken_images,
        cache_dir=config.cache_dir,
    )
    if config.train_images is not None:
        dataset = data.take(dataset, config.train_images)
    return data.corrupt_labels(dataset, config.label_noise, split_seed(config)[4])


def resolve(config: Config) -> Config:
    """`config` with the numbers that were left open: alpha and groups.

    Raises:
      UserError: the batch cannot be split over the devices.
    """
    count = devices.make_mesh(config.devices).size
    part = config.batch_size // config.accumulate
    require(
        part % count == 0,
        f"--batch-size must be a multiple of {config.accumulate * count}, the {count} devices times --accumulate "
        f"{config.accumulate}, got {config.batch_size}; or use fewer --devices.",
    )
    if config.mix == "none":
        return config
    alpha = METHODS[config.mix]().alpha if config.alpha is None else config.alpha
    return dataclasses.replace(config, alpha=alpha, mix_groups=config.mix_groups or count)


def parse(
    args: Sequence[str], kind: type[AnyConfig], default: AnyConfig | None = None, description: str | None = __doc__
) -> AnyConfig:
    """The config that flags describe; `--config FILE` stands for the flags of the run whose config.json that is.

    Args:
      args: flags and their values.
      kind: of the config.
      default: what holds where no flag is given; None: the defaults of `kind`.
      description: for `--help`.

    Raises:
      UserError: a value is out of range, or the file cannot be read.
      SystemExit: the flags are not as `--help` says, or ask for it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    file, flags = parser.parse_known_args(args)
    try:
        values = json.loads(Path(file.config).read_text()) if file.config else {}
    except (OSError, ValueError) as error:
        raise UserError(f"--config: cannot read '{file.config}' as the config.json of a run ({error}).") from error
    require(isinstance(values, dict), f"--config: '{file.config}' is not the config.json of a run.")
    saved = []
    for name, value in values.items():
        if value is not False:
            of_flag = [] if value is True else value if isinstance(value, list) else [value]
            saved += [f"--{name.replace('_', '-')}", *map(str, of_flag)]
    settings = (tyro.conf.FlagCreatePairsOff,)
    given: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=saved + flags, description=description, config=settings, **given)


def main(args: Sequence[str] | None = None) -> int:
    """The command line: returns 0, or after one sentence on stderr 2 if something given cannot be used.

    After a signal, 128 and its number, as shells do.
    """
    args = sys.argv[1:] if args is None else args
    try:
        if args[:1] == ["compare"]:
            import compare.command  # it needs this file, and imports it

            compare.command.main(args[1:])
            return 0
        config = parse(args, Config)
        if config.coordinator:
            devices.join(config.coordinator, config.num_processes, config.process_id)
        with contextlib.nullcontext() if devices.is_first() else contextlib.redirect_stdout(None):
            run(config)
    except (UserError, OSError) as error:  # an OSError says in a sentence of its own which file it is about
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"train.py: {stopped}", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("train.py: stopped by SIGINT, outside of training.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())

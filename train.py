"""Train an image classifier with MixUp, Manifold Mixup or CutMix.

python train.py: handwritten digits with Manifold Mixup, a quarter of a minute on two CPU cores.

python train.py --mix cutmix --alpha 0.5: another method.

python train.py --dataset fashion_mnist --epochs 5: any image-classification set of TFDS that is in data-dir.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
import optax
import tyro
from flax import nnx
from tqdm.auto import tqdm

import jax_mix
from training import data, optimizers, plots, signals
from training.checkpoints import Checkpoints, is_finite
from training.errors import Stopped, UserError, require
from training.evaluation import evaluate
from training.files import check_writable, write_json, write_npz
from training.models import PreActResNet
from training.optimizers import OptimizerName, ScheduleName

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Method = jax_mix.MixUp | jax_mix.ManifoldMixup | jax_mix.CutMix

METHODS = {"mixup": jax_mix.MixUp, "manifold": jax_mix.ManifoldMixup, "cutmix": jax_mix.CutMix}
MAY_DIFFER = ("data_dir", "out", "name", "resume", "checkpoint_every")  # no result depends on them
xent = optax.softmax_cross_entropy_with_integer_labels


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on. The comments are what --help says."""

    mix: Literal["manifold", "mixup", "cutmix", "none"] = "manifold"  # how each batch is mixed
    alpha: float | None = None  # lambda is drawn from Beta(alpha, alpha); None: 0.4, for cutmix 1.0
    layers: tuple[str, ...] | None = None  # where manifold mixes besides the input; None: layer1 layer2
    dataset: str = "digits"  # digits, or the name of a TFDS set that is in data-dir as array_record
    data_dir: str | None = None  # TFDS's folder; None: TFDS_DATA_DIR or ~/tensorflow_datasets
    epochs: int = 20  # passes over the training images
    batch_size: int = 64  # images in a step
    optimizer: OptimizerName = "sgd"  # sgd and adam add weight decay to the gradient, adamw to the step
    schedule: ScheduleName = "one_cycle"  # of the learning rate; one_cycle: of momentum too
    milestones: tuple[float, ...] = (0.5, 0.75)  # parts of the run after which step divides the rate by 10
    learning_rate: float = 0.1  # the peak of the schedule
    weight_decay: float = 5e-4  # of convolutions and the head; none for BatchNorm and biases
    width: int = 16  # channels of the network's first stage
    seed: int = 0  # of everything random: the same seed on the same machine gives the same numbers
    out: str = "runs"  # folder for results
    name: str | None = None  # the run's folder in out; a finished run there is replaced; None: DATASET-MIX-SEED
    resume: bool = False  # continue the run of that name from its last checkpoint
    checkpoint_every: int | None = None  # steps between checkpoints; None: those of an epoch

    def __post_init__(self) -> None:
        mixing, alpha, rate, decay = self.mix, self.alpha, self.learning_rate, self.weight_decay
        require(self.epochs >= 1, f"--epochs must be at least 1, got {self.epochs}.")
        require(self.batch_size >= 1, f"--batch-size must be at least 1, got {self.batch_size}.")
        every = self.checkpoint_every
        require(every is None or every >= 1, f"--checkpoint-every must be at least 1, got {every}.")
        require(self.width >= 1, f"--width must be at least 1, got {self.width}.")
        require(0 <= self.seed < 2**32, f"--seed must be from 0 to {2**32 - 1}, got {self.seed}.")
        require(0 < rate < math.inf, f"--learning-rate must be positive and finite, got {rate}.")
        require(0 <= decay < math.inf, f"--weight-decay must be 0 or positive, and finite, got {decay}.")
        require(alpha is None or mixing != "none", f"--alpha is {alpha}, but --mix none draws no lambda: drop one.")
        require(
            alpha is None or 0 < alpha < math.inf, f"--alpha must be positive and finite, got {alpha}; or --mix none."
        )
        parts = self.milestones
        require(all(0 < part < 1 for part in parts), f"--milestones must be parts between 0 and 1, got {parts}.")
        require(
            self.schedule == "step" or parts == (0.5, 0.75),
            f"--milestones is only for --schedule step, got --schedule {self.schedule}.",
        )
        given = self.layers is not None
        require(not given or mixing == "manifold", f"--layers is only for --mix manifold, got --mix {mixing}.")


def make_method(config: Config, model: nnx.Module, dataset: data.Dataset) -> Method | None:
    """The method that `config` names, None for "none"; Manifold Mixup's layers are looked up in the model.

    Raises:
      UserError: a layer is not in the model.
    """
    if config.mix == "none":
        return None
    method = METHODS[config.mix]() if config.alpha is None else METHODS[config.mix](config.alpha)
    if not isinstance(method, jax_mix.ManifoldMixup):
        return method
    layers = ("layer1", "layer2") if config.layers is None else config.layers
    image = jax.ShapeDtypeStruct((2, *dataset.train.image.shape[1:]), np.float32)
    try:
        return dataclasses.replace(method, layers=layers).bind(model, image)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def split_seed(config: Config) -> Key[Array, " 4"]:
    """Keys for the model's weights, the order of images, the steps, and the picture of a mixed batch."""
    return jax.random.split(jax.random.key(config.seed), 4)


def make_optimizer(config: Config, model: nnx.Module, steps: int) -> nnx.Optimizer:
    """The optimizer and schedule that `config` names, for a run of `steps`."""
    transformation = optimizers.make(
        config.optimizer,
        config.schedule,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        steps=steps,
        milestones=config.milestones,
    )
    return nnx.Optimizer(model, transformation, wrt=nnx.Param)


@nnx.jit(static_argnames="method")
def train_step(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    key: Key[Array, ""],
    dataset: data.Dataset,
    index: Int[Array, " batch"],
    method: Method | None,
) -> Float[Array, ""]:
    """One step on the training images `index`: updates model and optimizer, returns the loss, float32 `[]`."""
    shift_key, key = jax.random.split(key)
    image = dataset.normalize(data.random_shift(shift_key, dataset.train.image[index]))
    mix = method.sample(key, image.shape) if method else None  # 1. draw
    return update(model, optimizer, image, dataset.train.label[index], mix)


def update(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    image: Float[Array, "batch height width channels"],
    label: Int[Array, " batch"],
    mix: jax_mix.Mix | None,
) -> Float[Array, ""]:
    """One step on one batch with its draw; what is compared with fastai's, draw by draw."""

    def loss_fn(model: nnx.Module) -> Float[Array, ""]:
        logits = jax_mix.forward(model, image, mix)  # 2. mix
        losses = jax_mix.mixed_loss(xent, logits, label, mix)  # 3. loss
        return losses.mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    with jax.numpy_dtype_promotion("standard"):  # optax does not run under strict promotion
        optimizer.update(model, grads)
    return loss


def train(
    config: Config, dataset: data.Dataset, checkpoints: Checkpoints | None = None
) -> tuple[nnx.Module, Method | None, list[dict[str, float]]]:
    """Train a new model, or go on from a checkpoint, to the same numbers.

    Args:
      config: what the run depends on.
      dataset: what to train on.
      checkpoints: of this run; None: there are none. Beside them goes the draw of a step that fails.

    Returns:
      The model, the method with its layers looked up, and for each epoch its "epoch", the mean training "loss" and,
      on the test images, "accuracy", "nll" and "ece".

    Raises:
      UserError: the batch is larger than the training set, a layer is unknown, the loss is no longer finite, there is
        no checkpoint to go on from, or there is one that should be kept.
      Stopped: SIGINT or SIGTERM came; the last step is in a checkpoint.
    """
    n, *_, channels = dataset.train.image.shape
    require(config.batch_size <= n, f"--batch-size must be at most {n}, all training images; got {config.batch_size}.")
    model_key, order_key, step_key, _ = split_seed(config)
    model = PreActResNet(channels, len(dataset.class_names), width=config.width, rngs=nnx.Rngs(model_key))
    method = make_method(config, model, dataset)
    print(method or "no mixing")
    epoch_steps = n // config.batch_size
    steps = config.epochs * epoch_steps
    optimizer = make_optimizer(config, model, steps)

    done, every = 0, config.checkpoint_every or epoch_steps
    history: list[dict[str, float]] = []
    losses: list[Any] = []  # of this epoch so far; on the device, for no step to wait for them
    if checkpoints and config.resume:
        done, state, saved = checkpoints.restore(nnx.state((model, optimizer)))
        nnx.update((model, optimizer), state)
        history, losses = saved["history"], saved["losses"]
        print("the run is finished: its results are written again" if done == steps else f"from step {done}")
    elif checkpoints:
        checkpoints.start_anew(lambda config, saved: len(saved["history"]) == config["epochs"])

    with signals.catch() as stop, tqdm(total=steps, initial=done, unit="step") as bar:
        for epoch in range(len(history) + 1, config.epochs + 1):
            batches = data.epoch_batches(order_key, epoch, n, config.batch_size)
            for index in batches[len(losses) :]:
                key = jax.random.fold_in(step_key, done)
                losses.append(train_step(model, optimizer, key, dataset, index, method))
                done += 1
                bar.update()
                stopping = stop.signal
                ends, saves = len(losses) == epoch_steps, done % every == 0 or done == steps or stopping is not None
                if ends or saves:
                    losses = [float(loss) for loss in jax.device_get(losses)]
                    at = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
                    if at is None and not is_finite(nnx.state((model, optimizer))):
                        at = len(losses) - 1  # of finite loss, and gradients that are not
                    if at is not None:
                        step = done - len(losses) + at
                        raise failed_step(config, dataset, method, step, batches[at], losses[at], checkpoints)
                if ends:
                    loss = float(np.asarray(losses, np.float32).mean())
                    history.append({"epoch": epoch, "loss": loss, **evaluate(model, dataset)})
                    losses = []
                    bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}", test_accuracy=f"{history[-1]['accuracy']:.2%}")
                if checkpoints and saves:
                    checkpoints.save(done, nnx.state((model, optimizer)), {"history": history, "losses": losses})
                if stopping:
                    raise Stopped(f"stopped at step {done} by {stopping.name}; continue with --resume.", stopping)
    return model, method, history


def failed_step(
    config: Config,
    dataset: data.Dataset,
    method: Method | None,
    step: int,
    index: Int[Array, " batch"],
    loss: float,
    checkpoints: Checkpoints | None,
) -> UserError:
    """What to tell of a step, counted from 0, after which not all is finite; its draw is written, to be replayed."""
    what = f"the loss became {loss}" if not math.isfinite(loss) else "the model became infinite or nan"
    told = f"--learning-rate {config.learning_rate} is too high: {what} in step {step + 1}"
    if checkpoints is None:
        return UserError(told + ".")
    key = jax.random.fold_in(split_seed(config)[2], step)
    arrays = {"step": step + 1, "index": index, "key": jax.random.key_data(key)}
    if method:
        image_shape = (len(index), *dataset.train.image.shape[1:])
        mix = jax.jit(method.sample, static_argnums=1)(jax.random.split(key)[1], image_shape)  # as train_step draws
        arrays |= {name: value for name, value in vars(mix).items() if value is not None}
    path = checkpoints.folder.parent / "failed_step.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, arrays)
    return UserError(f"{told}; its images and draw are in '{path}', checkpoints are kept.")


def run(config: Config) -> tuple[nnx.Module, dict[str, Any]]:
    """Load, train, evaluate, and write checkpoints, config.json, metrics.json and two pictures to the run's folder.

    Returns:
      The model, and what is in metrics.json: the last epoch's "accuracy", "nll" and "ece", and "history".

    Raises:
      UserError: something in `config` cannot be used.
      Stopped: SIGINT or SIGTERM came.
    """
    start = time.perf_counter()
    folder = Path(config.out) / (config.name or f"{config.dataset}-{config.mix}-{config.seed}".replace("/", "-"))
    check_writable(folder)
    dataset = data.load(config.dataset, config.data_dir)
    print(dataset)
    with Checkpoints(folder / "checkpoints", dataclasses.asdict(config), may_differ=MAY_DIFFER) as checkpoints:
        model, method, history = train(config, dataset, checkpoints)
        last = {name: history[-1][name] for name in ("accuracy", "nll", "ece")}
        metrics: dict[str, Any] = last | {"history": history}
        print("test accuracy {accuracy:.2%}, NLL {nll:.4f}, ECE {ece:.4f}".format(**metrics))

        folder.mkdir(parents=True, exist_ok=True)
        chosen: dict[str, Any] = {"alpha": getattr(method, "alpha", None), "layers": getattr(method, "layers", None)}
        used = dataclasses.replace(config, **chosen, resume=False)  # it tells how to repeat the run
        write_json(folder / "config.json", dataclasses.asdict(used))
        write_json(folder / "metrics.json", metrics)
        plots.plot_learning_curve(folder / "learning_curve.png", history, title=folder.name)
        image, label = (np.asarray(array[: config.batch_size]) for array in dataset.train)
        mix = method.sample(split_seed(config)[-1], image.shape) if method else None
        plots.plot_mixed_batch(folder / "mixed_batch.png", image, label, dataset.class_names, mix)
        print(f"wrote {folder} in {time.perf_counter() - start:.0f} s")
    return model, metrics


def main(args: Sequence[str] | None = None) -> int:
    """The command line: returns 0, or after one sentence on stderr 2 if something given cannot be used.

    After a signal, 128 and its number, as shells do.
    """
    try:
        run(tyro.cli(Config, args=args, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"train.py: {stopped}", file=sys.stderr)
        return 128 + stopped.number
    return 0


if __name__ == "__main__":
    sys.exit(main())

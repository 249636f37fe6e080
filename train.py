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
from training import data, optimizers, plots
from training.errors import UserError, require
from training.evaluation import evaluate
from training.files import check_writable, write_json
from training.models import PreActResNet
from training.optimizers import OptimizerName, ScheduleName

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Method = jax_mix.MixUp | jax_mix.ManifoldMixup | jax_mix.CutMix

METHODS = {"mixup": jax_mix.MixUp, "manifold": jax_mix.ManifoldMixup, "cutmix": jax_mix.CutMix}
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
    schedule: ScheduleName = "one_cycle"  # of learning rate and momentum
    learning_rate: float = 0.1  # the peak of the schedule
    weight_decay: float = 5e-4  # of convolutions and the head; none for BatchNorm and biases
    width: int = 16  # channels of the network's first stage
    seed: int = 0  # of everything random: the same seed on the same machine gives the same numbers
    out: str = "runs"  # folder for results
    name: str | None = None  # the run's folder in out, whose files are replaced; None: DATASET-MIX-SEED

    def __post_init__(self) -> None:
        mixing, alpha, rate, decay = self.mix, self.alpha, self.learning_rate, self.weight_decay
        require(self.epochs >= 1, f"--epochs must be at least 1, got {self.epochs}.")
        require(self.batch_size >= 1, f"--batch-size must be at least 1, got {self.batch_size}.")
        require(self.width >= 1, f"--width must be at least 1, got {self.width}.")
        require(0 <= self.seed < 2**32, f"--seed must be from 0 to {2**32 - 1}, got {self.seed}.")
        require(0 < rate < math.inf, f"--learning-rate must be positive and finite, got {rate}.")
        require(0 <= decay < math.inf, f"--weight-decay must be 0 or positive, and finite, got {decay}.")
        require(alpha is None or mixing != "none", f"--alpha is {alpha}, but --mix none draws no lambda: drop one.")
        require(
            alpha is None or 0 < alpha < math.inf, f"--alpha must be positive and finite, got {alpha}; or --mix none."
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
    rates = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    transformation = optimizers.make(config.optimizer, config.schedule, steps=steps, **rates)
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


def train(config: Config, dataset: data.Dataset) -> tuple[nnx.Module, Method | None, list[dict[str, float]]]:
    """Train a new model.

    Returns:
      The model, the method with its layers looked up, and for each epoch its "epoch", the mean training "loss" and,
      on the test images, "accuracy", "nll" and "ece".

    Raises:
      UserError: the batch is larger than the training set, a layer is unknown, or the loss is no longer finite.
    """
    n, *_, channels = dataset.train.image.shape
    require(config.batch_size <= n, f"--batch-size must be at most {n}, all training images; got {config.batch_size}.")
    model_key, order_key, step_key, _ = split_seed(config)
    model = PreActResNet(channels, len(dataset.class_names), width=config.width, rngs=nnx.Rngs(model_key))
    method = make_method(config, model, dataset)
    print(method or "no mixing")
    steps = config.epochs * (n // config.batch_size)
    optimizer = make_optimizer(config, model, steps)

    history: list[dict[str, float]] = []
    with tqdm(total=steps, unit="step") as bar:
        for epoch in range(1, config.epochs + 1):
            losses = []
            for index in data.epoch_batches(order_key, epoch, n, config.batch_size):
                key = jax.random.fold_in(step_key, bar.n)
                losses.append(train_step(model, optimizer, key, dataset, index, method))
                bar.update()
            loss = float(np.mean(jax.device_get(losses)))
            require(math.isfinite(loss), f"--learning-rate {config.learning_rate} is too high: the loss became {loss}.")
            history.append({"epoch": epoch, "loss": loss, **evaluate(model, dataset)})
            bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}", test_accuracy=f"{history[-1]['accuracy']:.2%}")
    return model, method, history


def run(config: Config) -> tuple[nnx.Module, dict[str, Any]]:
    """Load, train, evaluate, and write config.json, metrics.json and two pictures to the run's folder.

    Returns:
      The model, and what is in metrics.json: the last epoch's "accuracy", "nll" and "ece", and "history".

    Raises:
      UserError: something in `config` cannot be used.
    """
    start = time.perf_counter()
    folder = Path(config.out) / (config.name or f"{config.dataset}-{config.mix}-{config.seed}".replace("/", "-"))
    check_writable(folder)
    dataset = data.load(config.dataset, config.data_dir)
    print(dataset)
    model, method, history = train(config, dataset)
    metrics: dict[str, Any] = {name: history[-1][name] for name in ("accuracy", "nll", "ece")} | {"history": history}
    print("test accuracy {accuracy:.2%}, NLL {nll:.4f}, ECE {ece:.4f}".format(**metrics))

    folder.mkdir(parents=True, exist_ok=True)
    used = dataclasses.replace(config, alpha=getattr(method, "alpha", None), layers=getattr(method, "layers", None))
    write_json(folder / "config.json", dataclasses.asdict(used))
    write_json(folder / "metrics.json", metrics)
    plots.plot_learning_curve(folder / "learning_curve.png", history, title=folder.name)
    image, label = (np.asarray(array[: config.batch_size]) for array in dataset.train)
    mix = method.sample(split_seed(config)[-1], image.shape) if method else None
    plots.plot_mixed_batch(folder / "mixed_batch.png", image, label, dataset.class_names, mix)
    print(f"wrote {folder} in {time.perf_counter() - start:.0f} s")
    return model, metrics


def main(args: Sequence[str] | None = None) -> int:
    """The command line: returns 0, or 2 after one sentence on stderr if something given cannot be used."""
    try:
        run(tyro.cli(Config, args=args, description=__doc__))
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a config names, made: data set, model, recipe, optimizer, keys."""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

import jax_mix
from jax_mix.training import (
    cropping,
    data,
    devices,
    methods,
    models,
    optimizers,
    sharding,
    tasks,
    weights,
    weights_files,
)
from jax_mix.training.balance import BALANCED, weights_of
from jax_mix.training.config import Config
from jax_mix.training.errors import UserError, require
from jax_mix.training.losses import Loss
from jax_mix.training.step import Learner, Recipe

if TYPE_CHECKING:
    from jaxtyping import Array, Key


def resolve(config: Config) -> Config:
    """`config` with what was left open: alpha, groups, and how pixels are normalised for weights that are given.

    Raises:
      UserError: the batch cannot be split over the devices, or leaves an image alone on one; there is one device to
        split parameters over; or the weights cannot be read.
    """
    config = dataclasses.replace(config, normalize=_normalize(config))
    count = devices.make_mesh(config.devices).size
    require(count > 1 or not config.shard_parameters, "--shard-parameters needs two devices or more, got 1: drop it.")
    part = config.batch_size // config.accumulate
    require(
        part % count == 0,
        f"--batch-size must be a multiple of {config.accumulate * count}, the {count} devices times --accumulate "
        f"{config.accumulate}, got {config.batch_size}; or use fewer --devices.",
    )
    if config.mix == "none":
        return config
    require(
        config.mix_groups is not None or part // count >= 2,
        f"--batch-size must be at least {2 * config.accumulate * count}, two images to mix for each of the {count} "
        f"devices times --accumulate {config.accumulate}, got {config.batch_size}; or use fewer --devices, or "
        "--mix-groups 1, to mix across devices.",
    )
    alpha, parts = config.alpha, methods.parse(config.mix)
    if alpha is None and len(parts) == 1 and parts[0].leaves_alpha:
        alpha = methods.METHODS[parts[0].name]().alpha
    return dataclasses.replace(config, alpha=alpha, mix_groups=config.mix_groups or count)


def split_over(config: Config) -> Mesh | None:
    """The devices that `config` has parameters split over; None: they are whole on each."""
    return devices.make_mesh(config.devices) if config.shard_parameters else None


def load(config: Config) -> data.Dataset:
    """The data set that `config` names, cut to `--train-images`, with `--label-noise`, and `--normalize` instead.

    Raises:
      UserError: it cannot be used.
    """
    dataset = data.load(
        config.dataset,
        config.data_dir,
        image_size=config.image_size,
        test_fraction=config.test_fraction,
        split_by=config.split_by,
        bits=config.bits,
        broken_images=config.broken_images,
        cache_dir=config.cache_dir,
        cropping=cropping.of(config),
        labels=config.labels,
        label_delim=config.label_delim,
    )
    tasks.check(config, dataset.train.label)
    if config.train_images is not None:
        dataset = data.take(dataset, config.train_images)
    dataset = data.corrupt_labels(dataset, config.label_noise, split_seed(config)[4])
    return data.with_mean_erased(normalized(config, dataset))


def _normalize(config: Config) -> tuple[str, ...] | None:
    """`--normalize`, or what weights that are given need in its place."""
    if config.weights is None or config.normalize is not None:
        return config.normalize
    return weights.normalization(config.weights, config.model)


def normalized(config: Config, dataset: data.Dataset) -> data.Dataset:
    """A data set with `--normalize`, or what the weights need, in the place of its own mean and deviation.

    Raises:
      UserError: it is of another number of channels than the images.
    """
    words = _normalize(config)
    if words in (None, ("data",)):
        return dataset
    normalize, channels = data.normalization(words), dataset.train.image.shape[-1]
    told = f"--normalize {' '.join(words)}{', for --weights,' if config.weights else ''}"
    count, images = len(normalize.mean), f"the images of --dataset {config.dataset}"
    require(count == channels, f"{told} is of {count} channels, {images} of {channels}.")
    return dataclasses.replace(dataset, normalize=normalize, own=dataset.own or dataset.normalize)


def described(config: Config, dataset: data.Dataset) -> dict[str, Any]:
    """All that a run depends on: its config, with fingerprints of the data and of `--weights` beside their names."""
    found = dataclasses.asdict(config) | {"dataset": told_data(config, dataset)}
    if config.weights is not None:
        found["weights"] = f"{config.weights} ({weights_files.fingerprint(config.weights)})"
    return found


def told_data(config: Config, dataset: data.Dataset) -> str:
    """A data set's name, with what tells it from others of that name."""
    return f"{config.dataset} ({len(dataset.train.label)} images, {dataset.fingerprint})"


class Prepared(NamedTuple):
    """A run that can start: what its config names, made."""

    config: Config  # with nothing left open: alpha, groups and layers, if --mix does not say them, are the recipe's
    dataset: data.Dataset
    model: nnx.Module
    recipe: Recipe


def prepare(config: Config, dataset: data.Dataset) -> Prepared:
    """What `config`, as `resolve` gives it, names for `dataset`.

    Raises:
      UserError: the batch is larger than the training set, or the network or a layer cannot be used.
    """
    n = len(dataset.train.label)
    require(config.batch_size <= n, f"--batch-size must be at most {n}, all training images; got {config.batch_size}.")
    model = make_model(config, dataset, nnx.Rngs(split_seed(config)[0]))
    steps = config.epochs * (n // config.batch_size)
    _body(config, model, steps), _layer_rates(config, model)  # for what they raise
    recipe = make_recipe(config, model, dataset, steps=steps)
    if sampler := make_sampler(config, dataset):
        _say_once(f"sampler: {sampler}", sys.stdout)
    bound = zip(methods.every(methods.make(config.mix)), methods.every(recipe.method), strict=True)
    layers = next((method.layers for written, method in bound if methods.leaves_layers(written)), None)
    return Prepared(dataclasses.replace(config, layers=layers), dataset, model, recipe)


def make_model(config: Config, dataset: data.Dataset, rngs: nnx.Rngs) -> nnx.Module:
    """The network that `config` names, for the images of `dataset`, with `--weights`.

    Raises:
      UserError: there is no such network, or it or the weights cannot be used.
    """
    shape, num_classes = dataset.train.image.shape[1:], len(dataset.class_names)
    with sharding.in_host_memory(split_over(config)):
        model = make_network(config.model, shape, num_classes, width=config.width, dtype=config.dtype, rngs=rngs)
        if config.weights is not None:
            told = weights.start_from(
                config.weights,
                model,
                config.model,
                image_shape=shape,
                class_names=dataset.class_names,
                width=config.width,
            )
    if config.weights is not None:
        _say_once(f"{told}; pixels are normalised by {' '.join(_normalize(config) or ())}", sys.stdout)
    if config.drop_path is not None:
        models.set_drop_path(model, config.drop_path, config.model)
    model.train()
    return model


def make_network(
    name: str, image_shape: tuple[int, ...], num_classes: int, *, width: int | None, dtype: str, rngs: nnx.Rngs
) -> nnx.Module:
    """The network that the flags of a run name, for images of height, width and channels.

    Raises:
      UserError: there is no such network, or it cannot be used.
    """
    rows, columns, in_channels = image_shape
    size = (rows, columns)
    model = models.make(name, in_channels=in_channels, num_classes=num_classes, image_size=size, width=width, rngs=rngs)
    if dtype != "float32":
        models.set_dtype(model, jnp.dtype(dtype))
    return model


def make_recipe(config: Config, model: nnx.Module, dataset: data.Dataset, steps: int) -> Recipe:
    """The recipe that `config` names, for a run of `steps`; Manifold Mixup's layers are looked up in the model.

    Raises:
      UserError: a layer is not in the model, or images are too small for CutMix, or the methods do not go together.
    """
    same = {name: getattr(config, name) for name in ("alpha_end", "augment", "accumulate", "ema")}
    same |= {"loss": _loss(config, dataset), "drop_path": config.drop_path is not None}
    mesh = devices.make_mesh(config.devices)
    same |= {"steps": steps, "mesh": mesh if mesh.size > 1 else None, "split_over": split_over(config)}
    if config.mix == "none":
        return Recipe(**same)
    for note in methods.beside(config.mix, label_smoothing=config.label_smoothing, loss=config.loss):
        _say_once(note, sys.stderr)
    written: Any = methods.make(config.mix, config.alpha, config.mix_groups, config.mix_per)
    layers = models.default_layers(config.model) if config.layers is None else config.layers
    layers_left = any(map(methods.leaves_layers, methods.every(written)))
    image_size = dataset.train.image.shape[1:]
    try:
        method = methods.changed(
            written, lambda each: dataclasses.replace(each, layers=layers) if methods.leaves_layers(each) else each
        )
        if hasattr(method, "bind"):
            image = jax.ShapeDtypeStruct((2, *image_size), np.float32)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                method = method.bind(model, image)
            for each in told:
                if each.category is UserWarning:
                    _say_once(f"--layers: {each.message}", sys.stderr)
        shape = (config.batch_size // config.accumulate, *image_size)
        jax.eval_shape(lambda key: method.sample(key, shape), jax.random.key(0))
    except ValueError as error:
        where = "--" if layers_left and str(error).startswith("layers ") else f"--mix {config.mix}: "
        raise UserError(f"{where}{error}") from error
    return Recipe(method, **same)


@functools.cache
def _say_once(text: str, file: Any) -> None:
    print(text, file=file)


def layers_table(config: Config) -> str:
    """For `--layers help`: the layers of the network, and those that Manifold Mixup takes without `--layers`.

    Raises:
      UserError: the data or the network cannot be used.
    """
    config = resolve(config)
    dataset = load(config)
    model = make_model(config, dataset, nnx.Rngs(split_seed(config)[0]))
    image = jax.ShapeDtypeStruct((2, *dataset.train.image.shape[1:]), np.float32)
    return str(jax_mix.ManifoldMixup(layers=models.default_layers(config.model)).explain(model, image))


def make_learner(config: Config, model: nnx.Module, steps: int) -> Learner:
    """The model with the optimizer and schedule that `config` names, for a run of `steps`."""
    transformation = optimizers.make(
        config.optimizer,
        config.schedule,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        steps=steps,
        milestones=config.milestones,
        body=_body(config, model, steps),
        warmup=(config.warmup_epochs or 0) * (steps // config.epochs),
        clip_norm=config.clip_norm,
        beta2=config.adam_beta2,
        epsilon=config.adam_epsilon,
        layer_rates=_layer_rates(config, model),
    )
    transformation = transformation._replace(init=jax.jit(transformation.init))  # or each kind of array is a program
    with jax.numpy_dtype_promotion("standard"):  # optax does not run under strict promotion
        optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    return Learner(model, optimizer, None if config.ema is None else nnx.clone(model))


def _body(config: Config, model: nnx.Module, steps: int) -> optimizers.Body | None:
    """What learns otherwise than the head; None: all learns alike.

    Raises:
      UserError: the model has no head that can be told from its body.
    """
    if config.freeze_epochs is None and config.body_rate is None:
        return None
    head = models.head_of(model)
    if head is None:
        flag = "body-rate" if config.freeze_epochs is None else "freeze-epochs"
        raise UserError(f"--{flag} needs a head in --model {config.model}, as attribute {' or '.join(models.HEADS)}.")
    frozen = (config.freeze_epochs or 0) * (steps // config.epochs)
    return optimizers.body_of(model, head, frozen=frozen, rate=config.body_rate or 1.0)


def make_sampler(config: Config, dataset: data.Dataset) -> data.Balanced | None:
    """What draws the training images; None: each comes once in an epoch."""
    return data.Balanced(dataset.train.label) if config.sampler == BALANCED else None


def _layer_rates(config: Config, model: nnx.Module) -> tuple[tuple[str, float], ...] | None:
    """The part of the learning rate of each parameter; None: all have all of it.

    Raises:
      UserError: the model's layers are not known.
    """
    if config.layer_decay is None:
        return None
    return models.layer_rates(model, config.layer_decay, models.head_of(model), config.model)


def _loss(config: Config, dataset: data.Dataset) -> Loss:
    """What is trained with, for the classes and labels of `dataset`.

    Raises:
      UserError: there are not as many weights as classes; or the threshold makes labels of all classes or of none.
    """
    smoothing, threshold, names = config.label_smoothing, config.target_threshold, dataset.class_names
    off = smoothing / len(names)
    require(
        threshold is None or off <= threshold < 1 - smoothing + off,
        f"--target-threshold must be from {off:g} to below {1 - smoothing + off:g}, what --label-smoothing {smoothing} "
        f"makes of 0 and 1; got {threshold}.",
    )
    weights = None
    if config.class_weights is not None:
        weights = weights_of(config.class_weights, np.asarray(dataset.train.label), names)
        low, high = (pick(range(len(names)), key=weights.__getitem__) for pick in (min, max))
        told = f"from {weights[low]:.3g}, {names[low]}, to {weights[high]:.3g}, {names[high]}"
        _say_once(f"class weights: {told}", sys.stdout)
    return Loss(config.loss or "cross_entropy", smoothing, threshold, weights)


def split_seed(config: Config) -> Key[Array, " 5"]:
    """Keys for the model's weights, the order of images, the steps, the picture of a mixed batch, and label noise."""
    return jax.random.split(jax.random.key(config.seed), 5)

"""Weights that a run starts from (--weights): a file in PyTorch's names, or a run of one's own."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_mix.training import models
from jax_mix.training.errors import UserError, require
from jax_mix.training.models.torch_names import Twin, twin, variables
from jax_mix.training.weights_files import Given, about_of, existing, exported_beside, of_file, of_run

if TYPE_CHECKING:
    from jaxtyping import Float

_SHOWN = 3  # arrays of each kind that are named


def normalization(weights: str, model: str) -> tuple[str, ...]:
    """What `--normalize` has to be for the weights, if it is not given.

    Args:
      weights: a file, or a run's folder.
      model: the network's name.

    Raises:
      UserError: they cannot be read, or do not tell it.
    """
    path = existing(weights)
    if path.is_dir():
        about = about_of(path)
        return tuple(map(str, (*about.mean, *about.std)))
    _twin(weights, model)
    if exported := exported_beside(path):
        return tuple(map(str, (*exported["mean"], *exported["std"])))
    require(
        not model.startswith("vit_"),
        f"--normalize must be given with --weights for {model}, as '{weights}' does not tell it: half for timm's own "
        "(augreg), imagenet for those of DeiT and DINO.",
    )
    return ("imagenet",)


def start_from(
    weights: str,
    model: nnx.Module,
    name: str,
    *,
    image_shape: Sequence[int],
    class_names: tuple[str, ...],
    width: int | None,
) -> str:
    """Give a model the weights that `weights` names, and BatchNorm's statistics; a head of other classes stays new.

    Args:
      weights: a file, or a run's folder.
      model: of the network `name`; it is changed.
      name: as `--model` has it.
      image_shape: height, width and channels of its images.
      class_names: one for each logit.
      width: of the network.

    Returns:
      What was done, as one line.

    Raises:
      UserError: they cannot be read, or an array of either side has none of its name and shape on the other.
    """
    path = existing(weights)
    rows, columns, channels = image_shape
    classes = len(class_names)
    if path.is_dir():
        given = of_run(path)
    else:
        size = (rows, columns)
        found = _twin(weights, name, in_channels=channels, num_classes=classes, image_size=size, width=width)
        given = of_file(path, found)
    arrays = dict(given.arrays)
    own = {given.name(at): (at, variable) for at, variable in variables(model).items()}
    told = [f"weights: those of '{weights}'"]

    position = given.name(("position",))
    both = {position} <= arrays.keys() & own.keys()
    if both and isinstance(model, models.ViT) and _is_of_patches(arrays[position], model):
        _check_numbers(position, arrays[position], own[position][1], f"'{weights}'")
        arrays[position], resampled = _of_size(arrays[position], model, (rows, columns), given.image_size, weights)
        told += resampled
    head = [each for each, (at, _) in own.items() if at[0] == models.head_of(model)]
    if new := _why_new(arrays, own, head, given.class_names, class_names):
        told.append(f"but for the head, which is new, of {classes} classes: {new}")
        own = {each: found for each, found in own.items() if each not in head}
        arrays = {each: array for each, array in arrays.items() if each not in head}
    _check_fit(given, arrays, {each: variable for each, (_, variable) in own.items()}, f"'{weights}'", name)

    for each, (_, variable) in own.items():
        variable.set_value(jnp.asarray(arrays[each], variable.dtype))
    nnx.update(model, nnx.from_flat_state({at: variable for at, variable in own.values()}))
    return ", ".join(told)


def _twin(
    weights: str,
    name: str,
    in_channels: int = 3,
    num_classes: int = 1,
    image_size: tuple[int, int] = (224, 224),
    width: int | None = None,
) -> Twin:
    """The twin whose names a file has, for a network `name`."""
    found = twin(name, in_channels=in_channels, num_classes=num_classes, image_size=image_size, width=width)
    if not isinstance(found, Twin):
        raise UserError(
            f"--weights: '{weights}' cannot be read for --model {name}: {found}. Files are for networks of "
            "torchvision, fastai and timm; any network can start from a run of its own, --weights runs/NAME."
        )
    return found


def _why_new(
    arrays: Mapping[str, np.ndarray],
    own: Mapping[str, Any],
    head: Sequence[str],
    theirs: tuple[str, ...] | None,
    ours: tuple[str, ...],
) -> str:
    """Why the head cannot be the one given, in words; "" if it can, or differs from ours in more than its classes."""
    there = [each for each in head if each in arrays]
    if not there:
        return "none is given" if head else ""
    pairs = [(arrays[each].shape, own[each][1].shape) for each in there]
    if len(there) < len(head) or any(given[:-1] != wanted[:-1] or not given for given, wanted in pairs):
        return ""
    classes = {given[-1] for given, _ in pairs}
    if classes != {len(ours)}:
        return f"that given is of {classes.pop()}" if len(classes) == 1 else ""
    return "that given is of others" if theirs is not None and theirs != ours else ""


def _check_fit(
    given: Given, arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Any], where: str, model: str
) -> None:
    """Raise `UserError` unless both sides have the same names and shapes, and all numbers can be used."""
    missing = [each for each in wanted if each not in arrays]
    left = [each for each in arrays if each not in wanted]
    both = [each for each in wanted if each in arrays]
    wrong = [each for each in both if arrays[each].shape != wanted[each].shape]

    def near(name: str) -> str:
        found = difflib.get_close_matches(name, left, 1)
        return f"{name} (nearest there: {found[0]})" if found else name

    shapes = [f"{each} is {given.shape(arrays[each])} there and {given.shape(wanted[each])} here" for each in wrong]
    told = [
        _some("there is no", [near(each) for each in missing[:_SHOWN]], len(missing)),
        _some("the network has no", left[:_SHOWN], len(left)),
        _some("of another shape", shapes[:_SHOWN], len(wrong)),
    ]
    if missing or left or wrong:
        raise UserError(f"--weights: {where} does not fit --model {model}: {'; '.join(filter(None, told))}.")
    for each in both:
        _check_numbers(each, arrays[each], wanted[each], where)


def _check_numbers(name: str, array: np.ndarray, wanted: nnx.Variable[Any], where: str) -> None:
    """Raise `UserError` unless the numbers of an array can be those of a variable."""
    kinds = {bool(jnp.issubdtype(a.dtype, jnp.floating)) for a in (array, wanted)}
    require(len(kinds) == 1, f"--weights: {name} in {where} is of {array.dtype}, not of {wanted.dtype}.")
    finite = bool(np.isfinite(array.astype(np.float32)).all())
    require(finite, f"--weights: {name} in {where} has numbers that are infinite or nan.")
    is_variance = isinstance(wanted, nnx.BatchStat) and name.split(".")[-1] in ("var", "running_var")
    negative = is_variance and bool((array < 0).any())
    require(not negative, f"--weights: {name} in {where} is a variance, and has numbers below 0.")


def _some(what: str, shown: Sequence[str], count: int) -> str:
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f"{what} {', '.join(shown)}{more}" if shown else ""


def _is_of_patches(position: np.ndarray, model: models.ViT) -> bool:
    """Whether positions differ from the model's in the number of patches at most; if not, they do not fit."""
    one, _, width = model.position.shape
    return position.ndim == 3 and position.shape[::2] == (one, width) and position.shape[1] > _prefix(model)


def _prefix(model: models.ViT) -> int:
    """How many tokens come before those of the patches."""
    return 0 if model.token is None else 1


def _of_size(
    position: np.ndarray,
    model: models.ViT,
    image_size: tuple[int, int],
    made_for: tuple[int, int] | None,
    weights: str,
) -> tuple[np.ndarray, list[str]]:
    """A vision transformer's positions for the patches of an image, and what was done, if anything."""
    prefix = _prefix(model)
    rows, columns = (size // patch for size, patch in zip(image_size, model.patch.kernel_size, strict=True))
    count = position.shape[1] - prefix
    side = math.isqrt(count)
    if made_for is None:
        require(side * side == count, f"--weights: '{weights}' has positions of {count} patches, which are no square.")
        old = (side, side)
    else:
        old = (made_for[0] // model.patch.kernel_size[0], made_for[1] // model.patch.kernel_size[1])
        size = f"{made_for[0]} x {made_for[1]}"
        told = f"positions of {count} patches, but is for images of {size}, which are {old[0]} x {old[1]} patches"
        require(math.prod(old) == count, f"--weights: '{weights}' has {told}.")
    if old == (rows, columns):
        return position, []
    told = f"its positions of {old[0]} x {old[1]} patches resampled to {rows} x {columns}"
    return resampled(position, old, (rows, columns), prefix), [told]


def resampled(
    position: Float[np.ndarray, "1 tokens width"], old: tuple[int, int], new: tuple[int, int], prefix: int
) -> Float[np.ndarray, "1 others width"]:
    """Positions of a grid of patches, resampled to another grid by bicubic interpolation, as timm does it.

    Args:
      position: of `prefix` tokens that are no patches, then of the patches, row by row.
      old, new: rows and columns of the grids.
      prefix: how many tokens come first; theirs stay.

    Source: `timm.layers.resample_abs_pos_embed`.
    """
    first, grid = position[:, :prefix], position[:, prefix:].astype(np.float32)
    grid = grid.reshape(*old, position.shape[-1])
    made = np.asarray(jax.image.resize(grid, (*new, grid.shape[-1]), "bicubic", antialias=True))
    return np.concatenate([first.astype(np.float32), made.reshape(1, -1, grid.shape[-1])], axis=1)

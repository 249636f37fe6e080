"""Weights that a run starts from (--weights): a file in PyTorch's names, or a run of one's own."""

from __future__ import annotations

import difflib
import importlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_mix.training import models
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import expanded, one_line
from jax_mix.training.models.torch_names import Twin, from_torch, to_torch, twin, variables

if TYPE_CHECKING:
    from jaxtyping import Float

_OF_TORCH = (".pt", ".pth", ".bin", ".tar", ".ckpt")
_UNUSED = "num_batches_tracked"  # PyTorch counts the batches of a BatchNorm, and does not use it
# What is beside the weights in a file that train.py export wrote, all of it lists.
_BESIDE: dict[str, tuple[Callable[[list[Any]], bool], str]] = {
    "class_names": (lambda names: all(isinstance(each, str) for each in names), "a list of names"),
    "image_shape": (
        lambda shape: len(shape) == 3 and all(type(each) is int and each > 0 for each in shape),
        "height, width and channels, positive whole numbers",
    ),
    "mean": (lambda numbers: all(type(each) in (int, float) for each in numbers), "a list of numbers"),
    "std": (lambda numbers: all(type(each) in (int, float) for each in numbers), "a list of numbers"),
}
_SHOWN = 3  # arrays of each kind that are named


class _Given(NamedTuple):
    """What `--weights` names, with the axes of arrays in our order."""

    arrays: dict[str, np.ndarray]
    twin: Twin | None  # whose names the arrays have; None: they are ours
    image_size: tuple[int, int] | None  # that the network was made for; None: it is not known
    class_names: tuple[str, ...] | None  # of the head; None: they are not known

    def name(self, path: tuple[Any, ...]) -> str:
        return ".".join(map(str, path)) if self.twin is None else self.twin.name(path)

    def shape(self, array: Any) -> list[int]:
        """As the file has it."""
        return list(array.shape) if self.twin is None else list(to_torch(np.empty(array.shape, bool)).shape)


def normalization(weights: str, model: str) -> tuple[str, ...]:
    """What `--normalize` has to be for the weights, if it is not given.

    Args:
      weights: a file, or a run's folder.
      model: the network's name.

    Raises:
      UserError: they cannot be read, or do not tell it.
    """
    path = _existing(weights)
    if path.is_dir():
        about = _trained(path).about
        return tuple(map(str, (*about.mean, *about.std)))
    _twin(weights, model)
    if exported := _exported(path):
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
    path = _existing(weights)
    rows, columns, channels = image_shape
    classes = len(class_names)
    if path.is_dir():
        given = _of_run(path)
    else:
        size = (rows, columns)
        found = _twin(weights, name, in_channels=channels, num_classes=classes, image_size=size, width=width)
        given = _of_file(path, found)
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
    given: _Given, arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Any], where: str, model: str
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


def _existing(weights: str) -> Path:
    require(weights != "", "--weights is empty: give a file or a run's folder, or leave it out.")
    path = expanded(weights)
    if not path.exists():
        if path.is_symlink():
            raise UserError(f"--weights: '{weights}' is a link to '{os.readlink(path)}', which cannot be found.")
        beside = [each.name for each in path.parent.iterdir() if each.exists()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, 1)
        raise UserError(
            f"--weights: there is no file or folder '{weights}'"
            + (f": did you mean '{path.with_name(near[0])}'?" if near else ".")
        )
    require(
        path.is_dir() or path.suffix in (".safetensors", *_OF_TORCH),
        f"--weights: '{weights}' must be a .safetensors, a file of PyTorch, {' '.join(_OF_TORCH)}, or a run's folder.",
    )
    return path


def _trained(folder: Path) -> Any:
    """The network of a finished run: of its best epoch, if it has kept that, else of the last."""
    from jax_mix.training.about import read_metrics  # here, as they need `build`, which needs this
    from jax_mix.training.trained import load_run

    try:
        return load_run(folder, best="best" in read_metrics(folder))
    except UserError as error:
        raise UserError(f"--weights: {error}") from error


def _of_run(folder: Path) -> _Given:
    trained = _trained(folder)
    arrays = {".".join(map(str, path)): np.asarray(each[...]) for path, each in variables(trained.model).items()}
    return _Given(arrays, None, trained.image_shape[:2], trained.class_names)


def _of_file(path: Path, found: Twin) -> _Given:
    if path.suffix == ".safetensors":
        import safetensors.numpy  # here, as in `_exported`: a run without --weights does without

        try:
            arrays = safetensors.numpy.load_file(path)  # of bfloat16 too: JAX has told NumPy of it
        except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            raise _unreadable(path, error) from error
    else:
        arrays = _of_torch(path)
    if all(name.startswith("module.") for name in arrays):  # as PyTorch's DataParallel names them
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    arrays = {name: from_torch(array) for name, array in arrays.items() if not name.endswith(_UNUSED)}
    about = _exported(path)
    if about is None:
        return _Given(arrays, found, None, None)
    return _Given(arrays, found, (about["image_shape"][0], about["image_shape"][1]), tuple(about["class_names"]))


def _exported(path: Path) -> dict[str, Any] | None:
    """What is beside the weights in a file that train.py export wrote; None: it is another."""
    if path.suffix != ".safetensors":
        return None
    import safetensors

    try:
        with safetensors.safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        if not metadata.keys() >= _BESIDE.keys():
            return None
        exported = {name: json.loads(metadata[name]) for name in _BESIDE}
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    for name, (are_right, wanted) in _BESIDE.items():
        value = exported[name]
        right = isinstance(value, list) and are_right(value)
        require(right, f"--weights: {name} in '{path}' must be {wanted}; got {metadata[name]:.100}.")
    return exported


def _of_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        torch: Any = importlib.import_module("torch")
    except ModuleNotFoundError:
        raise UserError(
            f"--weights: '{path}' is a file of PyTorch, which is not installed: pip install torch, or give the weights "
            "as .safetensors."
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file anything may be raised
        raise _unreadable(path, error) from error
    for name in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    by_name = isinstance(loaded, Mapping) and all(
        isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in loaded.items()
    )
    require(bool(by_name and loaded), f"--weights: '{path}' holds no weights by name, as a state_dict does.")
    arrays = {}
    for name, t in loaded.items():
        try:
            arrays[name] = (t.float() if t.is_floating_point() else t).numpy(force=True)
        except (RuntimeError, TypeError) as error:  # what is sparse, quantized, or without numbers
            kind = f"{t.dtype}, {t.layout}, on device {t.device}"
            raise UserError(f"--weights: {name} in '{path}' is no plain array of numbers, but {kind}.") from error
    return arrays


def _unreadable(path: Path, error: Exception) -> UserError:
    line = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return UserError(one_line(f"--weights: '{path}' cannot be read as weights ({type(error).__name__}: {line[:200]})."))

"""What --weights names, read: a file in PyTorch's names, or the folder of a run."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_mix.training.errors import UserError, require
from jax_mix.training.files import expanded, one_line
from jax_mix.training.models.torch_names import Twin, from_torch, to_torch, variables

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


class Given(NamedTuple):
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


@functools.cache  # a run asks more than once, and reads them once
def fingerprint(weights: str) -> str:
    """Other weights have another, in all likelihood: of a file's bytes, or of those of a run's checkpoints.

    Raises:
      UserError: they cannot be read.
    """
    path = existing(weights)
    files = sorted(each for part in ("checkpoints", "best") for each in (path / part).rglob("*") if each.is_file())
    digest = hashlib.sha256()
    try:
        for file in files if path.is_dir() else [path]:
            digest.update(os.fspath(file.relative_to(path)).encode())
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()[:8]


def existing(weights: str) -> Path:
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


def about_of(folder: Path) -> Any:
    """What is known of a finished run."""
    from jax_mix.training import about  # here, as it needs `build`, which needs this

    try:
        about.read_metrics(folder)  # which tells of a run that is not finished
        return about.read_about(folder)
    except UserError as error:
        raise UserError(f"--weights: {error}") from error


def _trained(folder: Path) -> Any:
    """The network of a finished run: of its best epoch, if it has kept that, else of the last."""
    from jax_mix.training.about import read_metrics  # here, as in `about_of`
    from jax_mix.training.trained import load_run

    try:
        return load_run(folder, best="best" in read_metrics(folder))
    except UserError as error:
        raise UserError(f"--weights: {error}") from error


def of_run(folder: Path) -> Given:
    trained = _trained(folder)
    arrays = {".".join(map(str, path)): np.asarray(each[...]) for path, each in variables(trained.model).items()}
    return Given(arrays, None, trained.image_shape[:2], trained.class_names)


def of_file(path: Path, found: Twin) -> Given:
    if path.suffix == ".safetensors":
        import safetensors.numpy  # here, as in `exported_beside`: a run without --weights does without

        try:
            arrays = safetensors.numpy.load_file(path)  # of bfloat16 too: JAX has told NumPy of it
        except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            raise _unreadable(path, error) from error
    else:
        arrays = _of_torch(path)
    if all(name.startswith("module.") for name in arrays):  # as PyTorch's DataParallel names them
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    arrays = {name: from_torch(array) for name, array in arrays.items() if not name.endswith(_UNUSED)}
    about = exported_beside(path)
    if about is None:
        return Given(arrays, found, None, None)
    return Given(arrays, found, (about["image_shape"][0], about["image_shape"][1]), tuple(about["class_names"]))


def exported_beside(path: Path) -> dict[str, Any] | None:
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

"""A Flax NNX model's weights from its torch twin's, and back. Modules have the same names on both sides."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

# The one map. (torch leaf, rank) <-> Flax leaf, and the axes of the torch array in Flax's order.
#   torch                  Flax       axes
LEAVES = {
    ("weight", 4): ("kernel", (2, 3, 1, 0)),  # Conv2d, OIHW <-> HWIO
    ("weight", 2): ("kernel", (1, 0)),  # Linear, [out, in] <-> [in, out]
    ("weight", 1): ("scale", (0,)),  # BatchNorm
    ("bias", 1): ("bias", (0,)),
    ("running_mean", 1): ("mean", (0,)),
    ("running_var", 1): ("var", (0,)),  # torch updates it with the unbiased variance, Flax with the biased
}
TORCH_ONLY = ("num_batches_tracked",)


def flax_from_torch(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by torch name, "layer1.conv1.weight", to arrays by Flax name, "layer1.conv1.kernel". Gradients too."""
    converted = {}
    for name, array in arrays.items():
        module, _, leaf = name.rpartition(".")
        if leaf not in TORCH_ONLY:
            flax_leaf, axes = LEAVES[leaf, array.ndim]
            converted[f"{module}.{flax_leaf}"] = array.transpose(axes)
    return converted


def torch_from_flax(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `flax_from_torch`."""
    inverse = {(flax_leaf, rank): (leaf, tuple(np.argsort(axes))) for (leaf, rank), (flax_leaf, axes) in LEAVES.items()}
    converted = {}
    for name, array in arrays.items():
        module, _, leaf = name.rpartition(".")
        torch_leaf, axes = inverse[leaf, array.ndim]
        converted[f"{module}.{torch_leaf}"] = array.transpose(axes)
    return converted


def torch_arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Parameters and BatchNorm statistics by name."""
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def flax_arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """Parameters and BatchNorm statistics by name, path segments joined by dots."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return {".".join(map(str, path)): np.asarray(value[...]) for path, value in nnx.to_flat_state(state)}


def copy_to_flax(source: torch.nn.Module, target: nnx.Module) -> None:
    """Set all of `target`'s weights and statistics to `source`'s; ValueError unless each has its counterpart."""
    arrays = flax_from_torch(torch_arrays(source))
    _check(arrays, flax_arrays(target))
    state = nnx.state(target, nnx.Any(nnx.Param, nnx.BatchStat))
    for path, value in nnx.to_flat_state(state):
        value.set_value(jnp.array(arrays[".".join(map(str, path))]))  # in their dtype
    nnx.update(target, state)


def copy_to_torch(source: nnx.Module, target: torch.nn.Module) -> None:
    """Set all of `target`'s weights and statistics to `source`'s; ValueError unless each has its counterpart."""
    arrays = torch_from_flax(flax_arrays(source))
    state = target.state_dict()
    counts = {name: value for name, value in state.items() if name.rpartition(".")[2] in TORCH_ONLY}
    _check(arrays, {name: value.numpy() for name, value in state.items() if name not in counts})
    target.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()} | counts)


def _check(arrays: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    shapes, wanted_shapes = ({name: array.shape for name, array in a.items()} for a in (arrays, wanted))
    wrong = {name: (shapes.get(name), wanted_shapes.get(name)) for name in shapes.keys() | wanted_shapes.keys()}
    wrong = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
    if wrong:
        raise ValueError(f"these have no counterpart of the same shape (given, wanted): {wrong}")

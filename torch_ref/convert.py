"""A Flax NNX model's weights, and their gradients, from its torch reference's, and back. Nothing is computed."""

from __future__ import annotations

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

# The one map, in two tables. Arrays: (torch leaf, rank) -> Flax leaf, and the axes of the torch array in Flax's order.
#   torch                  Flax       axes
LEAVES = {
    ("weight", 4): ("kernel", (2, 3, 1, 0)),  # Conv2d, OIHW -> HWIO
    ("weight", 2): ("kernel", (1, 0)),  # Linear, [out, in] -> [in, out]
    ("weight", 1): ("scale", (0,)),  # BatchNorm, LayerNorm
    ("bias", 1): ("bias", (0,)),
    ("running_mean", 1): ("mean", (0,)),
    ("running_var", 1): ("var", (0,)),  # torch updates it with the unbiased variance, Flax with the biased
    ("position", 3): ("position", (0, 1, 2)),
    ("pos_embed", 3): ("position", (0, 1, 2)),  # timm's ViT
    ("cls_token", 3): ("token", (0, 1, 2)),
    ("gamma", 1): ("gamma", (0,)),  # timm's ConvNeXt
}
TORCH_ONLY = ("num_batches_tracked",)

# Modules: what is called otherwise. Patterns match whole segments of the path; each sees what the last one made.
#   torch                            Flax
MODULES = (
    (r"^([012])", r"stem.layers.\1"),  # fastai's xresnet18 is one Sequential: stem,
    (r"^4", "layer1"),  # stages,
    (r"^5", "layer2"),
    (r"^6", "layer3"),
    (r"^7", "layer4"),
    (r"^11", "fc"),  # head;
    (r"convpath\.0", "conv1"),  # its blocks are of two paths
    (r"convpath\.1", "conv2"),
    (r"idpath\.1", "shortcut"),  # after the pooling, idpath.0
    (r"(stem\.layers\.\d|conv1|conv2|shortcut)\.0", r"\1.conv"),  # and its ConvLayers Sequentials
    (r"(stem\.layers\.\d|conv1|conv2|shortcut)\.1", r"\1.norm"),
    (r"patch_embed\.proj", "patch"),  # timm's ViT
    (r"attn\.proj", "attention.out"),
    (r"attn", "attention"),
    (r"mlp\.(fc\d)", r"\1"),  # its ConvNeXt too
    (r"conv_dw", "conv"),
    (r"head\.norm", "norm"),
    (r"head\.fc", "head"),
    (r"(stem|layer\d|downsample)\.(\d+)", r"\1.layers.\2"),  # nnx.Sequential keeps its modules in `layers`
)


def flax_module(name: str) -> str:
    """The Flax path of the module that torch calls `name`."""
    for pattern, replacement in MODULES:
        name = re.sub(rf"(?<![^.]){pattern}(?![^.])", replacement, name)
    return name


def flax_from_torch(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by torch name, "layer1.conv1.weight", to arrays by Flax name, "layer1.conv1.kernel". Gradients too."""
    converted = {}
    for name, array in arrays.items():
        if not name.endswith(TORCH_ONLY):
            flax_name, axes = _leaf(name, array.ndim)
            converted[flax_name] = array.transpose(axes)
    return converted


def torch_from_flax(arrays: dict[str, np.ndarray], like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `flax_from_torch`, for the torch names and ranks in `like`."""
    converted = {}
    for name, array in like.items():
        if not name.endswith(TORCH_ONLY):
            flax_name, axes = _leaf(name, array.ndim)
            converted[name] = arrays[flax_name].transpose(np.argsort(axes))
    return converted


def _leaf(name: str, rank: int) -> tuple[str, tuple[int, ...]]:
    """The Flax name of the torch array `name`, and its axes in Flax's order."""
    module, dot, leaf = name.rpartition(".")
    flax_leaf, axes = LEAVES[leaf, rank]
    return flax_module(module) + dot + flax_leaf, axes


def torch_arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Parameters and BatchNorm statistics by name."""
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def flax_arrays(tree: nnx.Module | nnx.State) -> dict[str, np.ndarray]:
    """A model's parameters and BatchNorm statistics, or gradients, by name: path segments joined by dots."""
    state = nnx.state(tree, nnx.Any(nnx.Param, nnx.BatchStat)) if isinstance(tree, nnx.Module) else tree
    return {name: np.asarray(variable[...]) for name, variable in _variables(state).items()}


def _variables(state: nnx.State) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}


def copy_to_flax(source: torch.nn.Module, target: nnx.Module) -> None:
    """Set all of `target`'s weights and statistics to `source`'s; ValueError unless each has its counterpart.

    `target` may be one that `nnx.eval_shape` made, without any values yet.
    """
    arrays = flax_from_torch(torch_arrays(source))
    state = nnx.state(target, nnx.Any(nnx.Param, nnx.BatchStat))
    variables = _variables(state)
    _check(arrays, {name: variable.get_value() for name, variable in variables.items()})
    for name, variable in variables.items():
        variable.set_value(jnp.array(arrays[name]))  # not variable[...] =, which would keep its dtype
    nnx.update(target, state)


def copy_to_torch(source: nnx.Module, target: torch.nn.Module) -> None:
    """Set all of `target`'s weights and statistics to `source`'s; ValueError unless each has its counterpart."""
    arrays, like = flax_arrays(source), torch_arrays(target)
    _check(arrays, flax_from_torch(like))
    converted = torch_from_flax(arrays, like)
    state = {name: torch.tensor(converted.get(name, array)) for name, array in like.items()}
    target.load_state_dict(state)


def _check(arrays: dict[str, Any], wanted: dict[str, Any]) -> None:
    shapes, wanted_shapes = ({name: array.shape for name, array in a.items()} for a in (arrays, wanted))
    wrong = {name: (shapes.get(name), wanted_shapes.get(name)) for name in shapes.keys() | wanted_shapes.keys()}
    wrong = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
    if wrong:
        raise ValueError(f"these have no counterpart of the same shape (given, wanted): {wrong}")

"""The weights of networks that torchvision, fastai or timm has too, under the names they have there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# By number of axes; HWIO to OIHW, [in, out] to [out, in].
_AXES = {4: (3, 2, 0, 1), 3: (0, 1, 2), 2: (1, 0), 1: (0,)}
_Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
# Each sees what the last one made.
_TORCHVISION: _Rules = ((r"\.layers\.(\d+)", r".\1"),)  # nnx.Sequential keeps its modules in `layers`
_FASTAI: _Rules = (  # one Sequential: a stem of three, a pooling, four stages, three layers without weights, the head
    (r"^stem\.layers\.(\d+)", r"\1"),
    (r"^layer(\d+)\.layers\.(\d+)", lambda found: f"{int(found[1]) + 3}.{found[2]}"),
    (r"\.conv1\.", ".convpath.0."),
    (r"\.conv2\.", ".convpath.1."),
    (r"\.shortcut\.", ".idpath.1."),  # after the pooling
    (r"\.conv\.", ".0."),
    (r"\.norm\.", ".1."),
    (r"^fc\.", "11."),
)
_TIMM_VIT: _Rules = (
    (r"^patch\.", "patch_embed.proj."),
    (r"^position$", "pos_embed"),
    (r"^token$", "cls_token"),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.(fc\d)\.", r".mlp.\1."),
)
_TIMM_CONVNEXT: _Rules = (
    (r"\.layers\.(\d+)", r".\1"),
    (r"\.conv\.", ".conv_dw."),
    (r"\.(fc\d)\.", r".mlp.\1."),
    (r"^head\.", "head.fc."),
    (r"^norm\.", "head.norm."),
)


class Twin(NamedTuple):
    """A network of PyTorch that gives the same logits from the same weights."""

    made_by: str  # Python
    rules: _Rules

    def name(self, path: tuple[Any, ...]) -> str:
        """What the twin calls the array that our network has at `path`, such as ("bn1", "scale")."""
        *modules, leaf = map(str, path)
        name = ".".join([*modules, _LEAVES.get(leaf, leaf)])
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name

    def weights(self, model: nnx.Module) -> dict[str, np.ndarray]:
        """Parameters and BatchNorm statistics of our network under the twin's names, as its `load_state_dict` takes."""
        return {self.name(path): to_torch(np.asarray(each[...])) for path, each in variables(model).items()}


def to_torch(array: np.ndarray) -> np.ndarray:
    """An array of ours with the axes in PyTorch's order."""
    axes = _AXES.get(array.ndim)
    return array if axes is None else np.ascontiguousarray(array.transpose(axes))


def from_torch(array: np.ndarray) -> np.ndarray:
    """An array of PyTorch's with the axes in our order."""
    axes = _AXES.get(array.ndim)
    return array if axes is None else array.transpose(np.argsort(axes))


def variables(model: nnx.Module) -> dict[tuple[Any, ...], nnx.Variable[Any]]:
    """Parameters and BatchNorm statistics of a network, and what else it has but random numbers, by their paths."""
    return dict(nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState))))


def twin(
    name: str, *, in_channels: int, num_classes: int, image_size: tuple[int, int], width: int | None
) -> Twin | str:
    """The twin of the network `name`, or why it has none.

    >>> twin("resnet18", in_channels=3, num_classes=10, image_size=(64, 64), width=None).made_by
    'torchvision.models.resnet18(num_classes=10)'
    >>> twin("vit", in_channels=3, num_classes=10, image_size=(64, 64), width=None)
    'neither torchvision nor fastai nor timm has a vit'

    Args:
      name: of a network, as `--model` has it.
      in_channels, num_classes, image_size, width: of the network.
    """
    channels = "" if in_channels == 3 else f", in_chans={in_channels}"
    if name == "xresnet18":
        return Twin(f"fastai.vision.models.xresnet.xresnet18(c_in={in_channels}, n_out={num_classes})", _FASTAI)
    if name in ("resnet18", "resnet34", "resnet50"):
        whose, made_by, own = "torchvision", f"torchvision.models.{name}(num_classes={num_classes})", 64
        if in_channels != 3:
            return f"torchvision's {name} is of channels 3, this one of {in_channels}"
        rules = _TORCHVISION
    elif name == "vit_small_patch16_224":
        size = "" if image_size == (224, 224) else f", img_size={tuple(image_size)}"
        whose, own, rules = "timm", 384, _TIMM_VIT
        made_by = f"timm.create_model({name!r}, num_classes={num_classes}{channels}{size})"
    elif name == "convnext_tiny":
        whose, own, rules = "timm", 96, _TIMM_CONVNEXT
        made_by = f"timm.create_model({name!r}, num_classes={num_classes}{channels})"
    else:
        return f"neither torchvision nor fastai nor timm has a {name}"
    if width not in (None, own):
        return f"{whose}'s {name} is of width {own}, this one of {width}"
    return Twin(made_by, rules)

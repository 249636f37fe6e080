"""The weights of networks that torchvision or fastai has too, under the names they have there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # HWIO to OIHW, [in, out] to [out, in]
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


class Twin(NamedTuple):
    """A network of PyTorch that gives the same logits from the same weights."""

    made_by: str  # Python
    rules: _Rules

    def weights(self, model: nnx.Module) -> dict[str, np.ndarray]:
        """Parameters and BatchNorm statistics of our network under the twin's names, as its `load_state_dict` takes."""
        state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
        converted = {}
        for path, variable in nnx.to_flat_state(state):
            array = np.asarray(variable[...])
            module, _, leaf = ".".join(map(str, path)).rpartition(".")
            name = f"{module}."
            for pattern, replacement in self.rules:
                name = re.sub(pattern, replacement, name)
            converted[name + _LEAVES[leaf]] = np.ascontiguousarray(array.transpose(_AXES[array.ndim]))
        return converted


def twin(name: str, *, in_channels: int, num_classes: int, width: int | None) -> Twin | str:
    """The twin of the network `name`, or why it has none.

    >>> twin("resnet18", in_channels=3, num_classes=10, width=None).made_by
    'torchvision.models.resnet18(num_classes=10)'
    >>> twin("vit", in_channels=3, num_classes=10, width=None)
    'neither torchvision nor fastai has a vit'

    Args:
      name: of a network, as `--model` has it.
      in_channels, num_classes, width: of the network.
    """
    if name == "xresnet18":
        return Twin(f"fastai.vision.models.xresnet.xresnet18(c_in={in_channels}, n_out={num_classes})", _FASTAI)
    if name not in ("resnet18", "resnet34", "resnet50"):
        return f"neither torchvision nor fastai has a {name}"
    others: dict[str, Any] = {"channels": (in_channels, 3), "width": (width or 64, 64)}
    for what, (ours, theirs) in others.items():
        if ours != theirs:
            return f"torchvision's {name} is of {what} {theirs}, this one of {ours}"
    return Twin(f"torchvision.models.{name}(num_classes={num_classes})", _TORCHVISION)

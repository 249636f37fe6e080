"""Residual blocks by how deep they are: stochastic depth, which drops them, and how fast each of them learns."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
from flax import nnx

from jax_mix.training.errors import UserError, require

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key


class ResidualBlock(nnx.Module):
    """A block that adds branches to its input, `x + self.branch(h)`, which stochastic depth can drop.

    A model of your own has stochastic depth when its blocks are of this class.

    Attributes:
      drop_rate: how likely a branch is dropped, for each example; `set_drop_path` sets it.
      drop_key: what decides it, while `dropping` is at work; else nothing is dropped.
    """

    drop_rate: float = 0.0
    drop_key: nnx.Variable[Any] | None = None

    def branch(self, h: Float[Array, "batch ..."], which: int = 0) -> Float[Array, "batch ..."]:
        """The branch `h`, or for some examples 0; what is kept is scaled up, so that its mean stays.

        Args:
          h: of any shape; examples are along the first axis.
          which: of the block's branches; each has a draw of its own.

        Source: Huang et al., arXiv:1603.09382; `timm.layers.DropPath`.
        """
        if self.drop_key is None:
            return h
        kept = 1 - self.drop_rate
        key, shape = jax.random.fold_in(self.drop_key[...], which), (h.shape[0], *[1] * (h.ndim - 1))
        return h * (jax.random.bernoulli(key, kept, shape).astype(h.dtype) / kept)


def residual_blocks(model: nnx.Module) -> dict[tuple[Any, ...], ResidualBlock]:
    """A model's residual blocks by their paths, the first one first: names as in a dictionary, numbers by size.

    Numbers in names are by size too: block2 is before block10.
    """
    found = [(path, module) for path, module in nnx.iter_modules(model) if isinstance(module, ResidualBlock)]
    return dict(sorted(found, key=lambda each: [_by_size(part) for part in each[0]]))


def _by_size(part: Any) -> list[tuple[bool, Any]]:
    """A key to sort by, of a name or a number in a path."""
    words = [part] if isinstance(part, int) else re.split(r"(\d+)", str(part))
    return [(False, int(word)) if str(word).isdecimal() else (True, word) for word in words if word != ""]


def set_drop_path(model: nnx.Module, rate: float, name: str) -> None:
    """Let a model's residual blocks be dropped: the first never, the last with probability `rate`, linearly between.

    Args:
      model: is changed.
      rate: in (0, 1).
      name: of the model, for the message.

    Raises:
      UserError: it has no two residual blocks.

    Source: `timm.layers.calculate_drop_path_rates`.
    """
    blocks = list(residual_blocks(model).values())
    told = "preact_resnet, wide_resnet, resnet, vit and convnext networks have; or blocks that are a ResidualBlock"
    require(len(blocks) > 1, f"--drop-path is {rate}, but --model {name} has no residual blocks to drop, as {told}.")
    for i, block in enumerate(blocks):
        block.drop_rate = rate * i / (len(blocks) - 1)


@contextlib.contextmanager
def dropping(model: nnx.Module, key: Key[Array, ""] | None) -> Iterator[None]:
    """While the body runs, branches are dropped as `key` decides, a block by a key of its own; None: none are.

    The keys are in the model no longer than that: it has the same Variables before and after.
    """
    if key is None:
        yield
        return
    blocks = [block for block in residual_blocks(model).values() if block.drop_rate > 0]
    for i, block in enumerate(blocks):
        block.drop_key = nnx.Variable(jax.random.fold_in(key, i))
    try:
        yield
    finally:
        for block in blocks:
            del block.drop_key


def layer_rates(model: nnx.Module, decay: float, head: str | None, name: str) -> tuple[tuple[str, float], ...]:
    """How fast each parameter learns: as `decay` to the power of how many layers it is below the head.

    What comes before the first block is a layer, each block is one, and the head.

    Args:
      model: a `ViT` or `ConvNeXt`.
      decay: in (0, 1).
      head: the name of the head.
      name: of the model, for the message.

    Returns:
      The path of each parameter, joined by dots, and its part of the learning rate.

    Raises:
      UserError: it is another model.

    Source: Bao et al., "BEiT", arXiv:2106.08254; `timm.optim.param_groups_layer_decay`.
    """
    from jax_mix.training.models.convnext import ConvNeXt  # here, as their blocks are of this module
    from jax_mix.training.models.vit import ViT

    if not isinstance(model, (ViT, ConvNeXt)):
        raise UserError(f"--layer-decay is {decay}, but it is for vit and convnext networks, not for --model {name}.")
    blocks, last = [_dotted(path) for path in residual_blocks(model)], len(residual_blocks(model)) + 1

    def layer(path: str) -> int:
        first = path.split(".")[0]
        if first == head:
            return last
        if first == "norm":
            return last if isinstance(model, ConvNeXt) else last - 1  # with the head, or the last block, as in timm
        for i, block in enumerate(blocks):
            stage = f"{block.rsplit('.', 2)[0]}.downsample." if isinstance(model, ConvNeXt) else None
            if path.startswith(f"{block}.") or (stage and path.startswith(stage)):  # that is before its first block
                return i + 1
        return 0

    paths = map(_dotted, nnx.to_flat_state(nnx.state(model, nnx.Param)).paths)
    return tuple((path, decay ** (last - layer(path))) for path in paths)


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))

"""Mixing as fastai's callbacks do it, in plain PyTorch: the loop that a person of fastai runs, without its overhead.

Arrays lie as JAX has them, `[batch, height, width, channels]`, which in PyTorch is an image in channels_last, seen with
its channels last. What fastai does beside the arithmetic, such as waiting for the device to learn a box, is left out:
what is compared with here is faster than fastai.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F


class Draw(NamedTuple):
    """Of a batch: `lam` float32 `[batch]`, `partner` int64 `[batch]`, `box` y1, x1, y2, x2 in pixels, and where."""

    lam: torch.Tensor
    partner: torch.Tensor
    box: tuple[int, int, int, int] | None = None
    layer: str = "input"


class Drawing:
    """Draws as fastai does, on the CPU: MixUp and Manifold Mixup a lambda a sample, folded; CutMix one and a box."""

    def __init__(self, method: str, alpha: float, layers: tuple[str, ...] = ()) -> None:
        self.method, self.layers = method, ("input", *layers)
        self.beta = torch.distributions.Beta(torch.tensor(alpha), torch.tensor(alpha))

    def __call__(self, n: int, size: tuple[int, int], device: torch.device) -> Draw:
        partner = torch.randperm(n).to(device, non_blocking=True)
        if self.method != "cutmix":
            lam = self.beta.sample((n,))
            lam = torch.maximum(lam, 1 - lam).to(device, non_blocking=True)
            at = int(torch.randint(len(self.layers), ())) if self.method == "manifold" else 0
            return Draw(lam, partner, None, self.layers[at])
        cut = (1 - float(self.beta.sample())) ** 0.5
        centre = [int(torch.randint(side, ())) for side in size]
        half = [round(side * cut) // 2 for side in size]
        y1, x1 = (max(c - h, 0) for c, h in zip(centre, half, strict=True))
        y2, x2 = (min(c + h, side) for c, h, side in zip(centre, half, size, strict=True))
        left = 1 - (y2 - y1) * (x2 - x1) / (size[0] * size[1])
        return Draw(torch.full((n,), left, device=device), partner, (y1, x1, y2, x2))


def blend(x: torch.Tensor, lam: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """`lam * x + (1 - lam) * x[partner]`, `[batch, ...]`; in float32 within, whatever `x` is."""
    weight = lam.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return torch.lerp(x[partner], x, weight)


def paste(x: torch.Tensor, box: tuple[int, int, int, int], partner: torch.Tensor) -> torch.Tensor:
    """The partner's pixels inside the box, `[batch, height, width, channels]`; into a copy, where fastai overwrites."""
    y1, x1, y2, x2 = box
    pasted = x.clone()
    pasted[:, y1:y2, x1:x2] = x[partner, y1:y2, x1:x2]
    return pasted


def paste_by_mask(x: torch.Tensor, box: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """The same, with the box an int tensor `[4]`: a slice of numbers would be compiled anew for every box."""
    rows, columns = (torch.arange(side, device=x.device) for side in x.shape[1:3])
    inside = ((rows >= box[0]) & (rows < box[2]))[:, None] & ((columns >= box[1]) & (columns < box[3]))
    return torch.where(inside[None, :, :, None], x[partner], x)


def mixed(x: torch.Tensor, draw: Draw) -> torch.Tensor:
    """An array mixed as the draw says: pasted where it has a box."""
    return blend(x, draw.lam, draw.partner) if draw.box is None else paste(x, draw.box, draw.partner)


def mixed_forward(model: Any, image: torch.Tensor, draw: Draw | None, hooked: Any = None) -> torch.Tensor:
    """Logits of an image `[batch, channels, height, width]`; at a hidden layer by a hook, as ManifoldMixupV2 has it.

    Args:
      hooked: the module whose layers are hooked, if `model` is compiled of it.
    """
    if draw is None:
        return model(image)
    if draw.layer == "input":
        return model(mixed(image.permute(0, 2, 3, 1), draw).permute(0, 3, 1, 2))
    at_layer = (hooked or model).get_submodule(draw.layer)
    hook = at_layer.register_forward_hook(lambda module, args, output: blend(output, draw.lam, draw.partner))
    try:
        return model(image)
    finally:
        hook.remove()


def mixed_loss(logits: torch.Tensor, label: torch.Tensor, draw: Draw | None) -> torch.Tensor:
    if draw is None:
        return F.cross_entropy(logits, label)
    own, partners = (F.cross_entropy(logits, y, reduction="none") for y in (label, label[draw.partner]))
    return torch.lerp(partners, own, draw.lam.to(own.dtype)).mean()


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within it float32 products and convolutions may be of TF32, or may not; after it they may not."""
    try:
        _set_tf32(allowed)
        yield
    finally:
        _set_tf32(False)


def _set_tf32(allowed: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions would have it said otherwise; this all of them know
        # Not set_float32_matmul_precision, which is of CPUs too: what is compared with there stays as it is.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def compiled(function: Any, *, small: bool) -> Any:
    """`torch.compile`; in miniature without its code generator, which takes longer than all the rest."""
    torch._dynamo.reset()  # programs of other shapes count against a limit, and would make this one's shapes open
    return torch.compile(function, dynamic=False, backend="eager" if small else "inductor")


def numbers(x: Any) -> np.ndarray:
    """A tensor, or an array of JAX, as float32 on the host."""
    return x.detach().float().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, np.float32)

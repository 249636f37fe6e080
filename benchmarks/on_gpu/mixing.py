"""MixUp's and CutMix's arithmetic on whole batches, as a share of what a copy of the same batch moves a second.

A copy reads a batch and writes one. MixUp must read two, the sample and its partner, and write one; CutMix, of which
each pixel comes from one of the two, must read one and write one. What is counted is what must be moved, not what is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jax_mix
from benchmarks.on_gpu import torch_side
from benchmarks.on_gpu.child import Part
from benchmarks.on_gpu.clock import take_turns, torch_device

SHAPES = ((512, 32, 32, 3), (256, 224, 224, 3), (256, 56, 56, 64))
SMALL = ((4, 8, 8, 4),)
DTYPES = {"float32": (jnp.float32, torch.float32), "bfloat16": (jnp.bfloat16, torch.bfloat16)}
ARRAYS_MOVED = {"copy": 2, "MixUp": 3, "CutMix": 2}
_TURN = 0.02  # seconds: some hundred calls


def run(part: Part) -> None:
    # Largest first: what time is left out for is what the launch of a kernel takes, not what it moves.
    for shape in (SMALL if part.small else SHAPES)[::-1]:
        for dtype in DTYPES:
            with part.piece(f"{list(shape)} {dtype}"):
                part.need(15, "this shape")
                part.tell(f"{list(shape)} {dtype}", measured(part, shape, dtype))


def measured(part: Part, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """Of a copy, MixUp and CutMix: seconds of each alternative, bytes a second, and the share of the fastest copy's."""
    x, lam, partner, box = drawn(shape)
    size = x.nbytes // 4 * torch.empty(0, dtype=DTYPES[dtype][1]).element_size()
    found: dict[str, Any] = {"bytes": size}
    for name, alternatives in alternatives_of(part, x, lam, partner, box, dtype).items():
        same = {} if name == "copy" else check_same(name, alternatives)
        seconds = take_turns(alternatives, seconds=0.0 if part.small else _TURN, until=part.deadline)
        rates = {each: ARRAYS_MOVED[name] * size / of["median_s"] for each, of in seconds.items()}
        found[name] = {"seconds": seconds, "bytes_a_second": rates, **same}
    copied = max(found["copy"]["bytes_a_second"].values())
    for name in ("MixUp", "CutMix"):
        rates = found[name]["bytes_a_second"]
        found[name]["share_of_copy"] = {each: rate / copied for each, rate in rates.items()}
    return found


def drawn(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A batch with its draw: images in [0, 1), lambdas that bfloat16 holds, partners, and a box of a quarter."""
    rng = np.random.default_rng(0)
    lam = (rng.integers(128, 257, shape[0]) / 256).astype(np.float32)
    height, width = shape[1:3]
    box = np.array([height // 4, width // 4, height // 4 + height // 2, width // 4 + width // 2], np.int32)
    return rng.random(shape, np.float32), lam, rng.permutation(shape[0]).astype(np.int32), box


def alternatives_of(
    part: Part, x: np.ndarray, lam: np.ndarray, partner: np.ndarray, box: np.ndarray, dtype: str
) -> dict[str, dict[str, Callable[[], Any]]]:
    """For each operation, by name, what makes it of the batch: ours, and PyTorch's, eager and compiled."""
    of_jax, of_torch = DTYPES[dtype]
    device = torch_device()
    image = jnp.asarray(x, of_jax)
    tensor = torch.tensor(x, device=device).to(of_torch)
    partners = torch.tensor(partner, device=device).long()
    weights, corners = torch.tensor(lam, device=device), torch.tensor(box, device=device)
    mixup = jax_mix.Mix(jnp.asarray(lam), jnp.asarray(partner))
    cutmix = jax_mix.Mix.from_box(jnp.asarray(partner), jnp.asarray(box), x.shape[1:3])
    ours = jax.jit(lambda image, mix: mix.blend(image))
    copy = jax.jit(jnp.copy)
    four: Any = tuple(box.tolist())
    return {
        "copy": {"jax_mix": lambda: copy(image), "PyTorch": tensor.clone},
        "MixUp": {
            "jax_mix": lambda: ours(image, mixup),
            "PyTorch": lambda: torch_side.blend(tensor, weights, partners),
            **_compiled(part, torch_side.blend, tensor, weights, partners),
        },
        "CutMix": {
            "jax_mix": lambda: ours(image, cutmix),
            "PyTorch": lambda: torch_side.paste(tensor, four, partners),
            **_compiled(part, torch_side.paste_by_mask, tensor, corners, partners),
        },
    }


def _compiled(part: Part, function: Any, *arguments: Any) -> dict[str, Callable[[], Any]]:
    """It, if it can be compiled here: Triton needs a C compiler."""
    call = functools.partial(torch_side.compiled(function, small=part.small), *arguments)
    with part.piece(f"torch.compile, {function.__name__}, {list(arguments[0].shape)}, {arguments[0].dtype}"):
        call()
        return {"torch.compile": call}
    return {}


def check_same(name: str, alternatives: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """How far each alternative's output is from ours, in units in the last place of 1, the largest pixel.

    Raises:
      AssertionError: by more than one, which the order of three roundings can make; CutMix, that copies: at all.
    """
    outputs = {each: call() for each, call in alternatives.items()}
    dtypes = {str(output.dtype).removeprefix("torch.") for output in outputs.values()}
    (dtype,) = dtypes
    unit = float(jnp.finfo(dtype).eps)
    ours = torch_side.numbers(outputs["jax_mix"])
    apart = {
        each: float(np.max(np.abs(torch_side.numbers(output) - ours))) / unit
        for each, output in outputs.items()
        if each != "jax_mix"
    }
    allowed = 1 if name == "MixUp" else 0
    assert max(apart.values()) <= allowed, f"{name} is another one: units in the last place from ours: {apart}"
    return {"units_from_ours": apart}

"""A training step with convolutions on CPU: XLA's, and PyTorch's, eager and compiled, in its faster memory format.

    python -m benchmarks.convolution

Forward, backward and SGD of a pre-activation ResNet-18 of several widths on 32x32 images, without mixing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

from benchmarks.measuring import save, side_by_side, summary
from jax_mix.training.models import preact_resnet18
from torch_ref import models

ROUNDS = 15
SIZES = {16: 64, 32: 64, 64: 32}  # width: batch
XENT = optax.softmax_cross_entropy_with_integer_labels
OURS, COMPILED = "XLA's", "PyTorch's, torch.compile"


def main() -> None:
    results: dict[str, Any] = {}
    for width, batch in SIZES.items():
        image = np.random.default_rng(0).normal(size=(batch, 32, 32, 3)).astype(np.float32)
        label = np.arange(batch) % 10
        alternatives = {
            OURS: flax_step(width, image, label),
            "PyTorch's": torch_step(width, image, label),
            COMPILED: torch_step(width, image, label, compiled=True),
        }
        seconds = side_by_side(alternatives, rounds=ROUNDS)
        results[f"{width}, {batch}"] = {
            "step": {name: summary(times) for name, times in seconds.items()},
            "speed_relative_to_compiled": {
                name: float(np.median(seconds[COMPILED]) / np.median(times)) for name, times in seconds.items()
            },
        }
    what = "training step, preact_resnet18, 32x32x3, SGD, float32; PyTorch in channels_last"
    save("convolution", {"what": what, "widths_and_batches": results})


def flax_step(width: int, image: np.ndarray, label: np.ndarray) -> Callable[[], Any]:
    model = preact_resnet18(3, 10, width=width, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.01, momentum=0.9), wrt=nnx.Param)
    x, y = jnp.asarray(image), jnp.asarray(label)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> Any:
        loss, grads = nnx.value_and_grad(lambda model: XENT(model(x), y).mean())(model)
        optimizer.update(model, grads)
        return loss

    cached = nnx.cached_partial(step, model, optimizer)
    return lambda: (cached(), nnx.state(model))  # all of it is waited for


def torch_step(width: int, image: np.ndarray, label: np.ndarray, *, compiled: bool = False) -> Callable[[], Any]:
    model = models.PreActResNet(3, 10, blocks=(2, 2, 2, 2), width=width).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x = torch.tensor(np.moveaxis(image, -1, 1)).contiguous(memory_format=torch.channels_last)
    y = torch.tensor(label)
    call = torch.compile(model) if compiled else model

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(call(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def table(result: dict[str, Any]) -> str:
    """Milliseconds of a step, and XLA's speed as a part of compiled PyTorch's."""
    found = result["widths_and_batches"]
    names = list(next(iter(found.values()))["step"])
    lines = [f"| width, batch | {', ms | '.join(names)}, ms | XLA's speed |", "|---" * (len(names) + 2) + "|"]
    for size, of in found.items():
        ms = [f"{1e3 * of['step'][name]['median_s']:.0f}" for name in names]
        lines.append(f"| {size} | {' | '.join(ms)} | {of['speed_relative_to_compiled'][OURS]:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""A training step on CPU: our convolution's filter gradient, XLA's own, and PyTorch in its faster memory format.

    python -m benchmarks.convolution

Forward, backward and SGD of a pre-activation ResNet-18 of several widths on 32x32 images. On other devices our
convolution is XLA's, and there is nothing to compare.
"""

from __future__ import annotations

import jax
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


def main() -> None:
    results = {}
    for width, batch in SIZES.items():
        image = np.random.default_rng(0).normal(size=(batch, 32, 32, 3)).astype(np.float32)
        label = np.arange(batch) % 10
        alternatives = {
            "ours": flax_step(width, image, label),
            "XLA's": flax_step(width, image, label, plain=True),
            "PyTorch": torch_step(width, image, label),
        }
        seconds = side_by_side(alternatives, rounds=ROUNDS)
        of_torch = np.median(seconds["PyTorch"])
        results[f"width {width}, batch {batch}"] = {
            "step": {name: summary(times) for name, times in seconds.items()},
            "speed_relative_to_pytorch": {name: float(of_torch / np.median(t)) for name, t in seconds.items()},
        }
    save("convolution", {"what": "training step, preact_resnet18, 32x32x3, SGD; PyTorch in channels_last", **results})


def flax_step(width: int, image: np.ndarray, label: np.ndarray, *, plain: bool = False):
    model = preact_resnet18(3, 10, width=width, rngs=nnx.Rngs(0))
    if plain:
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.Conv):
                module.conv_general_dilated = jax.lax.conv_general_dilated
    optimizer = nnx.Optimizer(model, optax.sgd(0.01, momentum=0.9), wrt=nnx.Param)
    image, label = jnp.asarray(image), jnp.asarray(label)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: XENT(model(image), label).mean())(model)
        optimizer.update(model, grads)
        return loss

    cached = nnx.cached_partial(step, model, optimizer)
    return lambda: (cached(), nnx.state(model))  # all of it is waited for


def torch_step(width: int, image: np.ndarray, label: np.ndarray):
    model = models.PreActResNet(3, 10, blocks=(2, 2, 2, 2), width=width).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x = torch.tensor(np.moveaxis(image, -1, 1)).contiguous(memory_format=torch.channels_last)
    y = torch.tensor(label)

    def step():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()

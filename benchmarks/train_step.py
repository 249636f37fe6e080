"""A training step with each method over the same step without it; ours, and timm's loop, fastai and hooks beside it.

    python -m benchmarks.train_step

Forward, backward and SGD of a pre-activation ResNet-18 of width 16 on 64 images of 32x32x3, on CPU, float32, the batch
in memory. Each side is compared with its own step without mixing, turn by turn, so that it is the cost of mixing that
is compared and not the two libraries' convolutions. Theirs: a loop as timm's, with `timm.data.Mixup` and soft targets;
fastai's Learner with its own MixUp and CutMix and, as it has no Manifold Mixup, torch_ref's callback, which is equal to
ManifoldMixupV2's bit for bit; and plain PyTorch, mixed by hand as the authors' code does: the input, or, by a forward
hook, a layer's output. One untimed step before each that is timed. The target is at most 1.02 for ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import torch
from fastai.callback import mixup as fastai
from fastai.losses import CrossEntropyLossFlat
from flax import nnx
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy

import jax_mix
from benchmarks.measuring import keys_in_turn, quartiles, ratio, save, side_by_side, summary, target
from jax_mix.training.models import PreActResNet
from torch_ref import fitting, models
from torch_ref.manifold_mixup import ManifoldMixup

ROUNDS, AT_MOST = 40, 1.02
FIT = 4  # steps of a fit of fastai's, which does more than its steps, once, with mixing and without
LAYERS = ("layer1", "layer2")
NONE = "none"
XENT = optax.softmax_cross_entropy_with_integer_labels
METHODS = {
    NONE: None,
    "MixUp": jax_mix.MixUp(0.4),
    "CutMix": jax_mix.CutMix(1.0),
    "Manifold Mixup": jax_mix.ManifoldMixup(2.0, layers=LAYERS),
    "OneOf MixUp and CutMix": jax_mix.OneOf(jax_mix.MixUp(0.8), jax_mix.CutMix(1.0)),
}


class Size(NamedTuple):
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 16
    batch: int = 64
    image: int = 32
    classes: int = 10

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        image = rng.normal(size=(self.batch, self.image, self.image, 3)).astype(np.float32)
        return image, rng.integers(0, self.classes, self.batch)

    def flax(self) -> Any:
        return PreActResNet(3, self.classes, blocks=self.blocks, width=self.width, rngs=nnx.Rngs(0))

    def torch(self) -> Any:
        torch.manual_seed(0)
        return models.PreActResNet(3, self.classes, blocks=self.blocks, width=self.width)


def main() -> None:
    size = Size()
    what = (
        f"training step, PreActResNet {size.blocks} of width {size.width}, {size.batch} images of {size.image} pixels"
    )
    save("train_step", {"what": f"{what}, SGD with momentum, float32", **measure(size, ROUNDS)})


def measure(size: Size, rounds: int) -> dict[str, Any]:
    sides = {"jax_mix": ours(size), "timm": timms(size), "fastai": fastais(size), "hooks": by_hooks(size)}
    runs = {f"{side}: {name}": run for side, of in sides.items() for name, run in of.items()}
    seconds = side_by_side(runs, rounds=rounds, settle=True)
    for name in sides["fastai"]:
        seconds[f"fastai: {name}"] = [each / FIT for each in seconds[f"fastai: {name}"]]
    to_none = {
        side: {name: ratio(seconds[f"{side}: {name}"], seconds[f"{side}: {NONE}"]) for name in of if name != NONE}
        for side, of in sides.items()
    }
    return {
        "seconds": {
            side: {name: summary(seconds[f"{side}: {name}"]) for name in of} for side, of in sides.items()
        },
        "to_the_step_without": to_none,
        "targets": [
            target(f"step with {name} over the step without", of["median"], at_most=AT_MOST,
                   reason=f"quartiles {of['first_quartile']:.3f} to {of['third_quartile']:.3f}; "
                   f"mixing adds {added(seconds, name):.2g} ms to {ms(seconds, NONE):.3g}")
            for name, of in to_none["jax_mix"].items()
        ],
    }  # fmt: skip


def ms(seconds: dict[str, list[float]], name: str) -> float:
    return 1e3 * quartiles(seconds[f"jax_mix: {name}"])["median"]


def added(seconds: dict[str, list[float]], name: str) -> float:
    return ms(seconds, name) - ms(seconds, NONE)


def ours(size: Size) -> dict[str, Callable[[], Any]]:
    image, label = map(jnp.asarray, size.data())
    start = size.flax()

    def step_of(method: Any) -> Callable[[], Any]:
        model = nnx.clone(start)
        optimizer = nnx.Optimizer(model, optax.sgd(0.01, momentum=0.9), wrt=nnx.Param)
        keys = keys_in_turn()

        @nnx.jit
        def step(model: Any, optimizer: Any, key: Any) -> Any:
            mix = None if method is None else method.sample(key, image.shape)

            def loss_fn(model: Any) -> Any:
                return jax_mix.mixed_loss(XENT, jax_mix.forward(model, image, mix), label, mix).mean()

            loss, grads = nnx.value_and_grad(loss_fn)(model)
            optimizer.update(model, grads)
            return loss

        cached = nnx.cached_partial(step, model, optimizer)
        return lambda: (cached(next(keys)), nnx.state(model))  # all of it is waited for

    return {name: step_of(method) for name, method in METHODS.items()}


def in_torch(size: Size, loss_of: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[], Any]:
    """A plain loop's step, of which `loss_of` makes the loss from the model, the images and the labels."""
    image, label = torch_data(size)
    model = size.torch()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(model, image.clone(), label)  # timm and the authors' CutMix write into their batch
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_data(size: Size) -> tuple[torch.Tensor, torch.Tensor]:
    image, label = size.data()
    return torch.tensor(np.moveaxis(image, -1, 1).copy()), torch.tensor(label)


def plain(model: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(image), label)


def timms(size: Size) -> dict[str, Callable[[], Any]]:
    def mixed(**alphas: float) -> Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]:
        mixup, soft = Mixup(**alphas, label_smoothing=0.0, num_classes=size.classes), SoftTargetCrossEntropy()

        def loss(model: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            image, target = mixup(image, label)
            return soft(model(image), target)

        return loss

    return {
        NONE: in_torch(size, plain),
        "MixUp": in_torch(size, mixed(mixup_alpha=0.4)),
        "CutMix": in_torch(size, mixed(mixup_alpha=0.0, cutmix_alpha=1.0)),
        "OneOf MixUp and CutMix": in_torch(size, mixed(mixup_alpha=0.8, cutmix_alpha=1.0)),
    }


def fastais(size: Size) -> dict[str, Callable[[], Any]]:
    def fit_of(make: Callable[[], Any]) -> Callable[[], Any]:
        learner = fitting.learner(size.torch(), CrossEntropyLossFlat(), [torch_data(size)] * FIT, learning_rate=0.01)
        cbs = make()
        return lambda: learner.fit(1, cbs=cbs)

    return {
        NONE: fit_of(list),
        "MixUp": fit_of(lambda: [fastai.MixUp(0.4)]),
        "CutMix": fit_of(lambda: [fastai.CutMix(1.0)]),
        "Manifold Mixup": fit_of(lambda: [ManifoldMixup(2.0, layers=LAYERS)]),
    }


def by_hooks(size: Size) -> dict[str, Callable[[], Any]]:
    """The authors' forms: one lambda a batch, and two losses."""

    def two_losses(logits: Any, label: torch.Tensor, partner: torch.Tensor, lam: float) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy
        return lam * loss(logits, label) + (1 - lam) * loss(logits, label[partner])

    def mixed_up(model: Any, image: torch.Tensor, label: torch.Tensor, alpha: float = 0.4) -> torch.Tensor:
        lam, partner = np.random.beta(alpha, alpha), torch.randperm(len(image))  # noqa: NPY002 - as they draw
        return two_losses(model(lam * image + (1 - lam) * image[partner]), label, partner, lam)

    def hidden(model: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        layer = np.random.randint(len(LAYERS) + 1)  # noqa: NPY002
        if layer == 0:
            return mixed_up(model, image, label, 2.0)
        lam, partner = np.random.beta(2.0, 2.0), torch.randperm(len(image))  # noqa: NPY002
        module = model.get_submodule(LAYERS[layer - 1])
        hook = module.register_forward_hook(lambda module, args, out: lam * out + (1 - lam) * out[partner])
        logits = model(image)
        hook.remove()
        return two_losses(logits, label, partner, lam)

    return {
        NONE: in_torch(size, plain),
        "MixUp": in_torch(size, mixed_up),
        "Manifold Mixup": in_torch(size, hidden),
    }


def table(result: dict[str, Any]) -> str:
    """The step with each method as a multiple of the step without, on each side."""
    to_none, seconds = result["to_the_step_without"], result["seconds"]
    lines = ["| over the step without | " + " | ".join(to_none) + " |", "|---" * (len(to_none) + 1) + "|"]
    for method in to_none["jax_mix"]:
        cells = [f"{of[method]['median']:.3f}" if method in of else "" for of in to_none.values()]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    none = [f"{1e3 * seconds[side][NONE]['median_s']:.0f} ms" for side in to_none]
    lines.append(f"| the step without | {' | '.join(none)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

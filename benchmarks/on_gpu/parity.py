"""The parity ladder's rungs that need no fastai, on the device: the same draws, weights and images on both sides.

In float32 without shortcuts, in TF32, and in bfloat16, on both sides. Two accelerators' libraries never sum in the same
order, so each distance stands beside a yardstick: how far PyTorch on this device is from PyTorch in float32 on the CPU.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

import jax_mix
from benchmarks.on_gpu import torch_side
from benchmarks.on_gpu.child import LeftOut, Part
from benchmarks.on_gpu.clock import torch_device
from benchmarks.on_gpu.torch_side import Draw
from jax_mix.training import models
from jax_mix.training.step import apply_gradients, loss_and_gradients
from torch_ref import convert
from torch_ref import models as twins

CLASSES, RATE, MOMENTUM = 10, 0.05, 0.9
METHODS = ("MixUp", "CutMix", "Manifold Mixup")
PRECISIONS = ("float32", "bfloat16", "TF32")
_ROUNDING = 2.0**-24
_JAX_PRECISION = {"float32": "highest", "bfloat16": "default", "TF32": "tensorfloat32"}


class Twins(NamedTuple):
    """A network on both sides, and a layer of it that is mixed."""

    theirs: Callable[[], torch.nn.Module]
    ours: Callable[[nnx.Rngs], nnx.Module]
    layer: str


def networks(small: bool) -> dict[str, Twins]:
    if small:
        net = {"blocks": (1,), "width": 4}
        vit = {"image_size": (8, 8), "patch_size": 4, "width": 8, "depth": 1, "heads": 2}
    else:
        net = {"blocks": (1, 1, 1), "width": 32}
        vit = {"image_size": (32, 32), "patch_size": 4, "width": 96, "depth": 4, "heads": 4}
    return {
        "PreActResNet": Twins(
            lambda: twins.PreActResNet(3, CLASSES, **net),
            lambda rngs: models.PreActResNet(3, CLASSES, **net, rngs=rngs),
            "layer1",
        ),
        "ViT": Twins(
            lambda: twins.ViT(3, CLASSES, **vit), lambda rngs: models.ViT(3, CLASSES, **vit, rngs=rngs), "blocks.0"
        ),
    }


def run(part: Part) -> None:
    for precision in PRECISIONS:
        with part.piece(precision), of(precision):
            if precision == "TF32" and torch_device().type == "cpu":
                raise LeftOut("a CPU has no TF32")
            part.need(15, "this precision")
            part.tell(f"{precision}, arrays", arrays(part, precision))
            for name, pair in networks(part.small).items():
                if part.small and (name == "ViT") != (precision == "bfloat16"):
                    continue  # a miniature runs each network once
                part.need(15, f"{name} in this precision")
                methods = METHODS[:1] if name == "ViT" else METHODS[2:] if part.small else METHODS
                part.tell(f"{precision}, {name}", network(part, pair, precision, methods))


@contextlib.contextmanager
def of(precision: str) -> Iterator[None]:
    """Within it both compute in this precision; bfloat16 is asked for where a network is called."""
    with jax.default_matmul_precision(_JAX_PRECISION[precision]), torch_side.tf32(precision == "TF32"):
        yield


def draw_for(method: str, n: int, size: tuple[int, int], layer: str) -> tuple[jax_mix.Mix, Draw]:
    """The same draw for both sides, on the CPU; lambdas are numbers that bfloat16 holds."""
    rng = np.random.default_rng(METHODS.index(method))
    partner, lam = rng.permutation(n), (rng.integers(128, 257, n) / 256).astype(np.float32)
    partners = torch.tensor(partner)
    if method == "CutMix":
        box = (1, 2, 1 + size[0] // 2, size[1])
        mix = jax_mix.Mix.from_box(partner.astype(np.int32), np.array(box, np.int32), size)
        return mix, Draw(torch.tensor(np.asarray(mix.lam)), partners, box)
    layer = layer if method == "Manifold Mixup" else "input"
    mix = jax_mix.Mix(jnp.asarray(lam), jnp.asarray(partner.astype(np.int32)), layer=layer)
    return mix, Draw(torch.tensor(lam), partners, None, layer)


def to(device: torch.device, draw: Draw) -> Draw:
    return draw._replace(lam=draw.lam.to(device), partner=draw.partner.to(device))


def apart(ours: Any, here: Any, on_cpu: Any) -> dict[str, float | None]:
    """Largest differences, as parts of the largest number: of us from PyTorch, and of PyTorch here from on the CPU.

    "times_yardstick" is the first over the second, of which one rounding of float32 is the least; None on a CPU, where
    PyTorch is not to be compared with itself.
    """
    ours, here, on_cpu = (np.concatenate([a.ravel() for a in arrays]) for arrays in (ours, here, on_cpu))
    largest = float(np.abs(on_cpu).max())
    found, yardstick = (float(np.abs(a - b).max()) / largest for a, b in ((ours, here), (here, on_cpu)))
    times = None if torch_device().type == "cpu" else found / max(yardstick, _ROUNDING)
    return {"from_torch": found, "yardstick": yardstick, "times_yardstick": times}


def arrays(part: Part, precision: str) -> dict[str, Any]:
    """MixUp and CutMix of images, and MixUp of a hidden state."""
    shapes = {"MixUp": (32, 32, 32, 3), "CutMix": (32, 32, 32, 3), "Manifold Mixup": (32, 16, 16, 64)}
    of_jax, of_torch = (jnp.bfloat16, torch.bfloat16) if precision == "bfloat16" else (jnp.float32, torch.float32)
    found = {}
    for method, shape in shapes.items():
        shape = (8, 8, 8, 3) if part.small else shape
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        mix, draw = draw_for(method, shape[0], shape[1:3], "input")
        ours = jax.jit(lambda mix, x: mix.blend(x))(mix, jnp.asarray(x, of_jax))
        here = torch_side.mixed(torch.tensor(x).to(torch_device(), of_torch), to(torch_device(), draw))
        on_cpu = torch_side.mixed(torch.tensor(x), draw)
        found[method] = apart(*([torch_side.numbers(a)] for a in (ours, here, on_cpu)))
    return found


def network(part: Part, pair: Twins, precision: str, methods: tuple[str, ...]) -> dict[str, Any]:
    """Logits in training, then for each method a step's loss, gradients and weights, and the losses of some steps."""
    torch.manual_seed(0)
    on_cpu, bfloat16 = pair.theirs(), precision == "bfloat16"
    n, side, steps = (4, 8, 2) if part.small else (32, 32, 10)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(n, side, side, 3)).astype(np.float32)
    label = rng.integers(CLASSES, size=n).astype(np.int32)

    def ours() -> nnx.Module:
        model = nnx.eval_shape(lambda: pair.ours(nnx.Rngs(0)))
        convert.copy_to_flax(on_cpu, model)
        if bfloat16:
            models.set_dtype(model, jnp.bfloat16)
        model.train()
        return model

    found: dict[str, Any] = {}
    for method in methods:
        mix, draw = draw_for(method, n, (side, side), pair.layer)
        mine = Ours(ours(), jnp.asarray(image), jnp.asarray(label), mix)
        sides = (
            mine,
            Theirs(copy.deepcopy(on_cpu).to(torch_device()), image, label, to(torch_device(), draw), bfloat16),
            Theirs(copy.deepcopy(on_cpu), image, label, draw, False),
        )
        made: dict[str, Any] = {}
        if method == methods[0]:
            made["logits"] = apart(*([side.logits()] for side in sides))
        first = [side.step() for side in sides]
        made["loss of a step"] = apart(*([np.array([loss])] for loss, _ in first))
        made["gradients of a step"] = apart(*(_in_order(grads) for _, grads in first))
        made["weights after it"] = apart(*(_in_order(side.weights()) for side in sides))
        losses = [[np.array([side.step()[0] for _ in range(steps)])] for side in sides]
        made[f"losses of the next {steps} steps"] = apart(*losses)
        found[method] = made
    return found


def _in_order(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(arrays[name], np.float32) for name in sorted(arrays)]


class Ours:
    """jax_mix's side: the step of `jax_mix.training`, with the draw given."""

    def __init__(self, model: nnx.Module, image: Any, label: Any, mix: jax_mix.Mix) -> None:
        self.model, self.given = model, (image, label, mix)
        self.optimizer = nnx.Optimizer(model, optax.sgd(RATE, momentum=MOMENTUM), wrt=nnx.Param)
        self.graphdef, self.start = nnx.split((model, self.optimizer))

        @jax.jit
        def step(state: Any, image: Any, label: Any, mix: Any) -> Any:
            model, optimizer = nnx.merge(self.graphdef, state)
            measured, grads = loss_and_gradients(model, image, label, mix)
            apply_gradients(model, optimizer, grads)
            return nnx.state((model, optimizer)), measured.loss, grads

        self._step, self._state = step, self.start

    def logits(self) -> np.ndarray:
        """In training, without a trace in the model: its statistics' new values are dropped."""

        def forward(state: Any, image: Any, mix: Any) -> Any:
            return jax_mix.forward(nnx.merge(self.graphdef, state)[0], image, mix)

        image, _, mix = self.given
        return torch_side.numbers(jax.jit(forward)(self.start, image, mix))

    def step(self) -> tuple[float, dict[str, np.ndarray]]:
        self._state, loss, grads = self._step(self._state, *self.given)
        return float(loss), convert.flax_arrays(grads)

    def weights(self) -> dict[str, np.ndarray]:
        return convert.flax_arrays(nnx.state(nnx.merge(self.graphdef, self._state)[0], nnx.Param))


class Theirs:
    """PyTorch's side, on a device: forward and backward by autocast in bfloat16 if so asked, and SGD."""

    def __init__(
        self, model: torch.nn.Module, image: np.ndarray, label: np.ndarray, draw: Draw, bfloat16: bool
    ) -> None:
        self.model, self.draw, self.bfloat16 = model.train(), draw, bfloat16
        self.device = draw.lam.device
        self.image = torch.tensor(np.moveaxis(image, -1, 1)).contiguous(memory_format=torch.channels_last)
        self.image, self.label = self.image.to(self.device), torch.tensor(label).long().to(self.device)
        self.optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM)

    def _forward(self, model: torch.nn.Module) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return torch_side.mixed_forward(model, self.image, self.draw)

    def logits(self) -> np.ndarray:
        with torch.no_grad():
            return torch_side.numbers(self._forward(copy.deepcopy(self.model)))

    def step(self) -> tuple[float, dict[str, np.ndarray]]:
        self.optimizer.zero_grad()
        loss = torch_side.mixed_loss(self._forward(self.model).float(), self.label, self.draw)
        loss.backward()
        grads = {name: torch_side.numbers(p.grad) for name, p in self.model.named_parameters()}
        self.optimizer.step()
        return loss.item(), convert.flax_from_torch(grads)

    def weights(self) -> dict[str, np.ndarray]:
        return convert.flax_from_torch({name: torch_side.numbers(p) for name, p in self.model.named_parameters()})

"""Training steps in bfloat16, ours and PyTorch's: images a second, memory, and what each method costs.

Ours is the step of `python train.py --dtype bfloat16`. PyTorch's is the loop that fastai runs, written out: forward
under autocast, loss, backward, optimizer, in channels_last; eager, and with the network compiled. Images are random
float32 numbers that lie on the device. PyTorch's optimizers are its fused ones, which are faster than fastai's.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import timm
import torch
import torchvision
from flax import nnx

import jax_mix
from benchmarks.on_gpu import torch_side
from benchmarks.on_gpu.child import LeftOut, Part, largest_batch
from benchmarks.on_gpu.clock import take_turns, torch_device
from benchmarks.on_gpu.hardware import peak
from jax_mix.training import data, models
from jax_mix.training.build import make_learner
from jax_mix.training.config import Config
from jax_mix.training.step import Recipe, pure_step
from torch_ref import models as twins

BATCHES, SMALL_BATCHES = (128, 64, 32), (4,)
ALPHAS = {"none": 0.0, "mixup": 0.4, "cutmix": 1.0, "manifold": 0.4}
_BATCH_NORM = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4}
_ADAM_W = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05}


class Network(NamedTuple):
    """A network on both sides, as it is and in miniature.

    Attributes:
      ours, theirs: make it, given whether in miniature.
      layers: those that Manifold Mixup draws, beside the input, by the names of both; and the one of the miniature.
      flags: of its training.
      flops: of a forward pass of one image of 224 pixels: twice the products that torchvision and timm publish. XLA's
        own count is not to be had on GPUs before it has put its own kernels in their place.
    """

    ours: Callable[[bool], nnx.Module]
    theirs: Callable[[bool], torch.nn.Module]
    layers: dict[bool, tuple[str, ...]]
    flags: dict[str, Any]
    flops: float


def _classes(small: bool) -> int:
    return 10 if small else 1000


def _side(small: bool) -> int:
    return 16 if small else 224


def _our_resnet(name: str, small: bool) -> nnx.Module:
    if small:
        return models.MLP(3, 10, image_size=(16, 16), hidden=(8,), rngs=nnx.Rngs(0))  # compiled in a third of the time
    return getattr(models, name)(3, 1000, rngs=nnx.Rngs(0))


def _their_resnet(name: str, small: bool) -> torch.nn.Module:
    if small:
        return twins.MLP(3, 10, image_size=(16, 16), hidden=(8,))
    return getattr(torchvision.models, name)(weights=None, num_classes=1000)


def _our_vit(small: bool) -> nnx.Module:
    side = (_side(small), _side(small))
    if small:
        return models.ViT(3, 10, image_size=side, patch_size=8, width=16, depth=1, heads=2, timm=True, rngs=nnx.Rngs(0))
    return models.vit_small_patch16_224(3, 1000, image_size=side, rngs=nnx.Rngs(0))


def _their_vit(small: bool) -> torch.nn.Module:
    if small:
        return timm.models.VisionTransformer(
            img_size=_side(small), patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=10
        )
    return timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=1000)


_STAGES = {False: ("layer1", "layer2"), True: ("hidden.0",)}
_BLOCKS = {False: ("blocks.0", "blocks.1"), True: ("blocks.0",)}
NETWORKS = {
    name: Network(
        functools.partial(_our_resnet, name), functools.partial(_their_resnet, name), _STAGES, _BATCH_NORM, flops
    )
    for name, flops in (("resnet18", 3.63e9), ("resnet50", 8.18e9))
} | {"vit_small_patch16_224": Network(_our_vit, _their_vit, _BLOCKS, _ADAM_W, 9.22e9)}


def _turn(part: Part) -> float:
    """Seconds that a turn lasts."""
    return 0.0 if part.small else 0.3


def _need_miniature(name: str, part: Part, without: tuple[str, ...]) -> None:
    if part.small and name in without:
        raise LeftOut("in miniature resnet18 stands for it")


class Speed:
    """The part in which a network is trained without mixing: images a second, utilisation and memory."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, part: Part) -> None:
        _need_miniature(self.name, part, ("resnet50",))
        largest_batch(part, SMALL_BATCHES if part.small else BATCHES, functools.partial(self._measure, part))

    def _measure(self, part: Part, batch: int) -> None:
        torch.cuda.empty_cache()  # of a larger batch, which did not fit
        sides: dict[str, Any] = {"jax_mix": Ours(self.name, batch, "none", part.small)}
        part.tell("memory, jax_mix", sides["jax_mix"].memory())
        # Timed twice, the first time in few rounds: for the compilation, which takes longest, there may be no time.
        for title, compiled in (("PyTorch", False), ("torch.compile", True)):
            with part.piece(f"memory, {title}"):
                part.need(25 if compiled else 0, title)
                theirs = Theirs(self.name, batch, compiled, part.small)
                part.tell(f"memory, {title}", theirs.memory("none"))
                sides[title] = theirs
                counts = {each: side.parameters for each, side in sides.items()}
                assert len(set(counts.values())) == 1, f"these are other networks: they have {counts} parameters"
                steps = {each: side.step for each, side in sides.items()}
                until = part.deadline if compiled else 0.0
                seconds = take_turns(steps, seconds=_turn(part), until=until)
                part.tell("step", {"batch": batch, "seconds": seconds, "parameters": counts["jax_mix"]})
                rates = {each: batch / of["median_s"] for each, of in seconds.items()}
                part.tell("images_a_second", rates)
                flops, kind = NETWORKS[self.name].flops, jax.devices()[0].device_kind
                used = {each: None if part.small else utilisation(flops, rate, kind) for each, rate in rates.items()}
                part.tell("utilisation", used)


class Overhead:
    """The part in which a network's step with each method is timed beside the step without, on both sides."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, part: Part) -> None:
        _need_miniature(self.name, part, ("resnet50", "vit_small_patch16_224"))
        largest_batch(part, SMALL_BATCHES if part.small else BATCHES, functools.partial(self._measure, part))

    def _measure(self, part: Part, batch: int) -> None:
        torch.cuda.empty_cache()
        theirs = Theirs(self.name, batch, False, part.small)
        steps: dict[str, Any] = {}
        for method in ALPHAS:
            with part.piece(f"memory, {method}"):
                part.need(20, method)
                ours = Ours(self.name, batch, method, part.small)
                part.tell(f"memory, {method}", {"jax_mix": ours.memory(), "PyTorch": theirs.memory(method)})
                steps |= {
                    f"jax_mix, {method}": ours.step,
                    f"PyTorch, {method}": functools.partial(theirs.step, method),
                }
        seconds = take_turns(steps, seconds=_turn(part), until=part.deadline)
        part.tell("step", {"batch": batch, "seconds": seconds})


def method_of(name: str, network: Network, small: bool) -> Any:
    alpha = ALPHAS[name]
    if name == "manifold":
        return jax_mix.ManifoldMixup(alpha, layers=network.layers[small])
    return {"none": None, "mixup": jax_mix.MixUp(alpha or 1.0), "cutmix": jax_mix.CutMix(alpha or 1.0)}[name]


class Ours:
    """The compiled step of `train.py`, with its learner."""

    def __init__(self, name: str, batch: int, method: str, small: bool) -> None:
        network, side = NETWORKS[name], _side(small)
        model = nnx.jit(lambda: network.ours(small))()  # in one program: its arrays one by one are hundreds
        models.set_dtype(model, jnp.bfloat16)
        model.train()
        self.parameters = sum(a.size for a in jax.tree.leaves(nnx.state(model, nnx.Param)))
        learner = make_learner(Config(schedule="constant", **network.flags), model, steps=10_000)
        graphdef, self._state = nnx.split(learner)
        recipe = Recipe(method_of(method, network, small), augment="none")
        self._key, self._done = jax.random.key(0), 0
        image = jax.random.normal(jax.random.key(1), (batch, side, side, 3))
        label = jax.random.randint(jax.random.key(2), (batch,), 0, _classes(small))
        self._batch = data.Examples(image, label)
        self._normalize = data.Normalize(jnp.zeros(3), jnp.ones(3))
        given = self._state, self._key, self._batch, self._normalize
        self._compiled = pure_step.lower(graphdef, *given, recipe).compile()

    def step(self) -> Any:
        key = jax.random.fold_in(self._key, self._done)
        self._done += 1
        self._state, measured = self._compiled(self._state, key, self._batch, self._normalize)
        return measured

    def memory(self) -> dict[str, Any]:
        """Bytes: what the program needs while it runs; and the most that was in use so far, the compiler's trials too.

        The second is of the whole process, whose allocator keeps it: it only grows.
        """
        for _ in range(2):
            jax.block_until_ready(self.step())
        found: dict[str, Any] = {"in_use": None, "program": None}
        if analysis := self._compiled.memory_analysis():
            kept = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
            found["program"] = kept + analysis.temp_size_in_bytes
        found["in_use"] = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return found


class Theirs:
    """The loop that fastai runs: forward under autocast, loss, backward, optimizer, mixing as its callbacks do."""

    def __init__(self, name: str, batch: int, compiled: bool, small: bool) -> None:
        network, side, self.device = NETWORKS[name], _side(small), torch_device()
        torch.backends.cudnn.benchmark = True
        gc.collect()
        self._before = self._allocated()
        torch.manual_seed(0)
        self.model = network.theirs(small).to(self.device, memory_format=torch.channels_last).train()
        self.called = torch_side.compiled(self.model, small=small) if compiled else self.model
        self.parameters = sum(p.numel() for p in self.model.parameters())
        rate, decay = network.flags["learning_rate"], network.flags["weight_decay"]
        if network.flags["optimizer"] == "sgd":
            self.optimizer: Any = torch.optim.SGD(
                self.model.parameters(), rate, momentum=0.9, weight_decay=decay, fused=True
            )
        else:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), rate, weight_decay=decay, fused=True)
        image = torch.randn(batch, 3, side, side, device=self.device)
        self.image = image.contiguous(memory_format=torch.channels_last)
        self.label = torch.randint(_classes(small), (batch,), device=self.device)
        self.drawings = {m: torch_side.Drawing(m, a, network.layers[small]) for m, a in ALPHAS.items() if m != "none"}

    def step(self, method: str = "none") -> Any:
        draw = None
        if method != "none":
            draw = self.drawings[method](len(self.image), self.image.shape[2:], self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = torch_side.mixed_forward(self.called, self.image, draw)
            loss = torch_side.mixed_loss(logits, self.label, draw)
        loss.backward()
        self.optimizer.step()

    def memory(self, method: str) -> dict[str, Any]:
        """Bytes: the most that its tensors took at once; what other networks had before it was made not counted."""
        for _ in range(3):  # to choose its algorithms, whose tries take memory of their own
            self.step(method)
        if self.device.type == "cpu":
            return {"in_use": None}
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self.step(method)
        torch.cuda.synchronize()
        return {"in_use": torch.cuda.max_memory_allocated() - self._before}

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0


def utilisation(flops_an_image: float, images_a_second: float, kind: str) -> float | None:
    """Of the device's peak, what the model's own operations take: three forward passes a step, by convention."""
    most = peak(kind)
    return None if most is None else 3 * flops_an_image * images_a_second / most

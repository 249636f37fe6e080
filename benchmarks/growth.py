"""How time grows with batch, image size, classes, layers and simulated devices 1 to 8.

    python -m benchmarks.growth

On CPU: "mixing" is MixUp's draw, blend and loss alone, jitted; "step" is a training step, with Manifold Mixup, of a
small pre-activation ResNet; "layers" are those among which one is drawn, of a network of eight blocks; "compiling" is
tracing, lowering and compiling that step, in seconds of this process's CPU time. A line through the logarithms has the
exponent that each grows with: 1 is linear, and less is better. Devices are simulated on the cores that there are, each
number of them in a process of its own, and each device has the same batch, so that all have that many times the work.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jax_mix
from benchmarks.measuring import exponent, in_a_process, in_ms, keys_in_turn, save, side_by_side, summary, target
from jax_mix.training import devices
from jax_mix.training.models import PreActResNet

ROUNDS, AT_MOST = 9, 1.05
BATCHES, SIDES = (32, 64, 128, 256), (16, 32, 64, 128)
CLASSES, LAYERS, DEVICES = (10, 100, 1000, 10_000), (1, 2, 4, 8), (1, 2, 4, 8)
XENT = optax.softmax_cross_entropy_with_integer_labels


def in_words(curve: dict[str, Any]) -> str:
    ms = ", ".join(
        f"{size:,}: {in_ms(seconds)} ms" for size, seconds in zip(curve["sizes"], curve["medians"], strict=True)
    )
    return f"at {ms}"


def main() -> None:
    found = measure(BATCHES, SIDES, CLASSES, LAYERS, DEVICES, ROUNDS)
    save(
        "growth",
        {
            "what": "MixUp alone, and Manifold Mixup in a step, float32; seconds, and the exponent they grow with",
            **found,
        },
    )


def measure(
    batches: Sequence[int],
    sides: Sequence[int],
    classes: Sequence[int],
    layers: Sequence[int],
    device_counts: Sequence[int],
    rounds: int,
) -> dict[str, Any]:
    curves = {
        "mixing, by batch": of_sizes(batches, rounds, lambda n: mixing(n, 32, 100)),
        "mixing, by pixels": of_sizes(sides, rounds, lambda side: mixing(64, side, 100), size=lambda side: side**2),
        "mixing, by classes": of_sizes(classes, rounds, lambda k: mixing(256, 8, k)),
        "step, by batch": of_sizes(batches, rounds, lambda n: step(n, 32)),
        "step, by pixels": of_sizes(sides, rounds, lambda side: step(16, side), size=lambda side: side**2),
        "step, by layers": of_sizes(layers, rounds, lambda n: step(32, 16, n)),
        "compiling, by layers": curve(layers, compiling(layers, max(rounds // 3, 2))),
        "step, by devices": of_devices(device_counts, rounds),
    }
    targets = [
        target(f"exponent of {name}", each["exponent"], at_most=AT_MOST, reason=in_words(each))
        for name, each in curves.items()
    ]
    return {"curves": curves, "targets": targets}


def of_sizes(
    sizes: Sequence[int], rounds: int, make: Callable[[int], Callable[[], Any]], size: Callable[[int], int] = int
) -> dict[str, Any]:
    seconds = side_by_side({str(n): make(n) for n in sizes}, rounds=rounds)
    return curve([size(n) for n in sizes], list(seconds.values()))


def curve(sizes: Sequence[int], seconds: Sequence[list[float]]) -> dict[str, Any]:
    medians = [float(np.median(times)) for times in seconds]
    return {
        "sizes": list(sizes),
        "medians": medians,
        "exponent": exponent(list(map(float, sizes)), medians),
        "seconds": [summary(times) for times in seconds],
    }


def mixing(n: int, side: int, classes: int) -> Callable[[], Any]:
    """Draw, blend and loss of a batch, of logits that are there."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(n, side, side, 3)).astype(np.float32))
    logits, label = jnp.asarray(rng.normal(size=(n, classes)).astype(np.float32)), jnp.arange(n) % classes
    keys, method = keys_in_turn(), jax_mix.MixUp(0.4)

    @jax.jit
    def run(key: Any, image: Any, logits: Any, label: Any) -> Any:
        mix = method.sample(key, image.shape)
        return mix.blend(image), jax_mix.mixed_loss(XENT, logits, label, mix)

    return lambda: run(next(keys), image, logits, label)


def step(n: int, side: int, layers: int | None = None) -> Callable[[], Any]:
    """A training step of n images, mixed at the input or one of two stages; or at one of as many of eight blocks."""
    run, arguments = step_of(n, side, layers)
    jitted, keys = jax.jit(run), keys_in_turn()
    return lambda: jitted(next(keys), *arguments)


def step_of(n: int, side: int, layers: int | None, on: Any = None) -> tuple[Callable[..., Any], Any]:
    """The step, and what it is called with besides its key; split over the devices of a mesh, if `on` one."""
    model = PreActResNet(3, 10, blocks=(1, 1, 1) if layers is None else (max(LAYERS),), width=8, rngs=nnx.Rngs(0))
    names = ("layer1", "layer2") if layers is None else tuple(f"layer1.layers.{i}" for i in range(layers))
    method = jax_mix.ManifoldMixup(2.0, layers=names, groups=1 if on is None else on.size)
    graphdef, state = nnx.split((model, nnx.Optimizer(model, optax.sgd(0.01, momentum=0.9), wrt=nnx.Param)))
    image = np.random.default_rng(0).normal(size=(n, side, side, 3)).astype(np.float32)
    arguments: Any = (state, image, np.arange(n) % 10)
    whole, split = (None, None) if on is None else (devices.everywhere(on), devices.split(on))

    def run(key: Any, state: Any, image: Any, label: Any) -> Any:
        model, optimizer = nnx.merge(graphdef, state)
        mix = method.sample(key, image.shape)

        def loss_fn(model: Any) -> Any:
            return jax_mix.mixed_loss(XENT, jax_mix.forward(model, image, mix), label, mix).mean()

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), loss

    return run, tuple(jax.device_put(each, at) for each, at in zip(arguments, (whole, split, split), strict=True))


def compiling(counts: Sequence[int], rounds: int) -> list[list[float]]:
    """CPU seconds of each number of layers, which take turns after one that is not counted."""
    seconds: list[list[float]] = [[] for _ in counts]
    for turn in range(rounds + 1):
        for count, times in zip(counts, seconds, strict=True):
            run, arguments = step_of(32, 16, count)
            start = time.process_time()
            jax.jit(run).lower(jax.random.key(0), *arguments).compile()
            if turn:
                times.append(time.process_time() - start)
    return seconds


def of_devices(counts: Sequence[int], rounds: int) -> dict[str, Any]:
    """A process for each number of devices, since JAX has to be told before it starts."""
    seconds = []
    for count in counts:
        seconds.append(in_a_process(f"from benchmarks.growth import on_devices; on_devices({count}, {rounds})"))
    return curve(counts, seconds)


def on_devices(count: int, rounds: int) -> None:
    """Print the seconds of steps on as many simulated devices, 32 images on each."""
    jax.config.update("jax_num_cpu_devices", count)
    devices.keep_collectives_in_order(processes=False)
    mesh = devices.make_mesh(count)
    run, arguments = step_of(32 * count, 32, None, mesh)
    jitted, keys = jax.jit(run), keys_in_turn()
    print(json.dumps(side_by_side({"step": lambda: jitted(next(keys), *arguments)}, rounds=rounds)["step"]))


def table(result: dict[str, Any]) -> str:
    """The exponent of each curve."""
    lines = ["| seconds of | from | to | exponent |", "|---|---|---|---|"]
    for name, of in result["curves"].items():
        ends = [f"{of['sizes'][i]:,}: {in_ms(of['medians'][i])} ms" for i in (0, -1)]
        lines.append(f"| {name} | {' | '.join(ends)} | {of['exponent']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

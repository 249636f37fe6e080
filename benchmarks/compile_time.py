"""What mixing adds to the compilation of a training step, and to the step: none, MixUp, Manifold Mixup at five layers.

    python -m benchmarks.compile_time

The first call of each kind is not counted. Compilation is measured in seconds of this process's CPU time, of all its
threads, since it is done by several; the kinds take turns. Its ratios are those of the shortest times, as other work on
the machine makes a time longer and never shorter; medians and quartiles stand beside them.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jax_mix
from benchmarks.measuring import save, side_by_side, summary, target
from jax_mix.training import models

BATCH, ROUNDS, STEPS, AT_MOST = 32, 9, 15, 1.3
XENT = optax.softmax_cross_entropy_with_integer_labels
IMAGE = jnp.asarray(np.random.default_rng(0).random((BATCH, 32, 32, 3), np.float32))
LABEL = jnp.arange(BATCH) % 10
NETWORKS = {
    "preact_resnet18, width 16": lambda: models.preact_resnet18(3, 10, width=16, rngs=nnx.Rngs(0)),
    "ViT, 12 blocks of width 64": lambda: models.ViT(3, 10, image_size=(32, 32), width=64, depth=12, rngs=nnx.Rngs(0)),
}


def methods(model: nnx.Module) -> dict[str, Any]:
    """Four hidden layers and the input, spread over the network."""
    found = jax_mix.ManifoldMixup(2.0).bind(model, IMAGE).layers
    layers = tuple(found[i] for i in np.linspace(0, len(found) - 1, 4).astype(int))
    return {"none": None, "mixup": jax_mix.MixUp(2.0), "manifold": jax_mix.ManifoldMixup(2.0, layers=layers)}


def step_of(make: Any, method: Any) -> tuple[Any, Any]:
    """A training step, and what it is called with first."""
    model = make()
    graphdef, state = nnx.split((model, nnx.Optimizer(model, optax.sgd(0.01, momentum=0.9), wrt=nnx.Param)))

    def step(state: Any, key: Any) -> tuple[Any, Any]:
        model, optimizer = nnx.merge(graphdef, state)
        mix = None if method is None else method.sample(key, IMAGE.shape)

        def loss_fn(model: Any) -> Any:
            return jax_mix.mixed_loss(XENT, jax_mix.forward(model, IMAGE, mix), LABEL, mix).mean()

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), loss

    return step, state


def main() -> None:
    found = {}
    keys = [jax.random.key(seed) for seed in range(5)]
    for name, make in NETWORKS.items():
        kinds = methods(make())
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        steps = {}
        for turn in range(ROUNDS + 1):
            for kind, method in kinds.items():
                step, state = step_of(make, method)
                start = time.process_time()
                program = jax.jit(step).lower(state, keys[0]).compile()
                if turn:
                    seconds[kind].append(time.process_time() - start)
                steps[kind] = program, state
        runs = {
            kind: lambda program=program, state=state: [program(state, key) for key in keys]
            for kind, (program, state) in steps.items()
        }
        times = side_by_side(runs, rounds=STEPS)
        found[name] = {
            "trace_lower_compile_cpu_s": {kind: {"least_s": min(s)} | summary(s) for kind, s in seconds.items()},
            "compile_ratio_to_none": {k: min(s) / min(seconds["none"]) for k, s in seconds.items()},
            "step_ratio_to_none": {k: float(np.median(s) / np.median(times["none"])) for k, s in times.items()},
        }
    targets = [
        target(f"compiling the step with Manifold Mixup over the one without, {name}",
               of["compile_ratio_to_none"]["manifold"], at_most=AT_MOST,
               reason=f"MixUp, with its draw and a second loss, takes {of['compile_ratio_to_none']['mixup']:.2f}")
        for name, of in found.items()
    ]  # fmt: skip
    what = f"training step of {BATCH} images of 32x32x3, five places"
    save("compile_time", {"what": what, **found, "targets": targets})


def table(result: dict[str, Any]) -> str:
    """CPU seconds of compiling each network's step, and their ratio to those of the step without."""
    lines = ["| CPU seconds | none | MixUp | Manifold Mixup | MixUp, ratio | Manifold Mixup, ratio |", "|---" * 6 + "|"]
    for name in NETWORKS:
        of = result[name]
        seconds = [f"{each['least_s']:.2f}" for each in of["trace_lower_compile_cpu_s"].values()]
        ratios = [f"{of['compile_ratio_to_none'][kind]:.2f}" for kind in ("mixup", "manifold")]
        lines.append(f"| {name} | {' | '.join([*seconds, *ratios])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

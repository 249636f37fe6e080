"""The memory that a training step takes on each of eight devices, with and without --shard-parameters.

    python -m benchmarks.sharding

Counts what the compiled step of a pre-activation ResNet-18 holds on eight simulated CPU devices: nothing is run.
"""

from __future__ import annotations

import os

import jax
import numpy as np
from flax import nnx

import jax_mix
from benchmarks.measuring import save
from jax_mix.training import data, devices, models, sharding
from jax_mix.training.build import make_learner
from jax_mix.training.config import Config
from jax_mix.training.step import Recipe, pure_step

BATCH, SIZE = 2, 32  # of a device
# XLA for CPU puts the sums of all gradients into one, for which all must be there at once. On accelerators it does so
# up to some size; here it is told not to, for the memory that is needed to be seen.
APART = "--xla_disable_hlo_passes=cpu-all-reduce-combiner"


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    os.environ["XLA_FLAGS"] = APART
    devices.keep_collectives_in_order(processes=False)
    what = f"preact_resnet18, {SIZE}x{SIZE}x3, {BATCH} images on each of 8 devices, Adam and --ema, in bytes a device"
    save("sharding", {"what": what, "whole": memory(split=False), "in_parts": memory(split=True)})


def memory(*, split: bool) -> dict[str, int]:
    """Bytes a device: "state" from step to step, and what a step needs "besides" at its peak."""
    mesh = devices.make_mesh(8)
    learner = make_learner(Config(optimizer="adam", ema=0.999), models.preact_resnet18(3, 10, rngs=nnx.Rngs(0)), 10)
    graphdef, state = nnx.split(learner)
    everywhere = jax.tree.map(lambda _: devices.everywhere(mesh), state)
    placed = sharding.parts(state, mesh) if split else everywhere
    state = jax.tree.map(lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state, placed)
    batch = data.Examples(
        jax.ShapeDtypeStruct((8 * BATCH, SIZE, SIZE, 3), np.uint8, sharding=devices.split(mesh)),
        jax.ShapeDtypeStruct((8 * BATCH,), np.int32, sharding=devices.split(mesh)),
    )
    method = jax_mix.ManifoldMixup(layers=("layer1", "layer2"), groups=8)
    recipe = Recipe(method, ema=0.999, split_over=mesh if split else None)
    normalize = data.Normalize(*np.ones((2, 3), np.float32))
    compiled = pure_step.lower(graphdef, state, jax.random.key(0), batch, normalize, recipe).compile()
    found = compiled.memory_analysis()
    return {"state": found.alias_size_in_bytes, "besides": found.temp_size_in_bytes}


if __name__ == "__main__":
    main()

"""What a training step on many devices is made of: arithmetic, sums over devices, and the feeding of images.

    python -m benchmarks.scale

Counts what the compiled step of a pre-activation ResNet-18 does on eight simulated devices, and measures how many
images a second the feeds give on this machine. docs/scale.md does the arithmetic.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import jax_mix
from benchmarks.measuring import save, summary
from jax_mix.training import data, devices, models
from jax_mix.training.build import make_learner
from jax_mix.training.config import Config
from jax_mix.training.step import Recipe, pure_step

BATCH, SIZE, ROUNDS = 128, 32, 9  # of a device


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    save(
        "scale",
        {
            "what": f"preact_resnet18, {SIZE}x{SIZE}x3, {BATCH} images a device, Manifold Mixup within each device",
            "step": step_counts(),
            "images_a_second": {feed: summary_of_rate(feed, workers) for feed, workers in FEEDS.items()},
        },
    )


def step_counts() -> dict[str, float]:
    mesh = devices.make_mesh(8)
    learner = make_learner(Config(), models.preact_resnet18(3, 10, rngs=nnx.Rngs(0)), 10)
    graphdef, state = nnx.split(learner)
    method = jax_mix.ManifoldMixup(layers=("layer1", "layer2"), groups=8)
    image = jax.ShapeDtypeStruct((8 * BATCH, SIZE, SIZE, 3), np.uint8, sharding=devices.split(mesh))
    label = jax.ShapeDtypeStruct((8 * BATCH,), np.int32, sharding=devices.split(mesh))
    state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=devices.everywhere(mesh)), state)
    normalize = data.Normalize(*np.ones((2, 3), np.float32))

    def step(state, key, batch):
        return pure_step(graphdef, state, key, batch, normalize, Recipe(method))

    # Counted before anything is compiled.
    forward = jax.jit(lambda state, image: nnx.merge(graphdef, state).model(image))
    one = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), np.float32)
    plain = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    flops = forward.lower(plain, one).cost_analysis()["flops"]

    compiled = jax.jit(step).lower(state, jax.random.key(0), data.Examples(image, label)).compile()
    sums = re.findall(r"= (.*?) all-reduce(?:-start)?\(", compiled.as_text())
    shapes = [
        [math.prod(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"f32\[([\d,]*)\]", s)] for s in sums
    ]
    numbers = [sum(each) for each in shapes]
    return {
        "parameters": sum(a.size for a in jax.tree.leaves(nnx.state(learner.model, nnx.Param))),
        "all_reduces": len(numbers),
        "all_reduced_bytes": 4 * sum(numbers),
        "all_reduced_bytes_of_the_largest": 4 * max(numbers),
        "other_collectives": len(re.findall(r"all-gather\(|all-to-all\(|collective-permute\(", compiled.as_text())),
        "flops_of_an_image_forward": flops,
    }


FEEDS = {"device": 0, "grain": 0}


def summary_of_rate(feed: str, workers: int) -> dict[str, float]:
    """Images a second of batches on one device, from a cache on disk."""
    n, batch_size = 20_000, 512
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8))
        examples = data.Examples(np.load(path, mmap_mode="r"), np.zeros(n, np.int32))
        split = devices.split(devices.make_mesh(1))
        stop = (ROUNDS + 1) * (n // batch_size)
        batches = data.batches(
            examples, jax.random.key(0), batch_size, start=0, stop=stop, sharding=split, feed=feed, workers=workers
        )
        rates = []
        for i in range(ROUNDS + 1):
            start = time.perf_counter()
            for _ in range(n // batch_size):
                jax.block_until_ready(next(batches))
            if i:
                rates.append((n - n % batch_size) / (time.perf_counter() - start))
        batches.close()
    return {name.replace("_s", ""): value for name, value in summary(rates).items()}


if __name__ == "__main__":
    main()

"""Five seeds trained as one under vmap, against one after the other: seconds, side by side, compilation aside.

python -m benchmarks.seeds
"""

from __future__ import annotations

import contextlib
import dataclasses
import io

import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from benchmarks.measuring import save, side_by_side, summary
from jax_mix.compare.seeds import train_seeds
from jax_mix.training import data, loop
from jax_mix.training.build import prepare, resolve
from jax_mix.training.config import Config

SEEDS, ROUNDS, IMAGES = 5, 5, 640
CASES = {"mlp, 8x8": ("mlp", 8), "mlp, 28x28": ("mlp", 28), "preact_resnet8, 8x8": ("preact_resnet8", 8)}
CASES["preact_resnet8, 28x28"] = ("preact_resnet8", 28)


def dataset(side: int) -> data.Dataset:
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (IMAGES, side, side, 1), np.uint8), rng.integers(0, 10, IMAGES, np.int32)
    examples = data.Examples(jnp.asarray(image), jnp.asarray(label))
    normalize = data.Normalize(jnp.full(1, 127.0), jnp.full(1, 74.0))
    return data.Dataset(examples, data.Examples(*(a[:100] for a in examples)), normalize, "noise", tuple("0123456789"))


def measure(model: str, side: int) -> dict[str, object]:
    images = dataset(side)
    config = Config(mix="manifold", epochs=3, model=model, devices=1)
    configs = [resolve(dataclasses.replace(config, seed=seed)) for seed in range(SEEDS)]

    def one_by_one() -> None:
        with contextlib.redirect_stdout(io.StringIO()), tqdm(disable=True) as progress:
            progress.n, progress.initial = 0, 0
            for each in configs:
                loop.train(prepare(each, images), progress=progress)

    def together() -> None:
        with tqdm(disable=True) as progress:
            train_seeds(configs, [images] * SEEDS, progress)

    seconds = side_by_side({"one by one": one_by_one, "together": together}, rounds=ROUNDS)
    found = {name: summary(values) for name, values in seconds.items()}
    return found | {"ratio": found["one by one"]["median_s"] / found["together"]["median_s"]}


def main() -> None:
    what = f"{SEEDS} seeds, 3 epochs of {IMAGES} images in batches of 64, Manifold Mixup"
    save("seeds", {"what": what, "results": {name: measure(*case) for name, case in CASES.items()}})


if __name__ == "__main__":
    main()

"""Keras's MixUp and CutMix as they are, on JAX, with their draws recorded: a process of its own.

KERAS_BACKEND=jax KERAS_HOME=an/empty/folder python -m parity_tests.parity.keras_layers out.npz

Keras reads its backend when it is imported and does not run under this project's strict promotion of dtypes.
"""

import sys
from unittest import mock

import numpy as np

from parity_tests.parity.batches import batch
from parity_tests.parity.recorder import Recorder

LAYERS = {
    "mixup": lambda keras: keras.layers.MixUp(seed=1),
    "cutmix": lambda keras: keras.layers.CutMix(seed=3, data_format="channels_last"),
    "cutmix 0.2-0.9": lambda keras: keras.layers.CutMix(factor=(0.2, 0.9), seed=5, data_format="channels_last"),
}


def main(path: str) -> None:
    import keras  # here: tests are looked for in this file too, in a process where it does not run

    assert keras.backend.backend() == "jax"
    kept = {}
    x, y = batch()
    for name, make in LAYERS.items():
        layer, recorder = make(keras), Recorder()
        random = layer.backend.random
        with (
            mock.patch.object(random, "beta", recorder.of("beta", random.beta)),
            mock.patch.object(random, "uniform", recorder.of("uniform", random.uniform)),
            mock.patch.object(random, "shuffle", recorder.of("shuffle", random.shuffle)),
        ):
            mixed = layer({"images": x, "labels": y}, training=True)
        kept[f"{name}/x"], kept[f"{name}/y"] = mixed["images"], mixed["labels"]
        for at, (drawn, args, kwargs, value) in enumerate(recorder.calls):
            kept[f"{name}/{at} {drawn}"] = value
            if drawn == "beta":
                kept[f"{name}/alpha"] = args[1]
            if drawn == "uniform":
                kept[f"{name}/{at} range"] = (kwargs["minval"], kwargs["maxval"])
    np.savez(path, version=keras.__version__, **{key: np.asarray(value) for key, value in kept.items()})


if __name__ == "__main__":
    main(sys.argv[1])

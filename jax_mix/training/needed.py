"""Importing it raises an error that says what of the extra "train" is not installed; what starts a run does so first.

Networks, optimizers and the step itself do with less, and do not import it.
"""

from __future__ import annotations

import importlib.util

# What is imported in `jax_mix.training` and in `jax_mix.compare`, but is not among jax_mix's own dependencies.
NEEDED = (
    "optax",
    "orbax",
    "tensorflow_datasets",
    "array_record",
    "grain",
    "tensorboard",
    "PIL",
    "simplejpeg",
    "importlib_resources",
    "sklearn",
    "matplotlib",
    "absl",
    "tqdm",
    "tyro",
    "scipy",
    "jinja2",
    "safetensors",
    "flatbuffers",
)
if _missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    raise ModuleNotFoundError(
        f"jax_mix.training needs the packages of the extra train, of which there is no {', '.join(_missing)}: "
        "pip install 'jax_mix[train]', in a clone pip install -c constraints.txt -e '.[train]'.",
        name=_missing[0],
    )

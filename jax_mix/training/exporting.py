"""`python train.py export`: the network of a run for programs that have nothing of this project."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.export
import jax.numpy as jnp
import safetensors.numpy
from flax import nnx
from tyro.conf import Positional

from jax_mix.training.command_line import parse_options
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import check_writable, expanded, write_atomically
from jax_mix.training.models.torch_names import Twin, twin
from jax_mix.training.trained import Trained, load_run

if TYPE_CHECKING:
    from jaxtyping import Array, Float, UInt8

PLATFORMS = ("cpu", "cuda", "tpu")
_DESCRIPTION = """Write the network of a finished run for other programs.

python train.py export runs/digits-manifold-0: exported.jax, images to probabilities, for jax.export; and, of networks that torchvision, fastai or timm has too, weights.safetensors, for PyTorch.
"""  # noqa: E501


@dataclasses.dataclass(frozen=True)
class Options:
    """What is exported, and where to."""

    run: Positional[str] = ""  # the folder of a finished run
    best: bool = False  # take the best epoch, of a run with --keep-best, not the last
    out: str | None = None  # folder for the files; None: the run's


def main(args: Sequence[str]) -> None:
    """`python train.py export`, with what stands after it."""
    options = parse_options(args, Options, _DESCRIPTION)
    require(bool(options.run), "export needs the folder of a run: python train.py export runs/NAME.")
    run = expanded(options.run)
    folder = run if options.out is None else expanded(options.out)
    check_writable(folder)
    trained = load_run(run, best=options.best)
    content = exported(trained).serialize()
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomically(folder / "exported.jax") as temporary:
        temporary.write_bytes(content)
    print(f"wrote {folder / 'exported.jax'}: uint8 images of any size to probabilities, by jax.export")
    about = trained.about
    *size, channels = about.image_shape
    found = twin(
        about.model,
        in_channels=channels,
        num_classes=len(about.class_names),
        image_size=(size[0], size[1]),
        width=about.width,
    )
    if isinstance(found, Twin):
        write_weights(folder / "weights.safetensors", trained, found)
        print(f"wrote {folder / 'weights.safetensors'}: for {found.made_by} of PyTorch")
    else:
        print(f"no weights.safetensors for PyTorch: {found}.")


def exported(trained: Trained) -> jax.export.Exported:
    """A function of images, uint8 `[batch, height, width, channels]`, that gives probabilities `[batch, classes]`.

    Batch, height and width may be any: images are scaled and cut as `Trained.preprocess` does it.

    Raises:
      UserError: the model cannot be exported.
    """
    graphdef, state = nnx.split(trained.model)
    rows, columns, channels = trained.image_shape

    def probabilities(image: UInt8[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        model = nnx.merge(graphdef, state)
        logits = model(trained.normalize(fit(image, rows, columns, trained.about.test_crop))).astype(jnp.float32)
        return trained.task.of_logits(logits)

    shape = jax.export.symbolic_shape(f"batch, height, width, {channels}")
    try:
        export = jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)
        return export(jax.ShapeDtypeStruct(shape, jnp.uint8))
    except Exception as error:  # of a user's own model anything may be raised
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        told = f"--model {trained.about.model} cannot be exported for any number of images"
        raise UserError(f"{told} ({what}).") from error


def fit(
    image: UInt8[Array, "batch height width channels"], rows: int, columns: int, crop: float | None = None
) -> UInt8[Array, "batch rows columns channels"]:
    """`resized` for images of a size that need not be known yet; a pixel may be another by 1, from rounding.

    Source: Pillow's `Image.resize` with `BILINEAR`: a triangle as wide as the scale, along rows, then columns, rounded.
    """
    height, width = (jnp.asarray(size).astype(jnp.float32) for size in image.shape[1:3])
    if crop is None:
        by_height = rows / height >= columns / width
        wide = jnp.where(by_height, jnp.maximum(columns, jnp.round(width * rows / height)), columns)
        high = jnp.where(by_height, rows, jnp.maximum(rows, jnp.round(height * columns / width)))
        left, top = (jnp.floor(each / 2) for each in (wide - columns, high - rows))
    else:
        covered_rows, covered_columns = int(rows / crop), int(columns / crop)
        by_height = covered_rows * width >= covered_columns * height
        wide = jnp.where(by_height, jnp.floor(covered_rows * width / height), covered_columns)
        high = jnp.where(by_height, covered_rows, jnp.floor(covered_columns * height / width))
        left, top = (jnp.round(each / 2) for each in (wide - columns, high - rows))
    across = _triangles(columns, left, width / wide, image.shape[2])
    down = _triangles(rows, top, height / high, image.shape[1])
    highest = jax.lax.Precision.HIGHEST
    x = jnp.einsum("bhwc,ow->bhoc", image.astype(jnp.float32), across, precision=highest)
    x = jnp.einsum("bhwc,oh->bowc", jnp.floor(x + 0.5), down, precision=highest)
    return jnp.floor(x + 0.5).astype(jnp.uint8)


def _triangles(count: int, start: Any, scale: Any, size: Any) -> Float[Array, "count size"]:
    """The weight of each of `size` pixels in each of `count`, which are `scale` wide and begin at number `start`."""
    center = (start + jnp.arange(count, dtype=jnp.float32) + 0.5) * scale
    pixel = jnp.arange(size, dtype=jnp.float32) + 0.5
    weight = jnp.maximum(0, 1 - jnp.abs(pixel[None] - center[:, None]) / jnp.maximum(scale, 1))
    return weight / jnp.sum(weight, axis=1, keepdims=True)


def write_weights(path: Path, trained: Trained, found: Twin) -> None:
    """Write the weights for PyTorch, whole or not at all; beside them what its images and logits need, as text."""
    about = trained.about
    metadata = {
        "model": found.made_by,
        "class_names": json.dumps(about.class_names),
        "image_shape": json.dumps(about.image_shape),
        "mean": json.dumps(about.mean),
        "std": json.dumps(about.std),
        "format": "pt",
    }
    with write_atomically(path) as temporary:
        temporary.write_bytes(safetensors.numpy.save(found.weights(trained.model), metadata=metadata))

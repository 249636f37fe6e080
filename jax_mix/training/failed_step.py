"""Whether all is finite after a step; and what one leaves after which it is not: failed_step.npz, to look at again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mix.training import devices
from jax_mix.training.build import split_seed
from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.config import Config
from jax_mix.training.errors import TrainingFailed
from jax_mix.training.files import write_npz
from jax_mix.training.step import Recipe, draw_key

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int


def report_failed_step(
    config: Config,
    image_size: tuple[int, ...],
    recipe: Recipe,
    step: int,
    index: Int[Array, " batch"],
    loss: float,
    checkpoints: Checkpoints | None,
) -> TrainingFailed:
    """The error for a step, counted from 0, after which not all is finite; its draw is written, to be replayed."""
    what = f"the loss became {loss}" if not math.isfinite(loss) else "the model became infinite or nan"
    told = f"{what} in step {step + 1}: --learning-rate {config.learning_rate} may be too high"
    if checkpoints is None:
        return TrainingFailed(told + ".")
    key = jax.random.fold_in(split_seed(config)[2], step)
    arrays = {"step": step + 1, "index": index, "key": jax.random.key_data(key)}
    if method := recipe.method_at(step):
        shape = (len(index) // recipe.accumulate, *image_size)
        draw = jax.jit(lambda key: method.sample(draw_key(key), shape))
        mix = draw(key) if recipe.accumulate == 1 else jax.vmap(draw)(jax.random.split(key, recipe.accumulate))
        arrays |= {name: value for name, value in vars(mix).items() if value is not None}
    path = checkpoints.folder.parent / "failed_step.npz"
    kept = "; checkpoints are kept" if checkpoints.steps else ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(path, arrays)
    except OSError as error:
        return TrainingFailed(f"{told}; its images and draw could not be written, {error}{kept}.")
    return TrainingFailed(f"{told}; its images and draw are in '{path}'{kept}.")


def is_finite(tree: Any) -> bool:
    """Whether all floating-point numbers in a pytree of arrays are finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if all(map(devices.is_on_the_host, leaves)):
        return all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves)  # NumPy has nothing to compile
    return bool(_is_finite(leaves))


@jax.jit
def _is_finite(leaves: list[Any]) -> Bool[Array, ""]:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))

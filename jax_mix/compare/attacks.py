"""Adversarial examples: the images that a network gets wrong most readily, within a distance of the real ones.

Images are float32, from 0 to `peak`, and radii are parts of that range: 8/255 is the same change of a picture whatever
its pixels count in. The distance is that of the pixel which changes most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_mix.training.data import Normalize
from jax_mix.training.losses import cross_entropy

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Images = Float[Array, "n height width channels"]


def fgsm(loss: Callable[[Images], Float[Array, ""]], image: Images, radius: Any, *, peak: float = 1.0) -> Images:
    """Every pixel moved by the radius to where the loss rises: the fast gradient sign method.

    >>> fgsm(lambda image: (image * jnp.array([1.0, -2.0])).sum(), jnp.array([0.5, 0.5]), 0.1)
    Array([0.6, 0.4], dtype=float32)

    Args:
      loss: of images, the sum over them.
      image: float32, from 0 to `peak`.
      radius: float `[]`, in [0, 1], a part of `peak`.
      peak: the largest value a pixel may have.

    Returns:
      Images, float32.

    Source: Goodfellow et al., arXiv:1412.6572, section 4.
    """
    return jnp.clip(image + radius * peak * jnp.sign(jax.grad(loss)(image)), 0, peak)


def pgd(
    loss: Callable[[Images], Float[Array, ""]],
    key: Key[Array, ""],
    image: Images,
    radius: Any,
    *,
    steps: int = 10,
    peak: float = 1.0,
) -> Images:
    """Steps of `fgsm`, each a quarter of the radius long, from a random place within it: projected gradient descent.

    >>> pgd(lambda image: (image * jnp.array([1.0, -2.0])).sum(), jax.random.key(0), jnp.array([0.5, 0.5]), 0.1)
    Array([0.6, 0.4], dtype=float32)

    Args:
      loss: of images, the sum over them.
      key: of where it starts.
      image: float32, from 0 to `peak`.
      radius: float `[]`, in [0, 1], a part of `peak`.
      steps: how many; four are as long as the radius.
      peak: the largest value a pixel may have.

    Returns:
      Images, float32.

    Source: Madry et al., arXiv:1706.06083, section 2.1; its steps, of 2/255 for a radius of 8/255.
    """
    low, high = jnp.maximum(image - radius * peak, 0), jnp.minimum(image + radius * peak, peak)
    start = jnp.clip(image + radius * peak * jax.random.uniform(key, image.shape, image.dtype, -1, 1), low, high)

    def step(_: Any, adversarial: Images) -> Images:
        return jnp.clip(fgsm(loss, adversarial, radius / 4, peak=peak), low, high)

    return jax.lax.fori_loop(0, steps, step, start)


def errors(
    model: nnx.Module,
    normalize: Normalize,
    image: Any,
    label: Any,
    radii: tuple[float, ...],
    *,
    peak: float,
    steps: int = 10,
    batch_size: int = 250,
) -> dict[str, list[float]]:
    """The share of images that a network gets wrong when it is attacked, knowing all of it.

    Args:
      model: an NNX model, in the mode in which it predicts.
      normalize: makes images ready for it.
      image: `[n, height, width, channels]`, from 0 to `peak`.
      label: int `[n]`.
      radii: of the attacks; of radius 0, the images are as they are.
      peak: the largest value a pixel may have.
      steps: of PGD.
      batch_size: how many images at once.

    Returns:
      `{"fgsm": ..., "pgd": ...}`, an error in [0, 1] for each radius.
    """
    image, label = np.asarray(image, np.float32), np.asarray(label, np.int32)
    n, wrong = len(label), np.zeros((2, len(radii)))
    size = min(batch_size, n)
    for start in range(0, n, size):
        index = np.arange(start, start + size)
        counts = index < n  # the last batch is filled up: one shape, one compilation
        index = np.minimum(index, n - 1)
        for i, radius in enumerate(radii):
            key = jax.random.fold_in(jax.random.key(0), start)
            found = _wrong(model, normalize, key, image[index], label[index], radius, peak=peak, steps=steps)
            wrong[:, i] += (np.asarray(found) & counts).sum(1)
    return dict(zip(("fgsm", "pgd"), (wrong / n).tolist(), strict=True))


@nnx.jit(static_argnames=("peak", "steps"))
def _wrong(
    model: nnx.Module, normalize: Normalize, key: Any, image: Any, label: Any, radius: Any, *, peak: float, steps: int
) -> Any:
    graphdef, state = nnx.split(model)  # what is differentiated must be a function of the image alone

    def logits(image: Images) -> Float[Array, "n classes"]:
        predict: Any = nnx.merge(graphdef, state)
        return predict(normalize(image)).astype(jnp.float32)

    def loss(image: Images) -> Float[Array, ""]:
        return jnp.sum(cross_entropy()(logits(image), label))

    def is_wrong(image: Images) -> Int[Array, " n"]:
        return jnp.argmax(logits(image), axis=-1).astype(label.dtype) != label

    return jnp.stack(
        [
            is_wrong(fgsm(loss, image, radius, peak=peak)),
            is_wrong(pgd(loss, key, image, radius, steps=steps, peak=peak)),
        ]
    )

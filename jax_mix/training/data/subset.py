"""Training images made fewer, or their labels wrong: to see what a method is worth when data are scarce or noisy."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mix.training.data.dataset import Dataset, Examples
from jax_mix.training.data.photographs import Photographs, measured
from jax_mix.training.errors import require

if TYPE_CHECKING:
    from jaxtyping import Array, Key


def take(dataset: Dataset, count: int) -> Dataset:
    """The set with `count` of its training images, drawn at random; the same ones each time.

    Raises:
      UserError: there are not so many.
    """
    n = len(dataset.train.label)
    require(count <= n, f"--train-images must be at most {n}, all training images; got {count}.")
    index = np.sort(np.random.default_rng(0).permutation(n)[:count])
    image = dataset.train.image
    few: Any = image.take(index) if isinstance(image, Photographs) else image[index]
    train = Examples(few, dataset.train.label[index])
    return dataclasses.replace(dataset, train=train, normalize=measured(few))


def corrupt_labels(dataset: Dataset, share: float, key: Key[Array, ""]) -> Dataset:
    """The set with `share` of its training labels drawn anew, each class alike; its test labels are as they were.

    A label may be drawn as it was: of C classes, `share * (1 - 1/C)` are wrong. What is drawn for a smaller share is
    drawn for a larger one too.

    Args:
      dataset: is left as it is.
      share: in [0, 1]; that many images, rounded, are chosen.
      key: of which images, and their labels.

    Source: Zhang et al., arXiv:1710.09412, section 3.4.
    """
    if share == 0:
        return dataset
    n = len(dataset.train.label)
    which_key, label_key = jax.random.split(key)
    chosen = np.asarray(jax.random.permutation(which_key, n))[: round(share * n)]
    drawn = np.asarray(jax.random.randint(label_key, (n,), 0, len(dataset.class_names), jnp.int32))
    label: Any = np.array(dataset.train.label)
    label[chosen] = drawn[chosen]
    return dataclasses.replace(dataset, train=dataset.train._replace(label=label))

"""Draw docs/methods.png: two photographs that scikit-learn ships, mixed by each method with the draw written beside.

python -m docs.pictures
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import nnx
from sklearn.datasets import load_sample_image

import jax_mix
from jax_mix.training.models import PreActResNet

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZE = 192


def photographs() -> np.ndarray:
    """Two squares of SIZE pixels, float32 `[2, SIZE, SIZE, 3]` in [0, 1]."""

    def square(name: str, left: int) -> np.ndarray:
        image = load_sample_image(name)[15:399:2, left : left + 2 * SIZE : 2]
        return image.astype(np.float32) / 255

    return np.stack([square("china.jpg", 130), square("flower.jpg", 150)])


def hidden_states(images: np.ndarray) -> jax.Array:
    """What a PreActResNet with random weights puts out after its first stage, `[2, SIZE, SIZE, 16]`."""
    model = PreActResNet(3, 10, width=16, rngs=nnx.Rngs(3))
    return model.layer1(model.stem(jnp.asarray(images - images.mean())))


def as_picture(states: jax.Array) -> np.ndarray:
    """Three channels as red, green and blue."""
    rgb = np.asarray(states[..., :3])
    low, high = np.percentile(rgb, (1, 99), axis=(0, 1, 2))
    return np.clip((rgb - low) / (high - low), 0, 1)


def main() -> None:
    images, partner = photographs(), np.array([1, 0])
    mixup = jax_mix.Mix(np.float32(0.65), partner)
    cutmix = jax_mix.Mix.from_box(partner, np.array([70, 60, 178, 168]), (SIZE, SIZE))
    manifold = jax_mix.Mix(np.float32(0.65), partner, layer="layer1")
    states = hidden_states(images)
    pictures = as_picture(jnp.concatenate([states, manifold.blend(states)]))

    panels = [
        (images[0], "a sample"),
        (images[1], "its partner"),
        (mixup.blend(images)[0], "MixUp\nλ = 0.65, drawn"),
        (cutmix.blend(images)[0], f"CutMix\nλ = {cutmix.lam[0]:.2f}, the area left"),
        (pictures[0], "the sample's hidden state\nafter layer1"),
        (pictures[1], "its partner's"),
        (pictures[2], "Manifold Mixup\nλ = 0.65, at layer1"),
    ]
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.9), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (picture, title) in zip(axes.flat, panels, strict=False):
        axis.imshow(np.asarray(picture))
        axis.set_title(title, fontsize=11)
    figure.savefig(Path(__file__).parent / "methods.png", dpi=80)


if __name__ == "__main__":
    main()

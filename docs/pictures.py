"""Draw the pictures of the documents: python -m docs.pictures.

methods.png: two photographs that scikit-learn ships, mixed by each method with the draw written beside;
mixed_batch.png and draws.png: what jax_mix.plot draws.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import nnx
from sklearn.datasets import load_sample_image

import jax_mix
from jax_mix.training.models import PreActResNet
from jax_mix.training.plots import save

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


def methods() -> None:
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


def mixed_batch() -> None:
    """MixUp's rows and CutMix's in one batch."""
    temple, flower = photographs()[:, ::2, ::2]
    images = np.stack([temple, flower, flower[:, ::-1], temple[:, ::-1]])
    box = np.array([[0] * 4, [40, 10, 90, 52], [8, 30, 70, 92], [0] * 4])
    mix = jax_mix.Mix.from_box(np.array([1, 3, 0, 2]), box, (SIZE // 2, SIZE // 2))
    blended = np.float32([0.6, 1, 1, 0.7])
    mix = dataclasses.replace(mix, lam=mix.lam * blended, outside=blended)
    figure = jax_mix.plot.batch(images, mix, [0, 1, 1, 0], ("temple", "dahlia"))
    save(figure, Path(__file__).parent / "mixed_batch.png", dpi=70)


def draws() -> None:
    method = jax_mix.OneOf(
        jax_mix.MixUp(0.8),
        jax_mix.CutMix(1.0),
        jax_mix.ManifoldMixup(2.0, layers=("stem", "layer1", "layer2"), use_input=False),
        probabilities=(0.3, 0.5, 0.2),
    )
    keys = jax.random.split(jax.random.key(0), 3000)
    mixes = jax.jit(jax.vmap(lambda key: method.sample(key, (64, 32, 32, 3))))(keys)
    save(jax_mix.plot.draws(mixes), Path(__file__).parent / "draws.png", dpi=70)


if __name__ == "__main__":
    methods()
    mixed_batch()
    draws()

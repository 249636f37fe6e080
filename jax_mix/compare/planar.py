"""Two problems in the plane, where a decision boundary can be seen: spirals and moons, as in the papers' figures.

A training step takes microseconds here, so that all seeds of a method train as one, under vmap and scan.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import make_moons

import jax_mix
from jax_mix.training.losses import cross_entropy
from jax_mix.training.models.mlp import MLP

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

METHODS: Mapping[str, Any] = {
    "none": None,
    "mixup": jax_mix.MixUp(1.0),
    "manifold": jax_mix.ManifoldMixup(1.0, layers=("hidden.0", "hidden.1")),
}  # CutMix needs images
PROBLEMS = ("spirals", "moons")
REACH = 1.6  # the plane that is looked at, from -REACH to REACH
SURE = 0.9  # confidence from which on a network counts as sure
_STEPS, _POINTS, _FRESH, _GRID = 1000, 200, 2000, 120


def points(problem: str, n: int, seed: int) -> tuple[Float[np.ndarray, "n 2"], Any]:
    """Points of two classes: float32 `[n, 2]`, about as far as 1 from the origin, and labels int32 `[n]`."""
    rng = np.random.default_rng(seed)
    if problem == "moons":
        x, label = make_moons(n, noise=0.15, random_state=seed)
        x = (x - np.array([0.5, 0.25])) / 1.2
    else:
        label = np.arange(n) % 2
        along = np.sqrt(rng.uniform(0.02, 1, n))  # as many points on each piece of an arm
        angle = 3.5 * np.pi * along + np.pi * label
        x = 1.2 * along[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.04 * rng.standard_normal((n, 2))
    return x.astype(np.float32), label.astype(np.int32)


def grid() -> Float[np.ndarray, "n 2"]:
    """The points of the plane that are looked at, rows from below."""
    side = np.linspace(-REACH, REACH, _GRID, dtype=np.float32)
    return np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)


def compare(seeds: int) -> dict[str, Any]:
    """Train a small network with each method on each problem, `seeds` times, on points of its own each time.

    Returns:
      For each problem and method: "error" on fresh points, and "unsure", the share of the plane where confidence is
      below `SURE`, a list over seeds each; and "probability" of class 1 on the `grid`, of the first seed.
    """
    return {
        problem: {name: _measure(problem, method, seeds) for name, method in METHODS.items()} for problem in PROBLEMS
    }


def _measure(problem: str, method: Any, seeds: int) -> dict[str, Any]:
    train = [points(problem, _POINTS, seed) for seed in range(seeds)]
    fresh, label = points(problem, _FRESH, 2**31)
    x, y = (jnp.asarray(np.stack(arrays)) for arrays in zip(*train, strict=True))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds, dtype=jnp.uint32))
    seen = jnp.asarray(np.concatenate([fresh, grid()]))
    logits = np.asarray(_train_and_predict(method, _STEPS, keys, _initial(keys), x, y, seen))
    on_fresh, on_grid = logits[:, :_FRESH], jax.nn.softmax(logits[:, _FRESH:])
    return {
        "error": np.mean(on_fresh.argmax(-1) != label, axis=1).tolist(),
        "unsure": np.mean(np.max(on_grid, axis=-1) < SURE, axis=1).tolist(),
        "probability": np.round(np.asarray(on_grid[0, :, 1], np.float64), 3).tolist(),
    }


def _network(rngs: nnx.Rngs) -> nnx.Module:
    return MLP(2, 2, image_size=(1, 1), hidden=(64, 64, 64), rngs=rngs)


@jax.jit  # apart from the training, for all methods to share the program
@jax.vmap
def _initial(key: Key[Array, ""]) -> Any:
    return nnx.state(_network(nnx.Rngs(key)))


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0, 0, 0, None))
def _train_and_predict(
    method: Any,
    steps: int,
    key: Key[Array, ""],
    params: Any,
    x: Float[Array, "n 2"],
    label: Any,
    seen: Float[Array, "m 2"],
) -> Float[Array, "m 2"]:
    def image(points: Float[Array, "n 2"]) -> Float[Array, "n 1 1 2"]:
        return points[:, None, None, :]

    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, steps))
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: _network(nnx.Rngs(0))))

    def step(state: Any, key: Key[Array, ""]) -> tuple[Any, None]:
        params, moments = state

        def loss(params: Any) -> Float[Array, ""]:
            mix = method.sample(key, image(x).shape) if method else None
            logits = jax_mix.forward(nnx.merge(graphdef, params), image(x), mix)
            return jax_mix.mixed_loss(cross_entropy(), logits, label, mix).mean()

        with jax.numpy_dtype_promotion("standard"):  # as optax wants
            updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
            return (optax.apply_updates(params, updates), moments), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))
    return nnx.merge(graphdef, params)(image(seen))

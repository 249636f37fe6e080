"""Manifold Mixup's two modes: the layer drawn inside jit (one program) against a static layer (one program a layer).

    python -m benchmarks.layer_modes

Times a whole training step of a small pre-activation ResNet on 32x32 images, each layer as often in every mode, and
the first call, once: compilation and a step.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jax_mix
from benchmarks.measuring import save, side_by_side, summary
from jax_mix.training.models import PreActResNet

BATCH, WIDTH, ROUNDS = 64, 16, 15
LAYERS = ("layer1", "layer2")
XENT = optax.softmax_cross_entropy_with_integer_labels


def main() -> None:
    method = jax_mix.ManifoldMixup(2.0, layers=LAYERS)
    names = ("input", *LAYERS)
    image = jnp.asarray(np.random.default_rng(0).random((BATCH, 32, 32, 3), np.float32))
    label = jnp.arange(BATCH) % 10

    def make_step(layer: str | None, mixed: bool = True):
        model = PreActResNet(3, 10, width=WIDTH, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.sgd(0.01, momentum=0.9), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, key):
            mix = method.sample(key, image.shape, layer=layer) if mixed else None

            def loss_fn(model):
                return jax_mix.mixed_loss(XENT, jax_mix.forward(model, image, mix), label, mix).mean()

            loss, grads = nnx.value_and_grad(loss_fn)(model)
            optimizer.update(model, grads)
            return loss

        start = time.perf_counter()
        step(model, optimizer, jax.random.key(0)).block_until_ready()
        first_call = time.perf_counter() - start
        return lambda key: step(model, optimizer, key), first_call

    drawn, drawn_compile = make_step(None)
    none, none_compile = make_step(None, mixed=False)
    static, static_compile = {}, {}
    for name in names:
        static[name], static_compile[name] = make_step(name)

    candidates = [jax.random.key(seed) for seed in range(50)]
    keys = {method.sample(key, image.shape).layer_name: key for key in candidates}  # one that draws each layer
    seconds = side_by_side(
        {
            "none": lambda: [none(keys[name]) for name in names],
            "drawn": lambda: [drawn(keys[name]) for name in names],
            "static": lambda: [static[name](keys[name]) for name in names],
        },
        rounds=ROUNDS,
    )
    per_step = {mode: [s / len(names) for s in times] for mode, times in seconds.items()}
    save(
        "layer_modes",
        {
            "what": f"training step, PreActResNet width {WIDTH}, batch {BATCH}, 32x32x3, layers {names}",
            "step": {mode: summary(times) for mode, times in per_step.items()},
            "step_ratio_to_none": {
                mode: float(np.median(times) / np.median(per_step["none"])) for mode, times in per_step.items()
            },
            "first_call_s, n = 1": {
                "none": none_compile,
                "drawn": drawn_compile,
                "static, all layers": sum(static_compile.values()),
            },
        },
    )


if __name__ == "__main__":
    main()

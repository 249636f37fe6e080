"""A tiny training loop for test_checkpoints.py to kill: python -m parity_tests.training.loop_with_checkpoints FOLDER

It trains to the end, from the newest checkpoint if there is one, and writes FOLDER/end.npz.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.models.mlp import MLP

STEPS = 120
EVERY = 3


def train(folder: Path) -> None:
    model = MLP(1, 10, image_size=(4, 4), hidden=(32,), rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    graphdef, state = nnx.split((model, optimizer))

    @jax.jit
    def train_step(state, step):
        model, optimizer = nnx.merge(graphdef, state)
        key = jax.random.fold_in(jax.random.key(1), step)
        x = jax.random.normal(key, (8, 4, 4, 1))

        def loss_fn(model):
            return jnp.mean((model(x) - x.sum((1, 2))) ** 2)

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), loss

    start, history = 0, []
    with Checkpoints(folder / "checkpoints", {"steps": STEPS}) as checkpoints:
        if checkpoints.steps:
            start, state, history = checkpoints.restore(state)
        print("start", start, flush=True)
        for step in range(start, STEPS):
            state, loss = train_step(state, step)
            if (step + 1) % EVERY == 0:
                history.append({"step": step + 1, "loss": float(loss)})
                checkpoints.save(step + 1, state, history)
                print("saved", step + 1, flush=True)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    np.savez(folder / "end.npz", history=[record["loss"] for record in history], **leaves)


if __name__ == "__main__":
    train(Path(sys.argv[1]))

"""What mixing adds to a training step on a TPU, as the TPU's own compiler counts it; no TPU is needed.

    pip install "jax[tpu]"        # beside what train.py needs; it brings the compiler, libtpu
    python -m benchmarks.tpu            # or, where that was ended: python -m benchmarks.tpu missing

Compiles the step of pre-activation ResNets for four chips of a v5e, 256 images of 32x32, in float32: without mixing,
and with each method in both forms of the blend, by indexing and as a matrix product. Nothing is run, so the numbers
are the same on any machine: collectives, bytes that the step reads and writes, operations and temporary memory, of one
chip. Each step takes one to two minutes to compile; all rows are written as they come.
"""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jax_mix
from benchmarks.measuring import RESULTS, needs
from jax_mix import _product
from jax_mix.training.environment import environment
from jax_mix.training.files import write_json
from jax_mix.training.models import PreActResNet

# The compiler asks for a machine of this kind where there is none.
ALONE = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_SKIP_MDS_QUERY": "1"}
CHIPS, BATCH, SIZE = 4, 256, 32
WIDTHS = (64, 16)
XENT = optax.softmax_cross_entropy_with_integer_labels
LAYERS = ("layer1", "layer2")
RESULT = RESULTS / "tpu.v5e.json"


def methods(groups: int = CHIPS) -> dict[str, tuple[Any, str | None]]:
    """A method for each row, and the layer that is fixed."""
    manifold = jax_mix.ManifoldMixup(layers=LAYERS, groups=groups)
    return {
        "Manifold Mixup, drawn": (manifold, None),
        "MixUp": (jax_mix.MixUp(groups=groups), None),
        "CutMix": (jax_mix.CutMix(groups=groups), None),
        "Manifold Mixup, layer1": (manifold, "layer1"),
        "MixUp, groups=1": (jax_mix.MixUp(), None),
    }


def main(*what: str) -> None:
    needs("libtpu")  # `pip install "jax[tpu]"` brings it, on a machine without a TPU too
    # In a process of its own: what the compiler is told by the environment is for no other benchmark.
    subprocess.run([sys.executable, "-m", "benchmarks.tpu", "here", *what], env=os.environ | alone(), check=True)


def alone() -> dict[str, str]:
    """The environment in which JAX looks for no TPU, and its compiler does without."""
    return {**ALONE, "JAX_PLATFORMS": "cpu"}


def here(*what: str) -> None:
    document = {
        "what": f"training step of PreActResNet, {CHIPS} chips of a TPU v5e, batch {BATCH}, {SIZE}x{SIZE}x3, float32",
        "numbers": "of one chip, counted by the TPU's compiler",
        "versions": environment("libtpu")["versions"],
        "rows": json.loads(RESULT.read_text())["rows"] if what == ("missing",) else [],
    }
    rows = document["rows"]
    known = {(row["width"], row["method"], row["form"]) for row in rows}
    for width in WIDTHS:
        model = nnx.eval_shape(lambda width=width: PreActResNet(3, 10, width=width, rngs=nnx.Rngs(0)))
        for form in ("none", "product", "gather"):
            for name, (method, layer) in {"no mixing": (None, None)}.items() if form == "none" else methods().items():
                if (width, name, form) not in known:
                    counted = counts(model, method, layer, form=None if form == "none" else form)
                    rows.append({"width": width, "method": name, "form": form} | counted)
                    write_json(RESULT, document)
                    print(rows[-1], flush=True)


def counts(
    model: nnx.Module, method: Any, layer: str | None = None, *, form: str | None = None, batch: int = BATCH
) -> dict[str, Any]:
    """What the compiled step is made of, for a model of shapes."""
    token = _product.FORM.set(form)
    try:
        compiled = compile_step(model, method, layer, batch)
    finally:
        _product.FORM.reset(token)
    cost = compiled.cost_analysis()
    return {
        "collectives": collectives(compiled.as_text()),
        "bytes_accessed": int(cost["bytes accessed"]),
        "flops": int(cost["flops"]),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def collectives(program: str) -> dict[str, int]:
    """How many there are of each kind; one that is started and awaited counts once."""
    kinds = r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
    return dict(sorted(collections.Counter(re.findall(kinds, program)).items()))


def compile_step(model: nnx.Module, method: Any, layer: str | None, batch: int) -> Any:
    from jax.experimental import topologies

    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = Mesh(np.array(chips), ("batch",))
    split, everywhere = NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
    optimizer = nnx.eval_shape(lambda model: nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param), model)
    graphdef, state = nnx.split((model, optimizer))

    def step(state, key, image, label):
        model, optimizer = nnx.merge(graphdef, state)
        fixed = {} if layer is None else {"layer": layer}
        # Small as it is, the draw is made on each chip; left to itself, XLA makes parts and sends them around.
        mix = method.sample(jax.random.wrap_key_data(key), image.shape, **fixed) if method else None
        mix = jax.lax.with_sharding_constraint(mix, everywhere)

        def loss_fn(model):
            return jax_mix.mixed_loss(XENT, jax_mix.forward(model, image, mix), label, mix).mean()

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss, nnx.state((model, optimizer))

    def shape(of: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(of.shape, of.dtype, sharding=sharding)

    state = jax.tree.map(lambda a: shape(a, everywhere), state)
    key = shape(jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))), everywhere)
    image = jax.ShapeDtypeStruct((batch, SIZE, SIZE, 3), jnp.float32, sharding=split)
    label = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=split)
    return jax.jit(step, donate_argnums=0).trace(state, key, image, label).lower(lowering_platforms=("tpu",)).compile()


def table(result: dict[str, Any]) -> str:
    """The rows of the result, each beside the step without mixing."""
    plain = {row["width"]: row for row in result["rows"] if row["form"] == "none"}
    lines = [
        "| width | step | blend | collectives | GB accessed | GFLOP | temporary MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        of = plain[row["width"]]
        kinds = ", ".join(f"{count} {kind}" for kind, count in row["collectives"].items())
        times = [f"({row[name] / of[name]:.2f}x)" for name in ("bytes_accessed", "flops")]
        moved, flops, kept = row["bytes_accessed"] / 1e9, row["flops"] / 1e9, row["temporary_bytes"] / 1e6
        form = "" if row is of else row["form"]
        cells = [
            row["width"],
            row["method"],
            form,
            kinds,
            f"{moved:.3f} {times[0]}",
            f"{flops:.1f} {times[1]}",
            f"{kept:.0f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    here(*sys.argv[2:]) if sys.argv[1:2] == ["here"] else main(*sys.argv[1:])

"""The package as a whole: its public face, its imports, its documents."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import jax_mix
from parity_tests.library import models_nnx
from parity_tests.tolerances import assert_close

ROOT = Path(__file__).parents[2]
PUBLIC = [getattr(jax_mix, name) for name in jax_mix.__all__]


def public_callables():
    for thing in PUBLIC:
        yield thing
        if inspect.isclass(thing):
            yield from (m for n, m in vars(thing).items() if inspect.isfunction(m) and not n.startswith(("_", "tree_")))


@pytest.mark.parametrize("function", list(public_callables()), ids=lambda f: f.__qualname__)
def test_key_comes_first_and_options_are_keyword_only(function):
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
    names = [p.name for p in parameters]
    assert not {"rng", "prng", "seed", "lambda_", "index"} & set(names)
    if "key" in names:
        assert names[0] == "key"
    if "alpha" in names:
        after = parameters[names.index("alpha") + 1 :]
        assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in after)


@pytest.mark.parametrize("thing", PUBLIC, ids=jax_mix.__all__)
def test_docstrings_have_an_example_and_a_source(thing):
    doc = inspect.getdoc(thing)
    assert doc.splitlines()[0].endswith(".")
    if thing is not jax_mix.Layer:  # a plain record
        assert ">>>" in doc
        assert "Source:" in doc


def test_help_begins_with_every_name():
    assert {*jax_mix.__all__, "recipes", "plot"} <= set(re.findall(r"\w+", jax_mix.__doc__))


def test_importing_jax_mix_brings_only_jax_flax_and_numpy():
    code = "import sys, jax_mix; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"jax", "flax", "numpy"} <= set(loaded)
    assert not {"torch", "fastai", "tensorflow", "tensorflow_datasets", "jaxtyping", "matplotlib"} & set(loaded)


def readme_commands():
    """The README's code blocks of one install command and what follows it."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [block.strip() for block in blocks]


def test_ci_runs_the_readmes_test_command():
    (command,) = (c for c in readme_commands() if "pytest" in c and "pip install" in c)
    assert command in (ROOT / ".ci" / "run").read_text()


METHODS = {
    "mixup": jax_mix.MixUp(1.0),
    "manifold": jax_mix.ManifoldMixup(1.0, layers=("stem", "blocks.0")),
    "cutmix": jax_mix.CutMix(1.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_train_step_exports_for_cpu_cuda_and_tpu(name):
    model = models_nnx.ResNet(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
    graphdef, state = nnx.split((model, optimizer))
    xent = optax.softmax_cross_entropy_with_integer_labels

    def step(state, key, image, label):
        model, optimizer = nnx.merge(graphdef, state)
        mix = METHODS[name].sample(key, image.shape)

        def loss_fn(model):
            return jax_mix.mixed_loss(xent, jax_mix.forward(model, image, mix), label, mix).mean()

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), loss

    def plain(leaves, key, image, label):
        new_state, loss = step(jax.tree.unflatten(tree, leaves), jax.random.wrap_key_data(key), image, label)
        return [jax.random.key_data(a) if is_key(a) else a for a in jax.tree.leaves(new_state)], loss

    def is_key(leaf):
        return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)

    leaves, tree = jax.tree.flatten(state)
    image, label = jnp.ones((8, 5, 5, 1)), jnp.zeros(8, jnp.int32)
    key = jax.random.key_data(jax.random.key(0))
    exported = jax.export.export(jax.jit(plain), platforms=("cpu", "cuda", "tpu"))(leaves, key, image, label)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    _, loss = exported.call(leaves, key, image, label)
    assert_close(loss, jax.jit(step)(state, jax.random.key(0), image, label)[1], "same program")

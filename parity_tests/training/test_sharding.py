"""jax_mix/training/sharding.py: parameters split over devices, the same numbers, checkpoints for any number of them."""

import collections
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

import train
from jax_mix.training import data, devices, evaluation, load_run, loop, sharding
from jax_mix.training.build import described, prepare, resolve
from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.config import MAY_DIFFER, Config
from jax_mix.training.errors import UserError
from jax_mix.training.step import pure_step
from parity_tests.tolerances import assert_close
from parity_tests.training.wide_net import WideNet

# Manifold Mixup, whose layer is drawn anew for each batch; ten steps, a checkpoint after each five.
FLAGS = {"model": "parity_tests.training.wide_net:WideNet", "layers": ("layer1", "layer2"), "mix_groups": 8}
FLAGS |= {
    "batch_size": 256,
    "epochs": 2,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "ema": 0.9,
    "keep_best": True,
    "accumulate": 2,
}
ON_ONE, ON_EIGHT = {"devices": 1}, {"devices": 8, "shard_parameters": True}
LARGE = {(3, 3, 32, 32): 1, (512, 512): 2, (512, 10): 1}  # and how many there are


def config(data_dir, out, **others):
    return Config(data_dir=data_dir, out=str(out), name="it", **FLAGS, **others)


@pytest.fixture(scope="module", autouse=True)
def steps():
    """What the training loop has compiled for each recipe: once in all, and to be read."""
    compiled = {}

    def step(graphdef, state, *others):
        *arguments, recipe = others
        if (graphdef, recipe) not in compiled:
            compiled[graphdef, recipe] = pure_step.lower(graphdef, state, *others).compile()
        return compiled[graphdef, recipe](state, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "pure_step", step)
        yield compiled


@pytest.fixture(scope="module")
def on_eight(data_dir, tmp_path_factory):
    """A finished run on eight devices: its folder, its model, and what is in metrics.json."""
    out = tmp_path_factory.mktemp("eight")
    return out / "it", *train.run(config(data_dir, out, **ON_EIGHT))


def trained(config, digits, folder):
    """The model and the history, of a run that has its checkpoints in `folder`, and may go on there."""
    prepared = prepare(resolve(config), digits)
    with Checkpoints(folder, described(prepared.config, digits), may_differ=MAY_DIFFER) as checkpoints:
        return loop.train(prepared, checkpoints)


@pytest.fixture(scope="module")
def on_one(data_dir, digits, tmp_path_factory):
    """A finished run on one device: the folder of its checkpoints, and its history."""
    folder = tmp_path_factory.mktemp("one") / "checkpoints"
    return folder, trained(config(data_dir, folder.parent, **ON_ONE), digits, folder)[1]


def assert_same(history, other):
    assert [record["step"] for record in history] == [5, 10]
    for name in ("loss", "nll"):
        assert_close(*([record[name] for record in each] for each in (history, other)), "losses on other devices")


def test_the_losses_are_those_of_one_device(on_one, on_eight):
    assert_same(on_eight[2]["history"], on_one[1])


def test_a_device_holds_an_eighth(on_eight):
    leaves = jax.tree.leaves(nnx.state(on_eight[1], nnx.Param))  # the average, which is evaluated
    assert collections.Counter(a.shape for a in leaves if not a.sharding.is_fully_replicated) == LARGE
    for a in leaves:
        assert {shard.data.size for shard in a.addressable_shards} == {a.size // (8 if a.shape in LARGE else 1)}


@pytest.fixture(scope="module")
def compiled(on_eight, steps):
    """The step on eight devices."""
    (step,) = (step for (_, recipe), step in steps.items() if recipe.split_over is not None)
    return step


def test_a_step_takes_and_gives_an_eighth(compiled):
    """Of parameters, their average, and both of AdamW's moments."""
    (state, *_), _ = compiled.in_avals
    given = compiled.output_shardings[0]
    split = collections.Counter()
    for a, made in zip(*map(jax.tree.leaves, (state, given)), strict=True):
        if a.shape in LARGE:
            split[a.shape] += 1
            assert math.prod(made.shard_shape(a.shape)) == a.size // 8
    assert split == {shape: 4 * count for shape, count in LARGE.items()}
    whole = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state))
    # They are written where those taken were, so these are parts too.
    assert compiled.memory_analysis().alias_size_in_bytes < whole * 0.15  # small arrays are whole


def gathers(compiled):
    """The kinds of a program's collectives, and how many arrays of which shape it gathers."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", compiled.as_text())
    shapes = (re.search(r"\w+\[([\d,]*)\]", shape)[1] for shape, kind in found if kind == "all-gather")
    return {kind for _, kind in found}, collections.Counter(tuple(map(int, shape.split(","))) for shape in shapes)


def test_only_parameters_are_gathered_and_for_each_pass_anew(compiled):
    kinds, gathered = gathers(compiled)
    assert kinds == {"all-gather", "all-reduce"}
    assert gathered == {shape: 2 * count for shape, count in LARGE.items()}
    carried = {shape for line in compiled.as_text().splitlines() if " while(" in line for shape in shapes_in(line)}
    assert (512, 64) in carried  # gradients, from one part of a batch to the next
    assert not carried & LARGE.keys()  # each part gathers anew


def shapes_in(text):
    return {tuple(map(int, shape.split(","))) for shape in re.findall(r"f32\[([\d,]+)\]", text)}


def test_only_parameters_are_gathered_to_evaluate_beside_the_logits(on_eight, digits):
    mesh = devices.make_mesh(8)
    image = data.from_host(digits.test.image[:64], devices.split(mesh))
    on_eight[1].eval()
    arguments = on_eight[1], digits.normalize, image, devices.everywhere(mesh)
    kinds, gathered = gathers(evaluation._logits.lower(*arguments, True).compile())
    assert kinds == {"all-gather"}
    assert gathered == LARGE | {(64, 10): 1}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_gathered_for_the_forward_pass_is_not_kept(dtype, capsys):
    """Nor what layers cast it to; else a device would hold all of the network between the passes."""
    model = WideNet(1, 10, rngs=nnx.Rngs(0))
    for layer in (model.layer1.linear, model.layer2.linear, model.head):
        layer.dtype = jnp.dtype(dtype)
    graphdef, state = nnx.split(model)
    image = jnp.ones((8, 8, 8, 1))
    loss = sharding.gathering(lambda model: jnp.sum(model(image)), devices.make_mesh(8), image)
    jax.ad_checkpoint.print_saved_residuals(lambda state: loss(nnx.merge(graphdef, state)), state)
    kept = capsys.readouterr().out.splitlines()
    kept = [line for line in kept if "from the argument" not in line and "from a constant" not in line]
    shapes = {tuple(map(int, re.search(r"\[([\d,]+)\]", line)[1].split(","))) for line in kept if "[]" not in line}
    assert (8, 512) in shapes  # hidden states are
    assert not shapes & LARGE.keys()


@pytest.mark.parametrize("flags", [ON_ONE, ON_EIGHT], ids=["from parts to one device", "from one device to parts"])
def test_a_run_goes_on_in_another_layout(flags, on_one, on_eight, data_dir, digits, tmp_path):
    shutil.copytree(on_eight[0] / "checkpoints" if flags is ON_ONE else on_one[0], tmp_path / "there")
    shutil.rmtree(tmp_path / "there" / "10")
    _, history = trained(config(data_dir, tmp_path, resume=True, **flags), digits, tmp_path / "there")
    assert_same(history, on_one[1])


def assert_same_arrays(model, other):
    for one, two in zip(
        *(jax.tree.leaves(nnx.state(each, nnx.Not(nnx.RngState))) for each in (model, other)), strict=True
    ):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "flags", [{"devices": 4, "shard_parameters": True}, {"devices": 8}], ids=["four parts", "copies"]
)
def test_a_checkpoint_of_parts_is_read_in_another_layout(flags, on_eight, data_dir, digits, tmp_path):
    folder, model, _ = on_eight
    there = shutil.copytree(folder / "checkpoints", tmp_path / "there")
    found, _ = trained(config(data_dir, tmp_path, resume=True, **flags), digits, there)
    assert_same_arrays(found, model)
    (large,) = {a.sharding.shard_shape(a.shape) for a in jax.tree.leaves(nnx.state(found)) if a.shape == (512, 512)}
    assert large == ((512, 128) if flags["devices"] == 4 else (512, 512))


def test_a_finished_run_is_used_on_one_device(on_eight, capsys):
    folder, model, metrics = on_eight
    loaded = load_run(folder)
    assert {len(a.devices()) for a in jax.tree.leaves(nnx.state(loaded.model))} == {1}
    assert_same_arrays(loaded.model, model)
    load_run(folder, best=True)
    assert train.main(["evaluate", str(folder)]) == 0
    assert f"accuracy {metrics['accuracy']:.2%}" in capsys.readouterr().out


def test_which_axis_is_split():
    shapes = {(3, 3, 64, 128): (None, None, None, "batch"), (128, 64): ("batch",), (64, 64): (None, "batch")}
    shapes |= {(1001, 8): (None, "batch"), (4096,): ("batch",), (8, 511): (), (1001, 7): ()}
    like = {shape: jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes}
    found = sharding.parts(like, devices.make_mesh(8))
    assert {shape: each.spec for shape, each in found.items()} == {
        shape: PartitionSpec(*spec) for shape, spec in shapes.items()
    }


def test_one_device_has_none_to_share_with(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"^--shard-parameters needs two devices or more, got 1: drop it\.$"):
        resolve(config(data_dir, tmp_path, **ON_EIGHT | ON_ONE))

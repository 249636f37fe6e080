"""One device, eight, and two processes of four: the same losses, and no communication that is not needed."""

import collections
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_mix
from jax_mix.training import data, devices, evaluation, load_run, loop
from jax_mix.training.build import load, make_learner, prepare
from jax_mix.training.config import Config
from jax_mix.training.evaluation import evaluate
from jax_mix.training.models import PreActResNet
from jax_mix.training.step import Recipe, pure_step
from parity_tests import quick_jax
from parity_tests.tolerances import assert_close

ROOT = Path(__file__).parents[2]
CONFIG = Config(epochs=1, width=4, batch_size=256, mix_groups=8, devices=1)
FLAGS = ["--epochs", "1", "--width", "4", "--batch-size", "256", "--mix-groups", "8"]


@pytest.fixture(scope="module")
def on_one_device(digits):
    return loop.train(prepare(CONFIG, digits))[1][0]


def test_eight_devices_give_the_same_losses(on_one_device, digits):
    _, (record,) = loop.train(prepare(dataclasses.replace(CONFIG, devices=8, ema=0.9), digits))
    assert_close(record["loss"], on_one_device["loss"], "losses on other devices")
    other = dataclasses.replace(CONFIG, mix_groups=1)
    _, (record,) = loop.train(prepare(other, digits))  # groups are what partners depend on
    with pytest.raises(AssertionError):
        assert_close(record["loss"], on_one_device["loss"], "losses on other devices")


def start_two(*flags, of_each=((), ()), small=True):
    """train.py in two processes of four devices, as they run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "train.py", *(FLAGS if small else ()), *flags]
    command += ["--feed", "grain", "--coordinator", f"localhost:{port}", "--num-processes", "2"]
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    env |= {"XLA_FLAGS": quick_jax.flags()} | ({} if small else {"JAX_NUM_CPU_DEVICES": "1"})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([*command, *own, "--process-id", str(i)], cwd=ROOT, env=env, **pipes)
        for i, own in enumerate(of_each)
    ]


def two_processes(*flags, **options):
    """Status, stdout and stderr of each when both have ended."""
    processes = start_two(*flags, **options)
    output = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *told) for process, told in zip(processes, output, strict=True)]


REAL = ["--image-size", "28", "--train-images", "256", "--epochs", "2", "--mix-groups", "8"]


def on_real_sizes(devices, data_dir, out):
    """The history of the default network on images of 28x28, on devices of one process, or split over two of them."""
    flags = [*REAL, "--data-dir", data_dir, "--out", str(out), "--name", "real"]
    if devices == "two processes":
        done = two_processes(*flags, "--shard-parameters", small=False)
    else:
        env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick_jax.flags()}
        process = subprocess.run(
            [sys.executable, "train.py", *flags], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
        )
        done = [(process.returncode, process.stdout, process.stderr)]
    for status, _, told in done:
        assert status == 0, told
        assert "for several CPU devices" in told
    return json.loads((out / "real" / "metrics.json").read_text())["history"]


@pytest.mark.as_users_run
@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.long)])
@pytest.mark.parametrize("devices", [4, "two processes"])
def test_cpu_devices_work_together_at_real_sizes(devices, times, data_dir, tmp_path):
    """Where collectives were started in another order on each device, runs hung or were aborted, not at width 4."""
    for i in range(times):
        history = on_real_sizes(devices, data_dir, tmp_path / str(i))
        assert len(history) == 2
    if devices == "two processes":  # the parts that both have saved make up the network
        test = load(Config(data_dir=data_dir, image_size=28)).test
        logits = load_run(tmp_path / str(times - 1) / "real").logits(np.asarray(test.image))
        found = evaluation.measure(logits, test.label)
        np.testing.assert_allclose(found["nll"], history[-1]["nll"], rtol=1e-4)


def test_two_processes_with_different_flags_are_told(data_dir, tmp_path):
    own = (["--mix", "mixup"], ["--mix", "cutmix"])
    for status, _, told in two_processes("--data-dir", data_dir, "--out", str(tmp_path), "--name", "two", of_each=own):
        assert status == 2, told
        assert "--process-id: --alpha is 0.4 in process 0, but 1.0 in process 1: all processes need" in told


def test_what_one_process_cannot_do_ends_both(data_dir, tmp_path):
    """Else the other would wait for it, for minutes."""
    own = (["--data-dir", data_dir], ["--data-dir", data_dir, "--dataset", "./nowhere"])
    (first, _, told_first), (second, _, told_second) = two_processes("--out", str(tmp_path / "runs"), of_each=own)
    assert (first, second) == (2, 2)
    sentence = "--dataset ./nowhere: there is no such folder"
    assert f"train.py: in process 1: {sentence}" in told_first
    assert f"train.py: {sentence}" in told_second
    assert not (tmp_path / "runs").exists()


def test_two_processes_give_the_same_losses(on_one_device, data_dir, tmp_path):
    done = two_processes("--data-dir", data_dir, "--out", str(tmp_path), "--name", "two")
    assert [status for status, *_ in done] == [0, 0], done
    (line,) = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert_close(json.loads(line)["loss"], on_one_device["loss"], "losses on other devices")
    assert "test accuracy" in done[0][1]
    assert "mixing: within each of 8 groups of a batch, on 8 devices: Manifold Mixup, alpha 0.4." in done[0][1]
    assert "test accuracy" not in done[1][1]  # the first alone prints and writes
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert [config[name] for name in ("coordinator", "num_processes", "process_id", "mix_groups")] == [None] * 3 + [8]


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.long)])
def test_if_one_is_killed_the_other_ends_in_a_sentence(killed, data_dir, tmp_path):
    """And all go on from the last checkpoint; the first is special, as JAX's runtime is in it."""
    flags = ["--data-dir", data_dir, "--out", str(tmp_path), "--name", "two"]
    flags += ["--model", "mlp", "--batch-size", "256", "--epochs", "1000", "--checkpoint-every", "1"]
    processes = start_two(*flags, small=False)
    deadline = time.monotonic() + 200
    while not (tmp_path / "two/checkpoints/2").exists() and processes[0].poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[killed].kill()
    try:
        _, told = processes[1 - killed].communicate(timeout=90)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[1 - killed].returncode not in (0, None, -signal.SIGKILL)
    *_, last = told.splitlines()
    assert re.search(r"^train\.py: (process \d|another process) of this run is gone, killed or out of reach", last), (
        told
    )
    assert last.endswith("; start all of them again with the same command and --resume.")
    assert told.count("is gone") == 1
    assert "Traceback" not in told
    assert "stack trace" not in told
    assert any((tmp_path / "two/checkpoints").glob("[0-9]*"))


METHODS = {
    "none": None,
    "mixup": jax_mix.MixUp(groups=8),
    "manifold": jax_mix.ManifoldMixup(layers=("layer1", "layer2"), groups=8),
    "cutmix": jax_mix.CutMix(groups=8),
}


def collectives(method, axis_type, digits, **recipe):
    """How many of each kind a whole training step has on a batch that is split over eight devices, as compiled."""
    mesh = jax.make_mesh((8,), ("batch",), (axis_type,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    learner = make_learner(Config(ema=0.9), PreActResNet(1, 10, blocks=(1, 1), width=4, rngs=nnx.Rngs(0)), 10)
    graphdef, state = nnx.split(learner)
    batch = data.Examples(*(data.from_host(a[:64], devices.split(mesh)) for a in digits.train))
    normalize = jax.device_put(digits.normalize, everywhere)
    auto = mesh if axis_type == AxisType.Auto else None
    recipe = Recipe(method, ema=0.9, augment="none", mesh=auto, **recipe)

    def step(state, key, batch, normalize):
        return pure_step(graphdef, state, key, batch, normalize, recipe)

    with jax.set_mesh(mesh):
        arguments = jax.device_put(state, everywhere), jax.random.key(0), batch, normalize
        text = jax.jit(step).lower(*arguments).compile().as_text()
    kinds = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
    return collections.Counter(re.findall(rf"\b({'|'.join(kinds)})(?:-start)?\(", text))


@pytest.fixture(scope="module")
def of_none(digits):
    """Gradients are summed, and BatchNorm's means."""
    found = collectives(None, AxisType.Auto, digits)
    assert set(found) == {"all-reduce"}
    return found


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", ["manifold", "cutmix"])
def test_mixing_adds_no_collective(name, axis_type, digits, of_none):
    """Partners are of the same device, and each device draws all of a batch's draw."""
    assert collectives(METHODS[name], axis_type, digits) == of_none


def test_partners_of_the_whole_batch_are_fetched_from_other_devices(digits):
    """What the test above would see."""
    assert set(collectives(jax_mix.MixUp(groups=1), AxisType.Auto, digits)) > {"all-reduce"}


def test_parts_of_a_batch_stay_on_their_devices(digits):
    assert set(collectives(METHODS["mixup"], AxisType.Auto, digits, accumulate=2)) <= {"all-reduce"}


def test_as_many_labels_as_images(digits):
    """Evaluation on several devices, whose number does not divide that of the test images."""
    model = PreActResNet(1, 10, blocks=(1, 1), width=4, rngs=nnx.Rngs(0))
    shardings = devices.split(devices.make_mesh(7)), None
    on_seven, on_one = (evaluate(nnx.clone(model), digits, sharding) for sharding in shardings)
    np.testing.assert_allclose(list(on_seven.values()), list(on_one.values()), rtol=1e-4)

"""train.py from end to end: every method runs, equal seeds give equal bits, and what is cut off goes on."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from flax import nnx

import jax_mix
import train
from jax_mix.training import data, files, loop
from jax_mix.training.build import split_seed
from jax_mix.training.command_line import parse
from jax_mix.training.config import Config
from jax_mix.training.step import pure_step

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def first_run(data_dir, tmp_path_factory):
    """A short run of the defaults: its folder, model and metrics."""
    out = tmp_path_factory.mktemp("runs")
    return out, *train.run(Config(data_dir=data_dir, out=str(out), name="first", epochs=6, width=4, devices=1))


def test_the_defaults_learn(first_run):
    _, _, metrics = first_run
    assert metrics["accuracy"] > 0.8
    assert metrics["history"][-1]["loss"] < metrics["history"][0]["loss"]


def test_a_run_leaves_its_files(first_run):
    out, _, metrics = first_run
    names = sorted(path.name for path in (out / "first").iterdir())
    assert names == [
        "about.json",
        "checkpoints",
        "config.json",
        "confusion_matrix.csv",
        "confusion_matrix.png",
        "events.out.tfevents.000000001",
        "learning_curve.png",
        "metrics.json",
        "metrics.jsonl",
        "mixed_batch.png",
    ]
    assert json.loads((out / "first" / "metrics.json").read_text()) == metrics
    assert [record["epoch"] for record in metrics["history"]] == [1, 2, 3, 4, 5, 6]
    lines = (out / "first" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics["history"]
    assert {name: metrics["history"][-1][name] for name in ("accuracy", "nll", "ece")}.items() <= metrics.items()
    config = json.loads((out / "first" / "config.json").read_text())
    assert (config["alpha"], config["layers"], config["epochs"]) == (0.4, ["layer1", "layer2"], 6)


def test_config_json_repeats_the_run_to_the_last_bit(first_run, tmp_path):
    out, model, metrics = first_run
    file = str(out / "first" / "config.json")
    again, metrics_again = train.run(parse(["--config", file, "--out", str(tmp_path), "--devices", "1"], Config))
    assert metrics_again == metrics
    leaves, leaves_again = (jax.tree.leaves(nnx.to_pure_dict(nnx.state(m))) for m in (model, again))
    assert len(leaves) == len(leaves_again) > 20
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(leaves, leaves_again, strict=True))
    assert (tmp_path / "digits-manifold-0" / "metrics.json").read_bytes() == (
        out / "first" / "metrics.json"
    ).read_bytes()


SHORT = ["--epochs", "1", "--width", "4", "--batch-size", "256", "--devices", "1"]
SHORTEST = ["--epochs", "1", "--model", "mlp", "--mix", "none", "--batch-size", "256", "--devices", "1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mix", "none"], {"alpha": None, "layers": None}),
        (["--mix", "mixup"], {"alpha": 0.4, "layers": None}),
        (["--mix", "cutmix"], {"alpha": 1.0, "layers": None}),
        (
            ["--mix", "manifold", "--alpha", "2", "--layers", "layer*"],
            {"alpha": 2.0, "layers": ["layer1", "layer2", "layer3"]},
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_each_method_runs(arguments, expected, data_dir, tmp_path, capsys):
    assert train.main([*SHORT, *arguments, "--data-dir", data_dir, "--out", str(tmp_path), "--seed", "7"]) == 0
    folder = tmp_path / f"digits-{arguments[1]}-7"
    config = json.loads((folder / "config.json").read_text())
    assert expected.items() <= config.items()
    assert np.isfinite(json.loads((folder / "metrics.json").read_text())["nll"])
    output = capsys.readouterr().out
    assert "1437 training and 360 test images of 8x8x1, 10 classes" in output
    assert "test accuracy" in output
    assert str(folder) in output


@pytest.mark.as_users_run
def test_the_default_network_runs_in_bfloat16(data_dir, tmp_path):
    """In a process of its own, with JAX's own settings: Flax's norms need another promotion than these tests have."""
    flags = ["--dtype", "bfloat16", "--epochs", "2", "--data-dir", data_dir, "--out", str(tmp_path), "--name", "half"]
    subprocess.run([sys.executable, "train.py", *flags], cwd=ROOT, check=True, capture_output=True)
    history = json.loads((tmp_path / "half" / "metrics.json").read_text())["history"]
    assert np.all(np.isfinite([[record["loss"], record["nll"], record["ece"]] for record in history]))
    assert history[-1]["accuracy"] > 0.5


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(first_run, data_dir, tmp_path, capsys, monkeypatch):
    out, _, _ = first_run
    arguments = ["--data-dir", data_dir, "--epochs", "6", "--width", "4", "--out", str(tmp_path), "--name", "first"]
    arguments += ["--devices", "1"]
    step = pure_step
    calls = []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 40:  # within the second epoch
            signal.raise_signal(signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(loop, "pure_step", stopped)
    assert train.main(arguments) == 128 + signal.SIGTERM
    told = f"train.py: stopped at step 40 by SIGTERM; with --resume {tmp_path / 'first'} it goes on.\n"
    assert capsys.readouterr().err.endswith(told)
    assert not (tmp_path / "first" / "metrics.json").exists()

    assert train.main(arguments) == 2
    told = capsys.readouterr()
    assert "has the checkpoint of step 40 of a run that is not finished" in told.err
    assert told.out == ""  # before the data was loaded
    assert train.main([*arguments, "--resume", "--seed", "1", "--alpha", "0.2"]) == 2
    assert "made with --alpha 0.4, --seed 0; now they are 0.2 and 1." in capsys.readouterr().err

    def results():
        return [(folder / "first" / "metrics.json").read_bytes() for folder in (out, tmp_path)]

    folder = str(tmp_path / "first")
    assert train.main(["--resume", folder, "--devices", "1"]) == 0  # its config.json was there from the start
    steps = 6 * (1437 // 64)
    assert len(calls) == steps  # none was done twice
    first, resumed = results()
    assert resumed == first
    (tmp_path / "first" / "metrics.json").unlink()
    lines = (tmp_path / "first" / "metrics.jsonl").read_bytes()
    (tmp_path / "first" / "metrics.jsonl").write_bytes(lines[:50])
    config = str(tmp_path / "first" / "config.json")
    assert train.main(["--config", config, "--name", "first", "--resume", "--devices", "1"]) == 0
    assert "the run is finished: its results are written again" in capsys.readouterr().out
    first, again = results()
    assert (again, len(calls)) == (first, steps)
    assert (tmp_path / "first" / "metrics.jsonl").read_bytes() == lines
    config = [json.loads((folder / "first" / "config.json").read_text()) for folder in (out, tmp_path)]
    assert config[0] | {"out": ""} == config[1] | {"out": ""}
    assert config[0]["name"] is None  # repeated with other flags, it replaces nothing of that name

    assert train.main(arguments) == 2
    told = f"--name: '{folder}' holds a finished run: give this one another --name, or replace it with --overwrite."
    assert told in capsys.readouterr().err
    assert results() == [first, again]
    del calls[:-39]  # now the next call is the fortieth
    assert train.main([*arguments, "--overwrite"]) == 128 + signal.SIGTERM
    assert not (tmp_path / "first" / "metrics.json").exists()  # of what is gone
    assert [path.name for path in (tmp_path / "first" / "checkpoints").iterdir()] == ["1"]


@pytest.mark.parametrize("every", ["1", "5"])
def test_a_step_that_fails_leaves_its_draw_and_no_checkpoint(every, data_dir, digits, tmp_path, capsys):
    arguments = ["--learning-rate", "1e30", "--data-dir", data_dir, "--out", str(tmp_path), "--name", "high"]
    assert train.main([*SHORT, *arguments, "--checkpoint-every", every]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    what, step = {"1": ("the model became infinite or nan", 2), "5": ("the loss became nan", 3)}[every]
    path = tmp_path / "high" / "failed_step.npz"
    kept = "; checkpoints are kept" if every == "1" else ""
    assert told == (
        f"train.py: {what} in step {step}: --learning-rate 1e+30 may be too high; its images and draw are in "
        f"'{path}'{kept}."
    )
    assert [folder.name for folder in (tmp_path / "high").glob("checkpoints/*")] == (["1"] if every == "1" else [])

    failed = dict(np.load(path))
    index = failed.pop("index")
    assert failed.pop("step") == step
    order_key, step_key = split_seed(Config())[1:3]
    np.testing.assert_array_equal(index, data.epoch_batches(order_key, 1, 1437, 256)[step - 1])
    key = jax.random.fold_in(step_key, step - 1)
    np.testing.assert_array_equal(failed.pop("key"), jax.random.key_data(key))
    mix = jax_mix.Mix(**failed)  # to be replayed
    expected = jax_mix.ManifoldMixup(layers=("layer1", "layer2")).sample(jax.random.split(key)[1], (256, 8, 8, 1))
    np.testing.assert_allclose(mix.lam, expected.lam, rtol=1e-6)
    np.testing.assert_array_equal(mix.partner, expected.partner)
    assert int(mix.layer) == int(expected.layer)
    assert mix.layers.tolist() == ["input", "layer1", "layer2"]


def test_a_step_that_fails_is_told_though_its_draw_cannot_be_written(data_dir, tmp_path, capsys, monkeypatch):
    def full(path, arrays):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("jax_mix.training.failed_step.write_npz", full)
    arguments = ["--learning-rate", "1e30", "--data-dir", data_dir, "--out", str(tmp_path), "--name", "high"]
    assert train.main([*SHORT, *arguments]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("train.py: the loss became nan in step 3: --learning-rate 1e+30 may be too high; its images")
    assert "could not be written, [Errno 28] No space left on device" in told


@pytest.mark.parametrize(("error", "status"), [(None, 0), (OSError(28, "No space left on device"), 2)])
def test_a_picture_that_is_drawn_beside_is_waited_for(error, status, data_dir, tmp_path, capsys, monkeypatch):
    def slow(path, *_):
        with files.write_atomically(path) as temporary:
            temporary.write_text("pixels")
            time.sleep(2)  # until long after the run's last step
            if error:
                raise error

    monkeypatch.setattr("jax_mix.training.plots.plot_mixed_batch", slow)
    assert train.main([*SHORTEST, "--data-dir", data_dir, "--out", str(tmp_path), "--name", "slow"]) == status
    left = {path.name for path in (tmp_path / "slow").glob("m*.*")}
    assert left == ({"metrics.jsonl"} if error else {"metrics.json", "metrics.jsonl", "mixed_batch.png"})
    assert (f"{tmp_path / 'slow' / 'mixed_batch.png'}" in capsys.readouterr().err) == bool(error)


def test_other_images_or_labels_are_not_gone_on_with(data_dir, tmp_path, digits, capsys, monkeypatch):
    flags = [*SHORTEST, "--data-dir", data_dir, "--out", str(tmp_path), "--name", "other"]
    assert train.main(flags) == 0
    label = np.array(digits.train.label)
    label[[0, 1]] = label[[1, 0]]
    assert label[0] != label[1]
    other = dataclasses.replace(digits, train=digits.train._replace(label=label))
    monkeypatch.setattr(data, "load", lambda *_, **__: other)
    assert train.main([*flags, "--resume"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"made with --dataset digits (1437 images, {digits.fingerprint}); now it is digits (1437 images, " in told


def test_ctrl_c_before_training_ends_without_a_traceback(data_dir, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "load", interrupted)
    assert train.main([*SHORT, "--data-dir", data_dir, "--out", str(tmp_path)]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "train.py: stopped by SIGINT, outside of training.\n"


def test_the_bar_tells_of_the_compilation_and_does_not_count_its_time(data_dir, tmp_path, capfd, monkeypatch):
    clock = [0.0]

    def slow(*args):
        clock[0] += 100 if clock[0] == 0 else 2
        return pure_step(*args)

    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    monkeypatch.setattr(loop, "pure_step", slow)
    assert train.main([*SHORTEST, "--data-dir", data_dir, "--out", str(tmp_path), "--name", "it"]) == 0
    shown = [line.split("|", 2) for line in capfd.readouterr().err.split("\r") if "|" in line]
    told = [
        (before.split(":")[0] if ":" in before else "", after.strip().split("step/s")[0]) for before, _, after in shown
    ]
    assert told[1] == ("compiling the step", "0/5 [00:00<?, ?")
    assert told[2:4] == [("", "1/5 [00:00<?, ?"), ("", "2/5 [00:02<00:06,  2.00s/step]")]


WHILE_IMPORTING = """
import runpy, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "flax":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_path("train.py", run_name="__main__")
"""


def test_ctrl_c_while_all_is_imported_ends_without_a_traceback():
    done = subprocess.run([sys.executable, "-c", WHILE_IMPORTING], cwd=ROOT, capture_output=True, text=True)
    told = "train.py: stopped by SIGINT before it began.\n"
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, told)


def test_a_run_without_a_checkpoint_goes_on_with_the_flags_that_it_was_begun_with(
    data_dir, tmp_path, capsys, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "pure_step", interrupted)
    flags = ["--model", "mlp", "--data-dir", data_dir, "--out", str(tmp_path), "--name", "it", "--devices", "1"]
    for again in (flags, [*flags, "--resume"], ["--resume", str(tmp_path / "it"), "--devices", "1"]):
        assert train.main(again) == 128 + signal.SIGINT
    assert "there is no checkpoint yet: from the beginning" in capsys.readouterr().out
    config = (tmp_path / "it" / "config.json").read_bytes()
    for other in ([*flags, "--resume"], ["--resume", str(tmp_path / "it"), "--devices", "1"]):
        assert train.main([*other, "--epochs", "1", "--layers", "hidden.0"]) == 2
        told = f"--resume: the run in '{tmp_path / 'it'}' was begun with --epochs 20, --layers "
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"train.py: {told}")
        assert error.endswith("; now they are 1 and hidden.0.")
    assert (tmp_path / "it" / "config.json").read_bytes() == config


def test_importing_brings_in_no_other_framework():
    code = "import sys, train; print([m for m in ('torch', 'tensorflow', 'fastai') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_cannot_be_printed_ends_no_run(data_dir, tmp_path):
    """Where Python prints in ASCII, say, as in a container."""
    flags = [*SHORTEST, "--data-dir", data_dir, "--out", str(tmp_path), "--name", "café $5$"]
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "train.py", *flags], cwd=ROOT, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "café $5$" / "metrics.json").exists()
    assert rb"caf\xe9 $5$" in done.stdout


def test_a_path_that_is_no_utf8_is_refused(data_dir, tmp_path, capsys):
    flags = ["--data-dir", data_dir, "--out", str(tmp_path), "--name", os.fsdecode(b"caf\xe9")]
    assert train.main([*SHORT, *flags]) == 2
    assert f"--out: the path of the folder '{tmp_path}/caf\\xe9' is not UTF-8" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_run_that_is_killed_twenty_times_leaves_the_same_bytes(data_dir, tmp_path):
    """SIGKILL to train.py itself at random moments, also while it starts, compiles, saves or writes its results."""

    def start(name):
        flags = ["--data-dir", data_dir, "--out", str(tmp_path), "--name", name, "--epochs", "30", "--width", "4"]
        flags += ["--checkpoint-every", "5", "--ema", "0.9", "--feed", "grain"]
        flags += ["--resume"] if any((tmp_path / name / "checkpoints").glob("[0-9]*[0-9]")) else []
        return subprocess.Popen([sys.executable, "train.py", *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def finish(name):
        _, told = (process := start(name)).communicate()
        assert process.returncode == 0, told
        return [(tmp_path / name / file).read_bytes() for file in ("metrics.json", "metrics.jsonl")]

    rng = random.Random(0)
    for _ in range(20):
        process = start("killed")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=rng.uniform(1, 25))
        process.kill()
        process.wait()
    assert finish("killed") == finish("unbroken")

"""--keep-best and --patience: the best epoch is kept and the run ends, the same when it was cut off between."""

import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import train
from jax_mix.training import load_run, loop
from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.config import Config
from jax_mix.training.errors import Stopped

ACCURACIES = (0.3, 0.5, 0.4, 0.5, 0.5, 0.5, 0.9)
NLLS = (1.0, 0.9, 0.8, 0.9, 1.0, 0.95, 0.1)  # the second epoch is the best until the seventh, which is never reached
STEPS = 1437 // 256


def test_the_best_epoch_has_the_highest_accuracy_then_the_lowest_nll_then_is_the_first():
    history = [{"epoch": k, "accuracy": a, "nll": n} for k, (a, n) in enumerate(zip(ACCURACIES, NLLS, strict=True), 1)]
    assert [loop.best_epoch(history[:k])["epoch"] for k in range(1, 8)] == [1, 2, 2, 2, 2, 2, 7]
    history[3]["nll"] = 0.85
    assert loop.best_epoch(history[:6])["epoch"] == 4
    assert [loop.has_ended(history[:k], 2) for k in range(8)] == [False] * 6 + [True, False]
    assert not loop.has_ended(history[:6], None)
    assert [loop.has_ended([history[1], history[4]], patience) for patience in (3, 4)] == [True, False]


@pytest.fixture
def measured(monkeypatch):
    """Says from which epoch on the accuracies are given; gives the weights of each epoch that was measured."""
    weights = {}

    def start(epoch, accuracies=ACCURACIES):
        epochs = iter(range(epoch, 8))

        def evaluation(model, *_):
            now = next(epochs)
            weights[now] = jax.device_get(jax.tree.leaves(nnx.state(model)))
            return lambda: {"accuracy": accuracies[now - 1], "nll": NLLS[now - 1], "ece": 0.1}

        monkeypatch.setattr(loop, "evaluation", evaluation)

    start.weights = weights
    return start


def config(out, data_dir, **others):
    flags = {"model": "mlp", "mix": "none", "batch_size": 256, "epochs": 7, "devices": 1, "name": "it"}
    return Config(data_dir=data_dir, out=str(out), **(flags | {"patience": 4, "keep_best": True} | others))


def assert_is(trained, weights):
    for one, other in zip(jax.tree.leaves(nnx.state(trained.model)), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def check(folder, measured):
    """The run ended after the sixth epoch, four after its best, which is kept."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [record["epoch"] for record in metrics["history"]] == [1, 2, 3, 4, 5, 6]
    assert metrics["best"] == metrics["history"][1]
    assert (metrics["best"]["step"], metrics["history"][-1]["step"]) == (2 * STEPS, 6 * STEPS)
    assert_is(load_run(folder), measured.weights[6])
    assert_is(load_run(folder, best=True), measured.weights[2])
    assert any(
        not np.array_equal(one, other) for one, other in zip(measured.weights[6], measured.weights[2], strict=True)
    )


def test_a_run_ends_and_keeps_its_best(data_dir, tmp_path, measured, capsys):
    measured(1)
    train.run(config(tmp_path, data_dir, checkpoint_every=1000))  # the end is saved all the same
    check(tmp_path / "it", measured)
    assert "epoch 2 has the highest test accuracy, 50.00%, and is kept too" in capsys.readouterr().out
    written = (tmp_path / "it" / "metrics.json").read_bytes()
    measured(8)  # nothing is left to be measured
    train.run(config(tmp_path, data_dir, checkpoint_every=1000, resume=True))
    assert "the run is finished: its results are written again" in capsys.readouterr().out
    assert (tmp_path / "it" / "metrics.json").read_bytes() == written
    shutil.rmtree(tmp_path / "it" / "best" / str(2 * STEPS))
    assert train.main(["predict", str(tmp_path / "it"), __file__, "--best"]) == 2
    assert "the checkpoint of step 10 could not be saved, " in capsys.readouterr().err
    measured(1)
    train.run(config(tmp_path, data_dir, patience=None, overwrite=True, epochs=1))
    assert capsys.readouterr().out.splitlines()[-2] == "epoch 1, the last, has the highest test accuracy, 30.00%"
    measured(1)
    train.run(config(tmp_path, data_dir, keep_best=False, patience=None, overwrite=True, epochs=1))
    assert not (tmp_path / "it" / "best").exists()  # that of another run would be taken for this one's


def stop_in(epoch, monkeypatch):
    """SIGTERM comes at the first step of this epoch."""
    step, calls = loop.pure_step, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == (epoch - 1) * STEPS + 1:
            signal.raise_signal(signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(loop, "pure_step", stopped)


@pytest.fixture
def cut_off(data_dir, tmp_path, measured, monkeypatch):
    """The folder of a run that was stopped in its third epoch."""
    stop_in(3, monkeypatch)
    measured(1)
    with pytest.raises(Stopped):
        train.run(config(tmp_path, data_dir))
    return tmp_path / "it"


def test_a_run_that_was_cut_off_keeps_the_same(cut_off, data_dir, measured):
    measured(3)
    train.run(config(cut_off.parent, data_dir, resume=True))
    check(cut_off, measured)


@pytest.mark.parametrize("accuracies", [ACCURACIES, (0.3, 0.1, 0.1, 0.1, 0.1)])
def test_a_run_that_lost_the_checkpoints_of_its_best_makes_it_again(accuracies, cut_off, data_dir, measured):
    """It was killed after the best was kept; and on other devices, say, another epoch is the best."""
    for path in (cut_off / "checkpoints").iterdir():
        shutil.rmtree(path)
    shutil.copytree(cut_off / "best" / str(STEPS), cut_off / "checkpoints" / str(STEPS))  # they are alike
    measured(2, accuracies)
    train.run(config(cut_off.parent, data_dir, resume=True))
    if accuracies == ACCURACIES:
        check(cut_off, measured)
    assert_is(load_run(cut_off, best=True), measured.weights[2 if accuracies == ACCURACIES else 1])


@pytest.mark.parametrize("epoch", [4, 5])
def test_test_images_are_looked_at_after_every_so_many_epochs(epoch, data_dir, tmp_path, monkeypatch):
    """The rest of the run is the same, also if it was cut off, in the epoch after one that was evaluated or was not."""
    flags = {"patience": None, "keep_best": False}
    _, whole = train.run(config(tmp_path, data_dir, **flags))
    stop_in(epoch, monkeypatch)
    with pytest.raises(Stopped):
        train.run(config(tmp_path, data_dir, **flags, evaluate_every=3, name="some"))
    _, some = train.run(config(tmp_path, data_dir, **flags, evaluate_every=3, name="some", resume=True))
    assert [record["epoch"] for record in some["history"]] == [3, 6, 7]
    assert some["history"] == [whole["history"][epoch - 1] for epoch in (3, 6, 7)]


def test_the_best_epochs_checkpoint_is_begun_when_the_runs_own_is_not_through(tmp_path, capsys):
    """Orbax confused two saves that were begun at a time: some failed, and some were waited for without end."""
    state = {str(i): jnp.ones(8) for i in range(20)}
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints, Checkpoints(tmp_path / "best", {}) as best:
        for step in range(1, 13):
            best.save(step, state, [])
            best.wait()
            checkpoints.save(step, state, [])
        assert checkpoints.steps == best.steps == [11, 12]
    assert capsys.readouterr().err == ""

"""compare/: its statistics against SciPy, its runs against train.py's, what is kept, resumed, refused and shown."""

import csv
import dataclasses
import json
import math
import re
import signal

import jax
import numpy as np
import pytest
from scipy import stats

import train
from jax_mix.compare import command, planar, seeds, summary
from jax_mix.compare.settings import Comparison
from jax_mix.training import evaluation, loop
from jax_mix.training.build import make_learner, split_seed
from parity_tests.tolerances import assert_close

SMALL = ["--model", "mlp", "--epochs", "2", "--seeds", "2", "--noise-levels", "0.5", "--radii", "0.1"]
SMALL += ["--attacked", "50", "--train-images", "320", "--devices", "1", "--methods", "none", "mixup:0.4", "cutmix"]


@pytest.fixture(autouse=True)
def short_planar(monkeypatch):
    """The problems in the plane have a test of their own."""
    monkeypatch.setattr(planar, "_STEPS", 5)


@pytest.fixture
def no_page(monkeypatch):
    """The report is what takes longest: where it is not the matter, it is not made."""
    monkeypatch.setattr(command.page, "write", lambda *_: None)


def compare(data_dir, out, *flags):
    return train.main(["compare", "--data-dir", data_dir, "--out", str(out), "--name", "it", *flags])


@pytest.fixture(scope="module")
def compared(data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planar, "_STEPS", 5)
        assert compare(data_dir, out, *SMALL) == 0
    return out / "it"


def rows(folder, name="cells.csv"):
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_interval_is_scipys_of_paired_samples():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.1, 1, 7), rng.normal(0, 1, 7)
    for among in (1, 3):
        theirs = stats.ttest_rel(a, b).confidence_interval(1 - 0.05 / among)
        ours = summary.interval(a - b, among=among)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
        assert ours.mean == pytest.approx((a - b).mean())
    assert summary.interval([0.3]) == (0.3, -math.inf, math.inf, 1)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-1.0, -1.1, -0.9], "better"),
        ([1.0, 1.1, 0.9], "worse"),
        ([-1.0, 1.0, 0.1], "undecided"),
        ([-9.0], "undecided"),
    ],
)
def test_verdicts(differences, verdict):
    assert summary.interval(differences).verdict == verdict


def test_runs_are_paired_by_seed_and_failed_ones_left_out():
    comparison = Comparison(methods=("none", "mixup"), seeds=3, noise_levels=(), radii=(0.1,))
    errors = {"none": {0: 0.1, 1: 0.2, 2: 0.3}, "mixup": {2: 0.25, 0: 0.05}}
    lines = [
        {"method": method, "noise": 0.0, "seed": seed, "last_error": error}
        for method, of in errors.items()
        for seed, error in of.items()
    ]
    lines.append({"method": "mixup", "noise": 0.0, "seed": 1})  # failed
    lines.append({"method": "mixup", "noise": 0.5, "seed": 1, "last_error": 1.0})  # of another line
    none, mixup = summary.find(comparison, lines)[0]
    assert none.difference is None
    assert mixup.difference.n == 2
    assert mixup.difference.mean == pytest.approx(-0.05)
    assert mixup.mean == pytest.approx(0.15)
    assert none.mean == pytest.approx(0.2)


def test_one_seed_of_all_methods_shares_weights_order_and_wrong_labels(digits):
    comparison = Comparison(methods=("none", "mixup", "manifold:2.0"), noise_levels=(0.4,), devices=1)
    cells = comparison.cells
    assert len(cells) == 3 * 5 * 2
    assert len({cell.name for cell in cells}) == len(cells)
    for seed in (0, 1):
        configs = [cell.config for cell in cells if (cell.noise, cell.seed) == (0.4, seed)]
        assert [config.alpha for config in configs] == [None, 1.0, 2.0]
        keys = [jax.random.key_data(split_seed(config)) for config in configs]
        assert all((key == keys[0]).all() for key in keys)
        same = [dataclasses.replace(config, mix="none", alpha=None) for config in configs]
        assert same[0] == same[1] == same[2]


def test_all_numbers_follow_from_cells_csv(compared):
    lines = rows(compared)
    assert len(lines) == 3 * 2 * 2
    assert all(line["status"] == "finished" for line in lines)
    found = rows(compared, "differences.csv")
    assert {line["method"] for line in found} == {"mixup:0.4", "cutmix"}
    for line in found:
        values = {
            method: [
                float(each[line["column"]])
                for each in lines
                if (each["method"], float(each["noise"])) == (method, float(line["noise"]))
            ]
            for method in (line["method"], "none")
        }
        differences = np.subtract(values[line["method"]], values["none"])
        assert float(line["mean"]) == pytest.approx(differences.mean())
        if differences.std() > 0:
            theirs = stats.ttest_rel(values[line["method"]], values["none"]).confidence_interval(1 - 0.05 / 2)
            assert (float(line["low"]), float(line["high"])) == pytest.approx((theirs.low, theirs.high))
    titles = {line["claim"] for line in found}
    assert {"Test error", "Error after 50% random labels", "Error under PGD, radius 0.1"} <= titles


def test_the_runs_are_train_pys(compared, data_dir, tmp_path):
    """A run of the comparison has the numbers that train.py has for it."""
    flags = [
        "--mix",
        "mixup",
        "--alpha",
        "0.4",
        "--seed",
        "1",
        "--label-noise",
        "0.5",
        "--model",
        "mlp",
        "--epochs",
        "2",
    ]
    flags += ["--train-images", "320", "--devices", "1", "--data-dir", data_dir, "--out", str(tmp_path), "--name", "it"]
    assert train.main(flags) == 0
    alone = json.loads((tmp_path / "it" / "metrics.json").read_text())["history"]
    together = json.loads((compared / "runs" / "mixup-0.4-noise0.5-seed1.json").read_text())["history"]
    for one, other in zip(alone, together, strict=True):
        assert other.keys() - one.keys() == {"fit_accuracy", "fit_nll"}
        assert_close([other[name] for name in one], list(one.values()), "another order of summation")


def test_best_and_last_epochs_and_clean_images(compared):
    for line in rows(compared):
        record = json.loads((compared / "runs" / f"{_name(line)}.json").read_text())
        errors = [1 - epoch["accuracy"] for epoch in record["history"]]
        assert float(line["last_error"]) == errors[-1]
        assert float(line["best_error"]) == min(errors)
        assert int(line["best_epoch"]) == errors.index(min(errors)) + 1
        assert sum(record["reliability"]["number"]) == 360
        images, error = (float(line[f"train_{name}"]) for name in ("images", "error"))  # all 320 are looked at
        assert (images, error) == (320, pytest.approx(1 - record["history"][-1]["fit_accuracy"], abs=1e-6))
        assert ("train_learned" in line and line["train_learned"] != "") == (record["noise"] > 0)
        gaps = np.subtract(record["reliability"]["confidence"], record["reliability"]["accuracy"])
        ece = np.abs(gaps * record["reliability"]["number"]).sum() / 360
        assert ece == pytest.approx(record["history"][-1]["ece"], rel=1e-4)
        assert ("adversarial" in record) == (record["noise"] == 0)
        if record["noise"] == 0:
            assert record["adversarial"]["fgsm"][0] == record["adversarial"]["pgd"][0]  # radius 0


def _name(line):
    return f"{line['method'].replace(':', '-')}-noise{float(line['noise']):g}-seed{line['seed']}"


def test_nothing_is_trained_twice(compared, data_dir, monkeypatch, no_page):
    before = {path.name: path.read_bytes() for path in (compared / "runs").iterdir()}
    trained = []

    def counted(configs, *others):
        trained.extend((config.mix, config.label_noise, config.seed) for config in configs)
        return seeds_train(configs, *others)

    seeds_train = seeds.train_seeds
    monkeypatch.setattr("jax_mix.compare.cells.train_seeds", counted)
    assert compare(data_dir, compared.parent, *SMALL) == 0
    assert trained == []
    assert {path.name: path.read_bytes() for path in (compared / "runs").iterdir()} == before
    more = [*SMALL, "--seeds", "3", "--methods", "none", "cutmix"]
    assert compare(data_dir, compared.parent, *more) == 0  # a third seed, and one method less
    assert sorted(trained) == [("cutmix", 0.0, 2), ("cutmix", 0.5, 2), ("none", 0.0, 2), ("none", 0.5, 2)]


def test_runs_of_another_config_are_refused(compared, data_dir, capsys):
    assert compare(data_dir, compared.parent, *SMALL, "--epochs", "3") == 2
    assert "was made with --epochs 2; now it is 3: give this comparison another --name." in capsys.readouterr().err
    assert compare(data_dir, compared.parent, *SMALL, "--radii", "0.2") == 2
    assert "made with --radii 0.1; now it is 0.2" in capsys.readouterr().err


def test_runs_made_before_the_fit_was_measured_are_read(compared, data_dir, capsys, monkeypatch):
    """The report of them says nothing of it (test_regime.py)."""
    shown = []
    monkeypatch.setattr(command.page, "write", lambda folder, comparison, dataset, found, *_: shown.extend(found))
    path = compared / "runs" / "none-noise0-seed0.json"
    text = path.read_text()
    record = json.loads(text)
    del record["training"]
    path.write_text(json.dumps(record))
    assert compare(data_dir, compared.parent, *SMALL) == 0
    path.write_text(text)
    assert "12 runs, 12 of them made before" in capsys.readouterr().out
    assert ["training" in each for each in shown].count(False) == 1


def test_config_json_repeats_the_comparison(compared, data_dir, capsys, no_page):
    assert compare(data_dir, compared.parent, *SMALL) == 0  # so that it is of this one
    config = json.loads((compared / "config.json").read_text())
    assert train.main(["compare", "--config", str(compared / "config.json")]) == 0
    assert "12 runs, 12 of them made before" in capsys.readouterr().out
    assert json.loads((compared / "config.json").read_text()) == config


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100],
        lambda text: "",
        lambda text: "[1]",
        lambda text: text.replace('"history"', '"story"'),
        lambda text: text.replace('"accuracy"', '"precision"', 1),
        lambda text: text.replace('"fgsm"', '"fgs"'),
        lambda text: text.replace('"seed": 0,', '"seed": 7,', 1),
        lambda text: re.sub(r'"nll": [0-9.e-]+', '"nll": null', text),
        lambda text: re.sub(r'"nll": [0-9.e-]+', '"nll": NaN', text),
        lambda text: re.sub(r'"true_error": [0-9.e-]+', '"true_error": NaN', text),
    ],
)
def test_a_broken_file_is_told(damage, compared, data_dir, capsys):
    path = compared / "runs" / "none-noise0-seed0.json"
    text = path.read_text()
    path.write_text(damage(text))
    try:
        assert damage(text) != text
        assert compare(data_dir, compared.parent, *SMALL) == 2
        told = capsys.readouterr().err
        assert f"--name: cannot read '{path}'" in told
        assert "delete it, to train it once more" in told
    finally:
        path.write_text(text)


@pytest.mark.parametrize("batch_seeds", ["on", "off"])
def test_a_method_that_failed_is_shown_with_its_reason(batch_seeds, data_dir, tmp_path, monkeypatch):
    """A learning rate at which only some runs stay finite: here made so for one method."""
    make = make_learner

    def too_high_for_mixup(config, model, steps):
        return make(dataclasses.replace(config, learning_rate=1e38) if config.mix == "mixup" else config, model, steps)

    monkeypatch.setattr(loop, "make_learner", too_high_for_mixup)
    monkeypatch.setattr(seeds, "make_learner", too_high_for_mixup)
    assert compare(data_dir, tmp_path, *SMALL, "--batch-seeds", batch_seeds) == 0
    lines = rows(tmp_path / "it")
    assert {line["method"] for line in lines if line["status"] == "failed"} == {"mixup:0.4"}
    assert all("may be too high" in line["reason"] for line in lines if line["status"] == "failed")
    page = (tmp_path / "it" / "report.html").read_text()
    assert "MixUp, alpha 0.4 failed in 2 of 2 runs: the " in page
    assert "MixUp, alpha 0.4 with 50% random labels failed in 2 of 2 runs" in page
    assert "CutMix" in page


def test_a_method_that_cannot_begin_is_shown_too(data_dir, tmp_path, capsys):
    """CutMix and MixUp take any image; here Manifold Mixup finds no layer that it could mix."""
    model = tmp_path / "flat.py"
    model.write_text(
        "from flax import nnx\n\n\n"
        "class Flat(nnx.Module):\n"
        "    def __init__(self, in_channels, num_classes, *, image_size, rngs):\n"
        "        n = in_channels * image_size[0] * image_size[1]\n"
        "        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (n, num_classes)))\n\n"
        "    def __call__(self, image):\n"
        "        return image.reshape(image.shape[0], -1) @ self.kernel[...]\n"
    )
    flags = [*SMALL, "--model", f"{model}:Flat", "--methods", "none", "manifold"]
    assert compare(data_dir, tmp_path, *flags) == 0, capsys.readouterr().err
    failed = [line for line in rows(tmp_path / "it") if line["status"] == "failed"]
    assert len(failed) == 4
    assert "Manifold Mixup failed in 2 of 2 runs" in (tmp_path / "it" / "report.html").read_text()


def test_on_several_devices(data_dir, tmp_path, monkeypatch, no_page):
    monkeypatch.setattr(planar, "compare", lambda seeds: {})
    flags = ["--model", "mlp", "--epochs", "1", "--seeds", "1", "--noise-levels", "0.5", "--methods", "none"]
    flags += ["--radii", "0.1", "--attacked", "50", "--train-images", "320", "--devices", "2", "--ema", "0.9"]
    assert compare(data_dir, tmp_path, *flags) == 0


def test_if_every_run_failed_so_does_the_command(data_dir, tmp_path, capsys):
    assert compare(data_dir, tmp_path, *SMALL, "--learning-rate", "1e38") == 2
    assert "--learning-rate 1e+38 may be too high" in capsys.readouterr().err


@pytest.mark.parametrize("batch_seeds", ["on", "off"])
def test_a_comparison_that_was_stopped_goes_on_to_the_same_numbers(
    batch_seeds, compared, data_dir, tmp_path, capsys, monkeypatch, no_page
):
    flags = [*SMALL, "--batch-seeds", batch_seeds, "--methods", "none", "cutmix"]
    calls = []

    def counted(function):
        def call(*arguments):
            calls.append(None)
            if len(calls) == 7:
                signal.raise_signal(signal.SIGTERM)
            return function(*arguments)

        return call

    monkeypatch.setattr(loop, "evaluation", counted(evaluation.evaluation))
    monkeypatch.setattr(seeds, "evaluate", counted(evaluation.evaluate))
    assert compare(data_dir, tmp_path, *flags) == 128 + signal.SIGTERM
    assert "SIGTERM" in capsys.readouterr().err
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "it" / "runs").glob("*.json")}
    assert kept
    assert not (tmp_path / "it" / "config.json").exists()
    assert compare(data_dir, tmp_path, *flags) == 0
    if batch_seeds == "off":
        assert len(calls) == 2 * 2 * 2 * 2  # methods, noise levels, seeds, epochs: none was done twice
    for name, when in kept.items():
        assert (tmp_path / "it" / "runs" / name).stat().st_mtime_ns == when
    for path in (tmp_path / "it" / "runs").glob("*seed*.json"):
        ours, whole = (json.loads((folder / path.name).read_text()) for folder in (path.parent, compared / "runs"))
        for one, other in zip(ours["history"], whole["history"], strict=True):
            assert_close(list(one.values()), list(other.values()), "another order of summation")
    assert not [path for path in (tmp_path / "it" / "runs").iterdir() if path.is_dir()]  # no checkpoint is left


@pytest.mark.as_users_run  # of a thousand steps most of the time is running them
def test_on_the_plane_mixing_widens_boundaries(monkeypatch):
    monkeypatch.undo()
    found = planar.compare(2)
    for of in found.values():
        assert np.mean(of["none"]["error"]) < 0.08
        for method in ("mixup", "manifold"):
            assert np.mean(of[method]["unsure"]) > 2 * np.mean(of["none"]["unsure"])
            assert np.mean(of[method]["error"]) < 0.25
        plane = np.array(of["none"]["probability"])
        sure = np.maximum(plane, 1 - plane) >= planar.SURE
        assert np.mean(~sure) == pytest.approx(of["none"]["unsure"][0], abs=0.002)  # three digits are kept


@pytest.mark.parametrize(
    ("errors", "short"),
    [
        ({"none": [0.10, 0.11, 0.12], "mixup": [0.05, 0.061, 0.069]}, "Yes: MixUp lowers test error to 6.00%"),
        ({"none": [0.10, 0.11, 0.12], "mixup": [0.15, 0.161, 0.169]}, "No: every method raises test error"),
        ({"none": [0.10, 0.11, 0.12], "mixup": [0.05, 0.19, 0.12]}, "Not that these runs could show."),
        ({"none": [0.10], "mixup": [0.05]}, "One seed cannot tell."),
        ({"none": [], "mixup": [0.05]}, "There is no answer."),
    ],
)
def test_the_answer(errors, short):
    comparison = Comparison(methods=("none", "mixup"), noise_levels=())
    lines = [
        {"method": method, "noise": 0.0, "seed": seed, "last_error": error}
        for method, of in errors.items()
        for seed, error in enumerate(of)
    ]
    found = command.page.answer(comparison, summary.find(comparison, lines)[0])
    assert found["short"].startswith(short)

"""The files of flags in recipes/: each is one command, and what is wrong with a file is told with its name."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import train
from jax_mix.compare.settings import Comparison
from jax_mix.training.command_line import parse
from jax_mix.training.config import Config
from jax_mix.training.errors import UserError

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_file_says_what_is_not_the_default_already(path):
    """Every name in it is a flag's, and a flag that is typed holds in its place."""
    config = parse(["--config", str(path), "--epochs", "7", "--warmup-epochs", "None"], Config)
    assert (config.epochs, config.warmup_epochs) == (7, None)
    recipe = parse(["--config", str(path)], Config)
    text = path.read_text()
    given = [field.name for field in dataclasses.fields(Config) if f"\n{field.name} = " in text]
    assert {"model", "epochs", "batch_size", "mix", "learning_rate"} <= set(given)
    changed = [f.name for f in dataclasses.fields(Config) if getattr(recipe, f.name) != getattr(Config, f.name)]
    assert set(changed) <= set(given)
    assert f"python train.py --config recipes/{path.name}" in text.replace("\n# ", " ")


WRONG = {
    "a name that is no flag's": ("batchsize = 4", ["'--batchsize' is not a flag: did you mean --batch-size?"]),
    "a flag of the command line": ('config = "x"', ["'--config' is not a flag"]),
    "what asks for help": ('help = "x"', ["'--help' is not a flag"]),
    "a table": ("[optimizer]\nname = 'sgd'", ["has {'name': 'sgd'} for 'optimizer', which no flag can be"]),
    "a date": ("epochs = 2020-01-01", ["for 'epochs', which no flag can be"]),
    "a word for a number": ("epochs = 'many'", ["has 'many' for --epochs, which it cannot be"]),
    "no TOML": ("epochs 20", ["cannot be read as a file of flags, epochs = 20"]),
    "a flag for a value": ('layers = ["layer1", "--overwrite"]', ["has ['layer1', '--overwrite'] for 'layers'"]),
    "a flag twice": ("batch_size = 4\nbatch-size = 8", ["has both batch-size and batch_size, which are one flag"]),
    "a value out of range": ("epochs = 0", ["--epochs must be at least 1, got 0"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_file_is_told(case, tmp_path, capsys):
    text, fragments = WRONG[case]
    (tmp_path / "file.toml").write_text(text)
    assert train.main(["--config", str(tmp_path / "file.toml"), "--out", str(tmp_path / "runs")]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert all(fragment in told for fragment in fragments), told
    assert case == "a value out of range" or f"--config: '{tmp_path / 'file.toml'}'" in told
    assert not (tmp_path / "runs").exists()


def test_a_file_may_have_names_as_flags_have_them_and_switches(tmp_path):
    path = tmp_path / "file.toml"
    path.write_text(
        'batch-size = 32\nkeep-best = true\noverwrite = false\nclass_weights = [1.0, 2.5]\nlayers = ["layer1"]'
    )
    config = parse(["--config", str(path), "--batch-size", "16"], Config)
    assert (config.batch_size, config.keep_best, config.overwrite) == (16, True, False)
    assert (config.class_weights, config.layers) == (("1.0", "2.5"), ("layer1",))


def test_files_as_windows_writes_them_and_one_file_at_a_time(tmp_path):
    path = tmp_path / "FILE.TOML"
    path.write_text("epochs = 3", encoding="utf-8-sig")
    assert parse(["--config", str(path)], Config).epochs == 3
    with pytest.raises(UserError, match=r"^--config is given .*FILE.TOML and other.toml: one file at a time\.$"):
        parse(["--config", str(path), "--config", "other.toml"], Config)
    with pytest.raises(UserError, match=r"^--config names no file"):
        parse(["--config"], Config)


def test_a_file_for_one_run_is_not_for_a_comparison(tmp_path):
    path = tmp_path / "file.toml"
    path.write_text('epochs = 3\nmix = "cutmix"')
    with pytest.raises(UserError, match=r"^--config: '.*' is for one run, as mix is, not of a comparison\.$"):
        parse(["--config", str(path)], Comparison)
    path.write_text("epochs = 3")
    assert parse(["--config", str(path)], Comparison).epochs == 3


SMALL = {
    "resnet50_a3": ["--width", "4", "--image-size", "32"],
    "deit_s": ["--width", "64", "--image-size", "32"],
    "cifar_preact_mixup": ["--width", "4"],
    "cifar_preact_manifold": ["--width", "4"],
    "cifar_preact_cutmix": ["--width", "4"],
}


@pytest.mark.long
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_trains(path, tmp_path, capsys):
    """Some steps on noise of two classes, with all that the file names but its size."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            array = rng.integers(0, 256, (32, 32, 3), np.uint8)
            PIL.Image.fromarray(array).save(tmp_path / "photos" / name / f"{i}.png")
    flags = ["--config", str(path), "--dataset", str(tmp_path / "photos"), "--dtype", "float32", "--devices", "1"]
    flags += ["--epochs", "4", "--batch-size", "8", "--out", str(tmp_path), "--name", "run", *SMALL[path.stem]]
    if "warmup_epochs" in path.read_text():
        flags += ["--warmup-epochs", "2"]
    assert train.main(flags) == 0
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]
    assert [record["step"] for record in history] == [4, 8, 12, 16]
    assert np.isfinite([[record["loss"], record["nll"]] for record in history]).all()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    about = json.loads((tmp_path / "run" / "about.json").read_text())
    assert (about["loss"], about["probabilities"]) == (config["loss"] or "cross_entropy", "softmax")

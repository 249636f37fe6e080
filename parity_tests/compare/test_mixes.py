"""Several methods of which one is drawn, and recipes, are compared as any other."""

import json

import pytest

import train
from jax_mix.compare import cells, command, planar
from jax_mix.training import data, loop
from jax_mix.training.build import prepare, resolve
from jax_mix.training.config import Config
from parity_tests.tolerances import assert_close

MIXES = ("mixup:0.8+cutmix+none@0.2", "timm:0.8,1.0,mode=elem")
FILES = ("mixup-0.8+cutmix+none@0.2", "timm-0.8-1.0-mode=elem")


def test_methods_of_several_and_recipes_are_compared(data_dir, digits, tmp_path, monkeypatch):
    """Their seeds are trained as one too, their files have names that can be read, and are found again."""
    monkeypatch.setattr(planar, "compare", lambda seeds: {})
    monkeypatch.setattr(command.page, "write", lambda *_: None)
    monkeypatch.setattr(cells.Cells, "_measure", lambda *_, **__: {"reliability": {}})
    monkeypatch.setattr(cells, "_check", lambda *_: None)
    flags = ["--model", "mlp", "--epochs", "1", "--seeds", "2", "--train-images", "128", "--devices", "1"]
    flags += ["--batch-seeds", "on", "--noise-levels", "--methods", *MIXES, "--data-dir", data_dir]
    arguments = ["compare", *flags, "--out", str(tmp_path), "--name", "it"]
    assert train.main(arguments) == 0
    files = {path.name: path for path in (tmp_path / "it" / "runs").glob("*-seed?.json")}
    assert files.keys() == {f"{name}-noise0-seed{seed}.json" for name in FILES for seed in (0, 1)}
    config = Config(mix=MIXES[0], alpha=1.0, model="mlp", epochs=1, train_images=128, devices=1, seed=1)
    _, alone = loop.train(prepare(resolve(config), data.take(digits, 128)))
    together = json.loads(files[f"{FILES[0]}-noise0-seed1.json"].read_text())["history"]
    assert alone[0].keys() == together[0].keys()
    values = [[record[0][name] for name in alone[0]] for record in (together, alone)]
    assert_close(*values, "another order of summation")
    monkeypatch.setattr(cells, "train_seeds", lambda *_: pytest.fail("a run was made twice"))
    assert train.main(arguments) == 0

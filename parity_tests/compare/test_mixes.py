"""Several methods of which one is drawn, and recipes, are compared as any other."""

import json

import pytest

import train
from jax_mix.compare import cells, command, planar

MIXES = ("mixup:0.8+cutmix+none@0.2", "timm:0.8,mode=elem")
FILES = ("mixup-0.8+cutmix+none@0.2", "timm-0.8-mode=elem")


def test_methods_of_several_and_recipes_are_compared(data_dir, tmp_path, monkeypatch):
    """Their seeds are trained as one, their files have names that can be read, and are found again."""
    monkeypatch.setattr(planar, "compare", lambda seeds: {})
    monkeypatch.setattr(cells.Cells, "_measure", lambda *_, **__: {"reliability": {}})
    monkeypatch.setattr(cells, "_check", lambda *_: None)
    shown = {}
    monkeypatch.setattr(command.page, "write", lambda *of: shown.update(of[5]))
    flags = ["--model", "mlp", "--epochs", "1", "--seeds", "2", "--train-images", "128", "--devices", "1"]
    flags += ["--batch-seeds", "on", "--noise-levels", "--methods", *MIXES, "--data-dir", data_dir]
    arguments = ["compare", *flags, "--out", str(tmp_path), "--name", "it"]
    assert train.main(arguments) == 0
    assert shown.keys() == set(MIXES)
    assert all((mix.lam < 1).any() for mix in shown.values())
    files = {path.name: path for path in (tmp_path / "it" / "runs").glob("*-seed?.json")}
    assert files.keys() == {f"{name}-noise0-seed{seed}.json" for name in FILES for seed in (0, 1)}
    for path in files.values():
        (record,) = json.loads(path.read_text())["history"]
        assert 0 < record["train_accuracy"] < 1
    monkeypatch.setattr(cells, "train_seeds", lambda *_: pytest.fail("a run was made twice"))
    monkeypatch.setattr(command, "_mixes", lambda *_: {})
    assert train.main(arguments) == 0

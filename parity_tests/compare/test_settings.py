"""The flags of a comparison."""

import re

import pytest

import train
from jax_mix.compare.command import run
from jax_mix.compare.settings import Comparison
from jax_mix.training.errors import UserError


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        train.main(["compare", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in Comparison(epochs=1).flags:
        flag = f"--{name.replace('_', '-')} "
        assert flag in text
        assert not text.split(flag)[1].split(" ", 1)[1].startswith("(default"), f"{flag} has no help"
    for hidden in ("--mix ", "--seed ", "--label-noise ", "--resume ", "--coordinator "):
        assert hidden not in text
    assert "in two minutes" in text


def test_unknown_method_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'cutmix'"):
        Comparison(methods=("cutmx",))


def test_methods_are_what_a_run_can_be_mixed_by():
    """Alpha, layers and --mix-per go to those that leave them open."""
    methods = ("none", "manifold:2.0", "mixup+cutmix:0.5", "timm:0.8,1.0", "mixup+manifold")
    flags = {"layers": ("stem",), "mix_per": "batch", "alpha": 0.7, "seeds": 1, "noise_levels": ()}
    cells = Comparison(methods=methods, **flags).cells
    found = [(cell.config.mix, cell.config.alpha, cell.config.layers, cell.config.mix_per) for cell in cells]
    assert found == [
        ("none", None, None, None),
        ("manifold", 2.0, ("stem",), None),  # as runs of before say it, which are not made again
        ("mixup+cutmix:0.5", 0.7, None, "batch"),
        ("timm:0.8,1.0", None, None, None),
        ("mixup+manifold", 0.7, ("stem",), "batch"),
    ]
    assert [cell.name for cell in cells] == [
        "none-noise0-seed0",
        "manifold-2.0-noise0-seed0",
        "mixup+cutmix-0.5-noise0-seed0",
        "timm-0.8-1.0-noise0-seed0",
        "mixup+manifold-noise0-seed0",
    ]


def test_a_comparison_does_not_start_from_the_folder_that_it_writes_over(tmp_path):
    folder = tmp_path / "compare-digits"
    folder.mkdir()
    (folder / "mine.safetensors").write_text("{}")
    told = f"--weights: '{folder / 'mine.safetensors'}' is the run's own folder, '{folder}', or in it"
    with pytest.raises(UserError, match=re.escape(told)):
        run(Comparison(out=str(tmp_path), weights=str(folder / "mine.safetensors")), "")
    assert [path.name for path in folder.iterdir()] == ["mine.safetensors"]

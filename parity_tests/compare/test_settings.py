"""The flags of a comparison."""

import pytest

import train
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

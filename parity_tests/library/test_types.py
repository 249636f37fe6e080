"""What a user's type checker sees with jax, flax and numpy alone: arrays, and a misspelt word is an error."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).parents[2]
# jax in two words, so that mypy reads no more than this project: it is quick, and finds nothing else installed.
JAX = "from typing import Any\nclass Array:\n    shape: tuple[int, ...]\ndef __getattr__(name: str) -> Any: ...\n"
TYPING = "from jax import Array\nArrayLike = Array | bool | int | float | complex\n"
SEEN = """
import jax, jax_mix

def use(key: jax.Array, x: jax.Array, y: jax.Array) -> None:
    mix = jax_mix.MixUp(0.4, per="batch").sample(key, x.shape)
    reveal_type(mix.lam)  # Array
    reveal_type(mix.partner)  # Array
    reveal_type(mix.box)  # Array | None
    reveal_type(mix.blend(x))  # Array
    reveal_type(mix.blend(3.0))  # Array
    reveal_type(mix.blend({"image": x}))  # dict[str, Array]
    reveal_type(mix.targets(y, dense=False))  # Array
    reveal_type(mix.take_partners((x, y)))  # tuple[Array, Array]
    reveal_type(jax_mix.Mix(lam=0.3, partner=x).lam)  # Array
    reveal_type(jax_mix.mixup(key, x, y, per="batch"))  # tuple[Array, Array]
    reveal_type(jax_mix.cutmix(key, x, y, box="timm"))  # tuple[Array, Array]
    reveal_type(jax_mix.mixed_loss(lambda logits, label: logits, x, y, mix))  # Array
    reveal_type(jax_mix.recipes.timm().sample(key, x.shape).lam)  # Array
    reveal_type(jax_mix.OneOf(jax_mix.MixUp(), None).sample(key, x.shape))  # Mix
    reveal_type(jax_mix.MixedAccuracy().compute())  # Array
"""
REFUSED = """
import jax, jax_mix

def use(key: jax.Array, x: jax.Array, y: jax.Array) -> None:
    jax_mix.MixUp(0.4, per="sampel")
    jax_mix.MixUp(0.4, partner="rol")
    jax_mix.CutMix(1.0, box="papr")
    jax_mix.ManifoldMixup(0.4, per="sampel")
    jax_mix.ManifoldMixup(0.4, layer="stem")
    jax_mix.OneOf(jax_mix.MixUp(), per="sampel")
    jax_mix.OneOf("mixup")
    jax_mix.mixup(key, x, y, per="sampel")
    jax_mix.mixup(key, x, y, alfa=0.4)
    jax_mix.cutmix(key, x, y, box="papr")
    jax_mix.manifold_mixup(key, None, x, y, layers=(), per="sampel")
    jax_mix.recipes.timm(mode="elm")
    jax_mix.recipes.timm(mixup_alfa=1.0)
    jax_mix.MixUp(0.4).sample(0, x.shape)
    jax_mix.MixUp(0.4).alpha = 0.3
    jax_mix.Mix(lam=0.3, partner="roll")
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Of each of the files: the number of a line, and what mypy says there."""
    folder = tmp_path_factory.mktemp("user")
    files = {"seen.py": SEEN, "refused.py": REFUSED, "stubs/jax/__init__.pyi": JAX, "stubs/jax/typing.pyi": TYPING}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "stubs" / "jax_mix").symlink_to(ROOT / "jax_mix")
    command = "-m mypy --config-file= --no-site-packages --ignore-missing-imports --cache-dir cache seen.py refused.py"
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=folder, env={"MYPYPATH": "stubs"}, capture_output=True, text=True
    )
    found = re.findall(r"^(seen|refused)\.py:(\d+): (?:note|error): (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return {(name, int(line)): text for name, line, text in reversed(found)}  # the first of each line


def test_arrays_are_seen(told):
    for number, line in enumerate(SEEN.splitlines(), 1):
        if "reveal_type" in line:
            assert re.sub(r"(jax|jax_mix|_mix)\.|builtins\.", "", told["seen", number]) == (
                f'Revealed type is "{line.partition("  # ")[2]}"'
            )


def test_misspelt_words_are_errors(told):
    calls = [number for number, line in enumerate(REFUSED.splitlines(), 1) if "    jax_mix." in line]
    assert calls
    assert [number for name, number in sorted(told) if name == "refused"] == calls

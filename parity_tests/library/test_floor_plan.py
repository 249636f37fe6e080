"""Where things live: imports run down, files are short, and what the extra brings is what is imported."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jax_mix.training import needed

ROOT = Path(__file__).parents[2]
# From the ground up; a file may import what stands on its own floor or below.
FLOORS = {"jax_mix": 0, "jax_mix.training": 1, "torch_ref": 1, "jax_mix.compare": 2, "train": 3}
FLOORS |= {"benchmarks": 4, "parity_tests": 4, "docs": 4}
FILES = [path for path in ROOT.rglob("*.py") if {"build", "runs"}.isdisjoint(path.relative_to(ROOT).parts)]
FILES = [path for path in FILES if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]


def imported(path):
    """The modules that a file imports, anywhere in it: "a.b" of `from a import b` too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(module):
    """The name of the floor a module is on; None if it is none of ours."""
    return max((name for name in FLOORS if module == name or module.startswith(name + ".")), key=len, default=None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_down_and_files_are_short(path):
    here = floor(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imported(path):
        there = floor(module)
        if there is None:
            continue
        assert FLOORS[there] <= FLOORS[here], f"{here} imports {module}, which stands above it"
        assert there != "train" or here == "parity_tests", "train.py is the command line: its parts are in jax_mix"
    lines = len(path.read_text().splitlines())
    assert lines <= (150 if path.name == "train.py" else 400), f"{lines} lines"


def test_the_core_needs_jax_flax_and_numpy_for_its_types_too():
    """What a user's type checker cannot import, it takes for anything. Pictures alone ask for matplotlib."""
    for path in (ROOT / "jax_mix").glob("*.py"):
        packages = {module.partition(".")[0] for module in imported(path)} - sys.stdlib_module_names
        allowed = {"jax", "flax", "numpy", "jax_mix"} | ({"matplotlib"} if "plot" in path.name else set())
        assert packages <= allowed, path.name


def test_the_extra_is_what_is_imported():
    """Each package by the name it is installed by, and the name it is imported by."""
    names = {"orbax-checkpoint": "orbax", "tensorflow-datasets": "tensorflow_datasets", "pillow": "PIL"}
    names |= {"scikit-learn": "sklearn", "absl-py": "absl"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra, own = (
        {names.get(name, name) for name in (re.match(r"[\w-]+", line)[0] for line in lines)}
        for lines in (project["optional-dependencies"]["train"], project["dependencies"])
    )
    assert set(needed.NEEDED) == extra
    inside = [path for name in ("training", "compare") for path in (ROOT / "jax_mix" / name).rglob("*.py")]
    third_party = {module.partition(".")[0] for path in inside for module in imported(path)} - {"jax_mix", "jaxtyping"}
    third_party -= sys.stdlib_module_names
    assert third_party - own == extra - {"importlib_resources", "flatbuffers"}  # TFDS and jax.export do not bring them


@pytest.mark.parametrize("command", [["-c", "import jax_mix.compare.command"], ["train.py"]])
def test_a_missing_extra_is_told_in_a_sentence(command, tmp_path):
    """As if one package of it were not there."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'tyro' else find(name, *rest)\n"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    told = done.stderr.splitlines()[-1]
    assert "jax_mix.training needs the packages of the extra train, of which there is no tyro: pip install" in told
    assert done.returncode == 1
    assert command != ["train.py"] or (told.startswith("train.py: ") and len(done.stderr.splitlines()) == 1)

"""The documents' Python runs as it stands, in a fresh interpreter with JAX's own settings, as a reader would run it.

Only XLA optimises less: half of the time went to that, for programs of one operation each.
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import train
from docs import evidence
from jax_mix.compare.settings import QUICK, Comparison
from jax_mix.training.command_line import parse, parse_options
from jax_mix.training.config import Config
from jax_mix.training.run import write_config

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_CODE = [document for document in DOCUMENTS if "```python" in document.read_text()]


@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: path.name)
def test_python_blocks_run(document):
    text = document.read_text()
    if "import torch" in text:
        pytest.importorskip("torch")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    env = os.environ | ({"JAX_NUM_CPU_DEVICES": "8"} if "jax.make_mesh((8,)" in text else {})  # a page says so
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for printed in re.findall(r"```python\n[^`]*```\n\n```text\n(.*?)```", text, re.DOTALL):
        assert printed in done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def commands():
    """The lines of all bash blocks that call train.py."""
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:2] == ["python", "train.py"]:
                    yield pytest.param(words[2:], id=" ".join([document.name, *words[2:]]))


@pytest.mark.parametrize("words", [*commands()])
def test_commands_have_flags_that_there_are(words, tmp_path, monkeypatch):
    if "--help" in words:
        return
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for word in words:
        if word.startswith("runs/"):  # a run that is gone on with
            write_config(tmp_path / word, Config(), anew=True)
    if words[:1] in (["predict"], ["evaluate"], ["export"]):
        module = importlib.import_module(train.COMMANDS[words[0]])
        options = parse_options(words[1:], module.Options, "")
        assert options.run.startswith("runs/")
    elif words[:1] == ["compare"]:
        parse(words[1:], Comparison, Comparison(**QUICK) if "--quick" in words else None)
    else:
        parse(words, Config)


def test_tables_of_the_evidence_follow_from_its_csv():
    page = evidence.PAGE.read_text()
    assert page.count("**worse**") > 3
    assert evidence.with_tables(page) == page

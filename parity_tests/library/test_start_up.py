"""benchmarks/start_up.py in small: what it times is whole processes, and of ours the phases."""

import subprocess
import sys

import pytest

from benchmarks import start_up

RUN = """
import os, time
print(os.environ["XDG_CACHE_HOME"], os.environ.get("JAX_COMPILATION_CACHE_DIR"), flush=True)
for words in ("training and test images", "mixing: none", "| 1/440"):
    time.sleep(0.1)
    print(words, flush=True)
"""


def test_phases_end_with_what_is_printed_and_together_are_all_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "a user's own")  # would be full at the first start
    seen = start_up.timed(
        [sys.executable, "-c", RUN], tmp_path, start_up.PHASES | {"cache": f"{tmp_path} None".encode()}
    )
    whole = seen.pop("whole")
    assert list(seen) == ["cache", "imports and data", "network", "first step", "results"]
    assert min(seen[name] for name in ("network", "first step")) > 0.05
    assert sum(seen.values()) == pytest.approx(whole)


def test_a_process_that_fails_is_no_time(tmp_path, capsys):
    with pytest.raises(subprocess.CalledProcessError):
        start_up.timed([sys.executable, "-c", "raise SystemExit('no digits')"], tmp_path, {})
    assert "no digits" in capsys.readouterr().err


def test_the_table():
    def row(**medians):
        return {name: {"median": s, "least": s - 1, "most": s + 1, "n": 7} for name, s in medians.items()}

    seconds = {"first": row(whole=12, network=1), "second": row(whole=8, network=0.5), "fastai": row(whole=10)}
    versions = {"jax": "1", "torch": "2", "fastai": "3"}
    lines = start_up.table({"device": "a CPU", "cores": 2, "versions": versions, "seconds": seconds}).splitlines()
    assert lines[0] == "| seconds | first start | second start | fastai |"
    assert lines[2] == "| from start to end | **12.0** (11.0 to 13.0) | **8.0** (7.0 to 9.0) | **10.0** (9.0 to 11.0) |"
    assert lines[3] == "| network | 1.0 | 0.5 |  |"
    assert lines[-1].startswith("a CPU, 2 cores; medians of 7, ")

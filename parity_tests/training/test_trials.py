"""Long trials of what can happen to a run's folder: every file damaged, disks of every size, two processes at once."""

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train
from jax_mix.training import loop

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.long
FLAGS = ["--epochs", "2", "--batch-size", "256", "--model", "mlp", "--mix", "mixup", "--checkpoint-every", "4"]
FLAGS += ["--devices", "1", "--name", "run"]
RESULTS = ("metrics.json", "metrics.jsonl")


def results(folder):
    return [(folder / name).read_bytes() for name in RESULTS]


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """A folder with a run that is finished, and one with the same run stopped before its last step."""
    out = tmp_path_factory.mktemp("runs")
    flags = [*FLAGS, "--data-dir", data_dir]
    assert train.main([*flags, "--out", str(out / "finished")]) == 0
    step, calls = loop.pure_step, []

    def stopped(*args):
        calls.append(1)
        if len(calls) == 9:
            signal.raise_signal(signal.SIGTERM)
        return step(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "pure_step", stopped)
        assert train.main([*flags, "--out", str(out / "stopped")]) == 128 + signal.SIGTERM
    return out


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "one bit": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :],
    "random": lambda data: random.Random(0).randbytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("state", ["stopped", "finished"])
def test_every_file_damaged_in_turn(state, damage, runs, tmp_path, capsys):
    """The run goes on to the same results, or tells in a sentence that it cannot.

    A file that a checkpoint has a sum of is damaged in one way of these, as its sum differs after each; others in all.
    """
    expected = results(runs / "finished" / "run")
    files = sorted(path.relative_to(runs / state) for path in (runs / state).rglob("*") if path.is_file())
    summed = [file for file in files if "checkpoints" in file.parts and file.name != "SHA256SUMS"]
    others = [file for file in files if file not in summed]
    assert len(summed) > 20
    assert len(others) > 5
    for file in [*others, *summed[list(DAMAGES).index(damage) :: len(DAMAGES)]]:
        folder = shutil.copytree(runs / state, tmp_path / "damaged")
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(DAMAGES[damage](whole) if whole else b"x")
        status = train.main(["--resume", str(folder / "run"), "--devices", "1"])
        told = capsys.readouterr().err
        if status == 0:
            assert results(folder / "run") == expected, file
        else:
            assert (status, file.name) == (2, "config.json"), told
            assert told.startswith(f"train.py: --resume: '{folder / 'run'}'")
            assert len(told.splitlines()) == 1
        shutil.rmtree(folder)


FULL_DISKS = """
import contextlib, io, json, os, subprocess, sys
import train

mount, *flags = sys.argv[1:]
for size in (20_000, *range(100, 901, 100)):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", mount], check=True)
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(io.StringIO()) as told:
        status = train.main([*flags, "--out", mount])
        subprocess.run(["mount", "-o", "remount,size=20m", mount], check=True)
        resume = ["--resume"] if os.path.exists(mount + "/run/config.json") else []
        again = train.main([*flags, "--out", mount, *(resume if status else ["--overwrite"])])
    results = [open(f"{mount}/run/{name}").read() for name in ("metrics.json", "metrics.jsonl")]
    print(json.dumps([size, status, told.getvalue(), again, results]), flush=True)
    subprocess.run(["umount", mount], check=True)
"""


def test_disks_of_every_size(data_dir, tmp_path):
    """Too small a disk is told in sentences; with room again, the run goes on to the same results."""
    alone = ["unshare", "-rm"]  # a file system that nobody else sees
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    command = [*alone, sys.executable, "-c", FULL_DISKS, tmp_path, *FLAGS, "--data-dir", data_dir]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # of threads
    (_, roomy, _, _, expected), *found = map(json.loads, done.stdout.splitlines())
    assert (roomy, len(found)) == (0, 9)
    for size, status, told, again, metrics in found:
        assert status in (0, 2), (size, told)
        assert "Traceback" not in told
        assert status == 0 or "No space left on device" in told
        assert (again, metrics) == (0, expected), (size, told)
    assert found[0][1] == 2


def test_ten_pairs_of_processes_in_one_folder(runs, data_dir, tmp_path):
    """One runs, the other says that it does; or it came after the first had finished."""
    for i in range(10):
        out = tmp_path / str(i)
        other = [] if i % 2 else ["--seed", "1"]  # also with other flags
        pair = [
            subprocess.Popen(
                [sys.executable, "train.py", *FLAGS, "--data-dir", data_dir, "--out", str(out), *own],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            for own in ([], other)
        ]
        told = [process.communicate(timeout=300)[1] for process in pair]
        assert sorted(process.returncode for process in pair) == [0, 2], told
        refused = next(text for process, text in zip(pair, told, strict=True) if process.returncode == 2)
        assert refused.splitlines()[-1].startswith("train.py: --name: "), told
        assert not any("Traceback" in text for text in told)
        if i % 2 or pair[0].returncode == 0:
            assert json.loads((out / "run" / "metrics.json").read_text())["history"][-1]["epoch"] == 2

"""`python train.py` from start to end, the first time and the second, beside fastai's twin of the same run.

python -m benchmarks.start_up

Each is a process of its own, from its start to its end, imports and compilation included; they take turns. All train
the same network on the same 1,437 digits in batches of 64 for 20 epochs, 440 steps, with Manifold Mixup at the same
layers, images moved at random, fastai's SGD and one-cycle schedule, and look at the 360 test images after each epoch.

"first": train.py with an empty cache, as on a new machine. It measures accuracy, NLL and ECE, writes 20 checkpoints,
each with its checksums, the logs of TensorBoard, and three pictures.

"second": the same command again. What it compiles is in the cache of the first.

"fastai": benchmarks/start_up_fastai.py. fastai's Learner, with its bar of progress, its CSVLogger and its accuracy; the
images come from one .npz file, and the model is saved once, at the end.

Of ours the phases are told too, by what it prints meanwhile: "imports and data", "network" (with its weights), "first
step" (with the compilation), "training" (with evaluations and checkpoints), "results".
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import ROOT, needs, save, target
from jax_mix.training import data

ROUNDS = 7
# What ours prints when a phase ends.
PHASES = {
    "imports and data": b"training and",
    "network": b"mixing:",
    "first step": b" 1/",
    "training": b"test accuracy",
}
_OTHERS_CACHES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def main() -> None:
    needs("torch", "fastai")
    found = measured(rounds=ROUNDS, epochs=20)
    save("start_up", found | {"targets": targets(found["seconds"])})


def targets(seconds: dict[str, Any]) -> list[dict[str, Any]]:
    """No slower than fastai's; what takes ours its time is the reason where it is."""
    theirs = seconds["fastai"]["whole"]["median"]
    found = []
    for start in ("first", "second"):
        phases = [f"{phase} {of['median']:.1f} s" for phase, of in seconds[start].items() if phase != "whole"]
        to_theirs = seconds[start]["whole"]["median"] / theirs
        found.append(target(f"the {start} start over fastai's run", to_theirs, at_most=1, reason=", ".join(phases)))
    return found


def measured(*, rounds: int, epochs: int) -> dict[str, Any]:
    """What the result file has: for each of the three the seconds of all rounds, and the phases of ours."""
    seconds: dict[str, list[dict[str, float]]] = {"first": [], "second": [], "fastai": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, ours = folder / "digits.npz", [sys.executable, "-u", str(ROOT / "train.py"), "--epochs", str(epochs)]
        ours += ["--data-dir", str(folder / "tfds"), "--out", str(folder / "runs"), "--name", "run", "--overwrite"]
        dataset = data.load("digits", str(folder / "tfds"))  # prepared once, for both
        splits = {"train": dataset.train, "test": dataset.test}
        arrays = {f"{split}_{name}": getattr(splits[split], name) for split in splits for name in ("image", "label")}
        np.savez(images, **{name: np.asarray(array) for name, array in arrays.items()})
        theirs = [sys.executable, "-m", "benchmarks.start_up_fastai", str(images), str(folder), str(epochs)]
        for i in range(rounds):
            cache = folder / f"cache{i}"
            seconds["first"].append(timed(ours, cache, PHASES))
            seconds["second"].append(timed(ours, cache, PHASES))
            seconds["fastai"].append(timed(theirs, cache, {}))
    return {
        "what": f"seconds of the process, {epochs} epochs, {rounds} rounds; of ours those of each phase too",
        "seconds": {
            name: {
                phase: {"median": statistics.median(each), "least": min(each), "most": max(each), "n": len(each)}
                for phase in rows[0]
                if (each := [row[phase] for row in rows])
            }
            for name, rows in seconds.items()
        },
    }


def timed(command: list[str], cache: Path, phases: dict[str, bytes]) -> dict[str, float]:
    """Seconds of a command, "whole", and of the `phases`, which end when it prints those words; then come "results".

    Raises:
      subprocess.CalledProcessError: it failed; what it said is on stderr.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _OTHERS_CACHES}
    environment |= {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    found: dict[str, float] = {}
    said = b""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        while part := os.read(process.stdout.fileno(), 2**16):
            said += part
            for phase, words in phases.items():
                if phase not in found and words in said:
                    found[phase] = time.perf_counter() - start
    whole = time.perf_counter() - start
    if process.returncode:
        sys.stderr.write(said.decode(errors="replace"))
        raise subprocess.CalledProcessError(process.returncode, command)
    at = [0.0, *found.values()]
    lasted = {phase: end - begin for phase, begin, end in zip(found, at, at[1:], strict=False)}
    return {"whole": whole} | lasted | ({"results": whole - at[-1]} if found else {})


def table(result: dict[str, Any]) -> str:
    """For docs/speed.md: seconds, and how they are spent."""
    seconds = result["seconds"]
    columns = {"first": "first start", "second": "second start", "fastai": "fastai"}
    lines = ["| seconds | " + " | ".join(columns.values()) + " |", "|---|" + "---|" * len(columns)]
    for row in seconds["first"]:
        cells = [seconds[name].get(row) for name in columns]
        told = ["" if each is None else f"{each['median']:.1f}" for each in cells]
        if row == "whole":
            told = [f"**{each['median']:.1f}** ({each['least']:.1f} to {each['most']:.1f})" for each in cells if each]
        lines.append(f"| {'from start to end' if row == 'whole' else row} | " + " | ".join(told) + " |")
    which = f"{result['device']}, {result['cores']} cores; medians of {seconds['first']['whole']['n']}"
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("jax", "torch", "fastai"))
    return "\n".join(lines) + f"\n\n{which}, the least and the most in brackets; {versions}."


if __name__ == "__main__":
    main()

"""On one GPU: parity in three precisions, mixing, training steps, what each method costs, memory; beside PyTorch.

    python -m benchmarks.accelerator --small        # all of it in miniature, on any machine: does it run here?
    python -m benchmarks.accelerator --minutes 10

from a clone, with nothing installed but JAX with CUDA, PyTorch, timm, torchvision, optax, orbax and flax, and nothing
downloaded. Measured, in this order, against PyTorch eager and `torch.compile`, which take turns with us:

  parity    the ladder's rungs that need no fastai, in float32, TF32 and bfloat16 (on_gpu/parity.py)
  mixing    MixUp and CutMix of batches, as a share of a copy's bandwidth (on_gpu/mixing.py)
  train     ResNet-18, ResNet-50 and ViT-S: images a second, utilisation, memory (on_gpu/training.py)
  overhead  the steps of these with each method, over the step without (on_gpu/training.py)

Each part runs in a process of its own (on_gpu/child.py), in which JAX and PyTorch take turns on the same card; for that
XLA_PYTHON_CLIENT_PREALLOCATE=false. The result file is written as numbers come in; a part that fails, or for which
there was no time, says so in it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks import measuring
from benchmarks.on_gpu import page
from benchmarks.on_gpu.child import MARK

table = page.table
PACKAGES = ("torch", "torchvision", "timm", "optax", "orbax")
# Parts and seconds, of 600; what one does not use, the later ones have.
PARTS = {
    "hardware": 40,  # and what is imported for the first time
    "parity": 70,
    "mixing": 70,
    "train resnet18": 70,
    "train resnet50": 110,
    "train vit_small_patch16_224": 85,
    "overhead resnet18": 85,
    "overhead vit_small_patch16_224": 45,
    "overhead resnet50": 25,
}
# Not by -m: as __main__ the module would be there twice, and so would its exceptions.
_CHILD = "import sys; from benchmarks.on_gpu import child; child.main(sys.argv[1])"
_LEAST = 10.0  # seconds: with less a part is not started
_GRACE = 20.0  # seconds that a part may take longer than it was given, before it is ended


def main() -> None:
    """As `python -m benchmarks` runs it: in ten minutes, where there is a GPU."""
    measuring.needs(*PACKAGES)
    if told := no_gpu():
        print(f"accelerator: {told}")
    else:
        measure(minutes=10)


def no_gpu() -> str:
    """A sentence, where JAX sees none; else nothing."""
    device = jax.devices()[0]
    alone = "python -m benchmarks.accelerator --small runs all of it in miniature."
    return "" if device.platform == "gpu" else f"JAX sees no GPU here, but {device.device_kind}: {alone}"


def measure(*, minutes: float, small: bool = False) -> dict[str, Any]:
    """Run the parts, and write results/accelerator.DEVICE.json as they go; in miniature accelerator_small.

    Args:
      minutes: in which all is to be done.
      small: whether it is in miniature.

    Returns:
      What was written.
    """
    end = time.monotonic() + 60 * minutes
    told = "in miniature: its numbers say nothing" if small else "beside PyTorch, on the same device"
    result: dict[str, Any] = {"what": f"python -m benchmarks.accelerator, {told}", "minutes": minutes, "small": small}
    result["parts"] = {name: {"status": "left out", "why": "its turn did not come"} for name in PARTS}
    waiting = dict(PARTS)
    with tempfile.TemporaryDirectory(prefix="jax_mix-") as cache:
        while waiting:
            # In miniature one process runs them all, for its start takes longest.
            names = list(waiting) if small else list(waiting)[:1]
            _run(names, waiting, end, result, cache)
            _save(result)
    result |= {"targets": page.targets(result), "not_measured": page.not_measured(result)}
    _save(result, shown=True)
    return result


def _run(names: list[str], waiting: dict[str, float], end: float, result: dict[str, Any], cache: str) -> None:
    """Run parts in a process, and take those from `waiting` that it came to: after a crash the rest still waits."""
    small, parts, now = result["small"], result["parts"], time.monotonic()
    left, deadline, given = max(0.0, end - now), now, []
    for name in names:
        deadline += left * waiting[name] / sum(waiting.values())
        given.append((name, deadline))
    if not small and given[0][1] - now < _LEAST:
        parts[names[0]]["why"] = f"{left:.0f} seconds were left for it and all after it"
        del waiting[names[0]]
        return
    limit = min(left, deadline - now + _GRACE)
    late, current = threading.Event(), names[0]
    with _start(json.dumps({"small": small, "parts": given}), cache, small=small) as process:

        def stop() -> None:
            late.set()
            _end(process)

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith(MARK):
                    print(line, end="", file=sys.stderr)
                    continue
                said = json.loads(line.removeprefix(MARK))
                current = said.pop("part")
                _put(parts[current], current, said)
                _save(result)
            status = process.wait()
        finally:
            timer.cancel()
            _end(process)
    if "seconds" not in parts[current]:
        why = f"it took longer than {limit:.0f} seconds" if late.is_set() else f"its process ended with status {status}"
        parts[current] |= {"status": "cut short", "why": why}
    for name in names[: names.index(current) + 1]:
        del waiting[name]


def _start(given: str, cache: str, *, small: bool) -> subprocess.Popen[str]:
    # A step is compiled for two parts.
    environment = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment |= {"OMP_NUM_THREADS": "1"} if small else {}
    environment |= os.environ
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, given],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=measuring.ROOT,
        start_new_session=True,  # compilers start processes of their own, which are to end with it
    )


def _put(part: dict[str, Any], name: str, said: dict[str, Any]) -> None:
    if "key" in said:
        part.setdefault("results", {})[said["key"]] = said["value"]
        return
    if said["status"] == "cut short":
        print(f"accelerator: {name}", file=sys.stderr)
    part.pop("why", None)
    part |= said


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)


def _save(result: dict[str, Any], *, shown: bool = False) -> None:
    name = "accelerator_small" if result["small"] else "accelerator"
    hardware = result["parts"]["hardware"].get("results", {})
    result = result | ({"versions": hardware["versions"]} if "versions" in hardware else {})
    with contextlib.nullcontext() if shown else contextlib.redirect_stdout(io.StringIO()):
        measuring.save(name, result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "python -m benchmarks.accelerator", None, __doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="in which all is done, or left out (10)")
    parser.add_argument("--small", action="store_true", help="in miniature, on any machine")
    parser.add_argument("--results", type=Path, help="the folder of the result file (benchmarks/results)")
    given = parser.parse_args()
    if given.results is not None:
        measuring.RESULTS = given.results
    try:
        measuring.needs(*PACKAGES)
    except ModuleNotFoundError as error:
        sys.exit(f"python -m benchmarks.accelerator: {error}.")
    if not given.small and no_gpu():
        sys.exit(no_gpu())
    measured = measure(minutes=given.minutes, small=given.small)
    print(table(measured))
    sys.exit(any(part["status"] == "failed" for part in measured["parts"].values()))

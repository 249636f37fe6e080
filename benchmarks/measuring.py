"""What the benchmarks share: timing alternatives side by side in one run, targets, and a result file that says on what.

A result is a dictionary. What it was to reach is in its list "targets", each made by `target`, which says whether it
was hit; of one that was missed the reason stands beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import itertools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jax_mix.training.environment import environment
from jax_mix.training.files import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_SPINNING, _WAKING = 0.05, 0.03  # seconds
_LOOK, _BUSY = 0.5, 0.1  # seconds, and a part of the cores
# For glibc's allocator: one heap, of which nothing is given back to the system.
KEEPING = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
_PEERS = ("torch", "torchvision", "timm", "fastai", "kornia", "keras")


def keys_in_turn() -> Iterator[Any]:
    """Keys that are made before they are asked for, over and over: each call has a draw of its own."""
    return itertools.cycle(list(jax.random.split(jax.random.key(0), 64)))


def side_by_side(
    alternatives: dict[str, Callable[[], Any]], *, rounds: int, settle: bool = False
) -> dict[str, list[float]]:
    """Seconds of each alternative, `rounds` times after one to warm up; they take turns, to see the same machine.

    With `settle` each waits before it is timed, as another library's threads still spin for a while after its last
    call, and would take a core from the next one; and is then called untimed, once or for as long as a core that slept
    takes to be as fast as before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for i in range(rounds + 1):
        for name, run in alternatives.items():
            if settle:
                time.sleep(_SPINNING)
                awake = time.perf_counter() + _WAKING
                jax.block_until_ready(run())
                while time.perf_counter() < awake:
                    jax.block_until_ready(run())
            start = time.perf_counter()
            jax.block_until_ready(run())
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def needs(*packages: str) -> None:
    """ModuleNotFoundError, for which a benchmark is skipped, where one of the packages is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"it needs {', '.join(packages)}; {package} is not installed", name=package)


def in_a_process(code: str, variables: Mapping[str, str] | None = None) -> Any:
    """What `code` prints last, as JSON, run in a process of its own with these environment variables besides."""
    command, environ = [sys.executable, "-c", code], {**os.environ, **(variables or {})}
    done = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def give_back() -> None:
    """Give free memory back to the system, so that what ran before leaves none for whoever comes first."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # where the allocator is not glibc's
        ctypes.CDLL(None).malloc_trim(0)


def new_pages(run: Callable[[], Any], calls: int = 5) -> float:
    """How many pages of memory the system has to hand out for a call, each of which stops it; the median of some."""
    found = []
    for _ in range(calls):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        jax.block_until_ready(run())
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return statistics.median(found)


def summary(seconds: list[float]) -> dict[str, float]:
    return {name if name == "n" else f"{name}_s": value for name, value in quartiles(seconds).items()}


def quartiles(values: list[float]) -> dict[str, float]:
    first, median, third = statistics.quantiles(values, n=4)
    return {"median": median, "first_quartile": first, "third_quartile": third, "n": len(values)}


def ratio(times: list[float], others: list[float]) -> dict[str, float]:
    """How many times as long as `others`, turn by turn."""
    return quartiles([a / b for a, b in zip(times, others, strict=True)])


def in_ms(seconds: float) -> str:
    """Milliseconds, to three digits or whole."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Of the power of the size that time grows with: the slope of a line through the logarithms."""
    return statistics.linear_regression(list(map(math.log, sizes)), list(map(math.log, seconds))).slope


def target(
    what: str, measured: float, *, at_most: float | None = None, at_least: float | None = None, reason: str = ""
) -> dict[str, Any]:
    """An entry of a result's "targets"; `reason` is measured too, and kept where the target is missed."""
    hit = (at_most is None or measured <= at_most) and (at_least is None or measured >= at_least)
    bounds = {name: value for name, value in (("at_most", at_most), ("at_least", at_least)) if value is not None}
    return {"what": what, "measured": measured, **bounds, "hit": hit, **({} if hit else {"reason": reason})}


def save(name: str, results: dict[str, Any]) -> None:
    """Write `results/NAME.DEVICE.json` with the hardware, what else ran there, and the versions, and say so."""
    device = jax.devices()[0]
    kind = "cpu" if device.platform == "cpu" else device.device_kind.lower().replace(" ", "-")
    document = environment(*_PEERS) | {"cores_taken_by_others": others()} | results
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.{kind}.json"
    write_json(path, document)
    for each in document.get("targets", ()):
        print(told(each))
    if (document["cores_taken_by_others"] or 0) > _BUSY:
        print("other processes were at work when this ended: its times are not to be trusted")
    print(f"written: {path}", flush=True)


def others() -> float | None:
    """The part of the cores that other processes take, seen while this one sleeps; None where that is not told."""

    def counted() -> tuple[int, int]:  # of all cores, idle and in all, in ticks
        ticks = [int(each) for each in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)

    if not Path("/proc/stat").exists():
        return None
    time.sleep(_SPINNING)
    idle, every = counted()
    time.sleep(_LOOK)
    later_idle, later_every = counted()
    return round(1 - (later_idle - idle) / max(later_every - every, 1), 3)


def told(target: dict[str, Any]) -> str:
    """A target in one line."""
    bound = " and ".join(f"{n.replace('_', ' ')} {target[n]:g}" for n in ("at_most", "at_least") if n in target)
    verdict = "hit" if target["hit"] else f"missed: {target['reason']}"
    return f"{target['what']}: {target['measured']:.3g}, target {bound}, {verdict}"

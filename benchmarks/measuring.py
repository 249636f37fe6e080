"""What the benchmarks share: timing alternatives side by side in one run, and a result file that says on what."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jax_mix.training.environment import environment
from jax_mix.training.files import write_json

RESULTS = Path(__file__).parent / "results"


def side_by_side(alternatives: dict[str, Callable[[], Any]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each alternative, `rounds` times after one to warm up; they take turns, to see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for i in range(rounds + 1):
        for name, run in alternatives.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    first, median, third = statistics.quantiles(seconds, n=4)
    return {"median_s": median, "first_quartile_s": first, "third_quartile_s": third, "n": len(seconds)}


def save(name: str, results: dict[str, Any]) -> None:
    """Write `results/NAME.DEVICE.json` with the hardware and the versions."""
    device = jax.devices()[0]
    kind = "cpu" if device.platform == "cpu" else device.device_kind.lower().replace(" ", "-")
    document = environment("torch", "fastai") | results
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.{kind}.json"
    write_json(path, document)
    print(path.read_text())

"""The tests themselves: `pytest`, from start to end, in minutes, and in CPU seconds of all its processes.

    python -m benchmarks.tests

Besides how long it took the result has pytest's last line, which says how many passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.measuring import ROOT, needs, save, target

AT_MOST = 8  # minutes


def main() -> None:
    needs("pytest", "xdist", "torch", "fastai")
    save("tests", {"what": "pytest, as README has it", **measured([sys.executable, "-m", "pytest", "-q"])})


def measured(command: list[str]) -> dict[str, Any]:
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    minutes, after = (time.perf_counter() - start) / 60, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    said = [line for line in done.stdout.splitlines() if " passed" in line]
    reason = f"its processes need {cpu:,.0f} CPU seconds, of which two cores have {2 * 60 * AT_MOST:,} in that time"
    goal = target("pytest, minutes", minutes, at_most=AT_MOST, reason=reason)
    return {"minutes": minutes, "cpu_seconds": cpu, "said": said[-1] if said else "", "targets": [goal]}


def table(result: dict[str, Any]) -> str:
    """Minutes, CPU seconds, and what pytest said."""
    head = "| minutes | CPU seconds | pytest's last line |\n|---|---|---|\n"
    return f"{head}| {result['minutes']:.1f} | {result['cpu_seconds']:,.0f} | {result['said']} |"


if __name__ == "__main__":
    main()

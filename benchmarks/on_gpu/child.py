"""Runs parts, and says what they found, a line each, to the process that started this one.

A part has a process of its own, so that one that crashes, hangs or runs out of memory ends no other, and so that the
peak of memory is the part's. Within it JAX and PyTorch take turns, on the same card.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from jax_mix.training.files import standard

MARK = "@@accelerator "  # what a line of ours begins with: libraries print too


class LeftOut(Exception):
    """A part, or a piece of it, is not run: for want of time, or of what it needs."""


class Part:
    """What a part is given: its size, its time, and where it tells what it found.

    Attributes:
      name: the part's.
      small: whether it is to run in miniature.
      deadline: when it should be through, of `time.monotonic`, which is the same in all processes.
    """

    def __init__(self, name: str, *, small: bool, deadline: float) -> None:
        self.name, self.small, self.deadline = name, small, deadline

    def tell(self, key: str, value: Any) -> None:
        """Put a value into the part's results; what is told is kept, also if the part ends early."""
        say({"part": self.name, "key": key, "value": value})

    def need(self, seconds: float, what: str) -> None:
        """Raise `LeftOut` unless so much time is left."""
        left = self.deadline - time.monotonic()
        if left < seconds and not self.small:
            raise LeftOut(f"{what} takes about {seconds:.0f} seconds, and {max(0.0, left):.0f} were left")

    @contextlib.contextmanager
    def piece(self, name: str) -> Iterator[None]:
        """What fails or is left out within it is told under `name`, and the part goes on; lack of memory is raised."""
        try:
            yield
        except LeftOut as reason:
            self.tell(name, {"left_out": str(reason)})
        except Exception as error:
            if out_of_memory(error):
                raise
            traceback.print_exc()
            self.tell(name, {"failed": one_sentence(error)})


def out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "RESOURCE_EXHAUSTED" in str(error)


def largest_batch(part: Part, batches: tuple[int, ...], measure: Callable[[int], None]) -> None:
    """`measure` with the first of the batch sizes that fits in memory."""
    for batch in batches:
        try:
            return measure(batch)
        except Exception as error:
            if not out_of_memory(error) or batch == batches[-1]:
                raise
            part.tell(f"batch {batch}", {"failed": f"it does not fit: {one_sentence(error)}"})
        gc.collect()  # of the failed one, out here where its error holds it no longer
    return None


def one_sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def say(line: dict[str, Any]) -> None:
    print(MARK + json.dumps(standard(line)), flush=True)


def _run_of(name: str) -> Callable[[Part], None]:
    """What runs a part, imported here: a package that cannot be fails the parts alone that need it."""
    kind, _, network = name.partition(" ")
    if not network:
        return importlib.import_module(f"benchmarks.on_gpu.{kind}").run
    from benchmarks.on_gpu import training

    return {"train": training.Speed, "overhead": training.Overhead}[kind](network).run


def main(given: str) -> None:
    """Run parts one after the other.

    Args:
      given: JSON: `parts`, a list of names and deadlines; and `small`.
    """
    options = json.loads(given)
    for name, deadline in options["parts"]:
        part = Part(name, small=options["small"], deadline=deadline)
        say({"part": name, "status": "cut short"})  # what stands if nothing more is heard of it
        start = time.monotonic()
        end: dict[str, Any] = {"status": "done"}
        try:
            _run_of(name)(part)
        except LeftOut as reason:
            end = {"status": "left out", "why": str(reason)}
        except Exception as error:
            traceback.print_exc()
            end = {"status": "failed", "why": one_sentence(error)}
        say({"part": name, **end, "seconds": time.monotonic() - start})

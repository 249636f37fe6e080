"""Timing where calls return before they are done: several are queued, then waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import torch

from benchmarks.measuring import summary

ROUNDS, _FEWEST = 15, 3


def torch_device() -> torch.device:
    """That of JAX: the card, or the CPU.

    Raises:
      RuntimeError: JAX has an accelerator, and PyTorch has none.
    """
    if jax.devices()[0].platform == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(f"JAX sees {jax.devices()[0].device_kind}, and PyTorch sees no CUDA device.")
    return torch.device("cuda")


def wait(result: Any) -> None:
    """Until all that was queued is done, JAX's and PyTorch's."""
    jax.block_until_ready(result)
    if torch_device().type == "cuda":
        torch.cuda.synchronize()


def take_turns(
    alternatives: dict[str, Callable[[], Any]], *, seconds: float, until: float
) -> dict[str, dict[str, float]]:
    """The summary of the seconds of a call of each alternative; they take turns, to see the same card.

    Args:
      alternatives: each starts a call, and gives what shows that it is done. They are warm already.
      seconds: that a turn lasts about, in as many calls as fit; 0: one, in three rounds.
      until: when to stop, of `time.monotonic`, after three rounds at least.
    """
    calls = {}
    for name, call in alternatives.items():
        _turn(call, 2)
        calls[name] = max(1, round(seconds * 3 / max(_turn(call, 3), 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in alternatives}
    for i in range(ROUNDS if seconds else _FEWEST):
        if i >= _FEWEST and time.monotonic() > until:
            break
        for name, call in alternatives.items():
            found[name].append(_turn(call, calls[name]) / calls[name])
    return {name: summary(each) | {"calls_a_turn": calls[name]} for name, each in found.items()}


def _turn(call: Callable[[], Any], calls: int) -> float:
    wait(None)
    start = time.perf_counter()
    for _ in range(calls):
        result = call()
    wait(result)
    return time.perf_counter() - start

"""Ending in order when asked to: Ctrl-C, and SIGTERM, which schedulers send before they take a machine away."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PASSED_ON = signal.SIGTERM  # by JAX, to the other processes
_active: list[Stop] = []  # that of the outermost catch


@dataclasses.dataclass
class Stop:
    """Whether a run has been asked to end: `signal` is the signal that asked, None before.

    With several processes, `own` is the one that this process got, for it to end with; the others pass on a SIGTERM.
    """

    signal: signal.Signals | None = None
    own: signal.Signals = _PASSED_ON

    def agreed(self, step: int) -> signal.Signals | None:
        """The signal, if the run is to end after `step`; with several processes all of them ask, at every step.

        Those agree on a step that none of them is past, by JAX's own means, when one of them got a SIGTERM.
        """
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signal = self.own
        return self.signal


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Have SIGINT end the process at once, where there is nothing to save and C++ waits, so that Python cannot raise.

    A SIGINT that is ignored stays so, and so do handlers in another thread than the main one.
    """
    before = signal.getsignal(signal.SIGINT)
    if before in (None, signal.SIG_IGN) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def catch() -> Iterator[Stop]:
    """Note the first SIGINT or SIGTERM in the `Stop` that is given, for a loop to read; a second ends the process.

    Within another `catch`, this gives the same `Stop`: whoever looks next sees a signal that came late.

    The second ends it at once, wherever it is, also inside of a compilation. The handlers that were there come back at
    the end; signals that are ignored stay so. Python handles signals in the main thread only: in another, this does
    nothing.

    >>> with catch() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop.signal.name
    'SIGTERM'
    """
    if _active:
        yield _active[0]
        return
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    handlers = {each: signal.getsignal(each) for each in _SIGNALS}
    # nohup's and JAX's own (None, as it is not of Python) are meant to stay.
    caught = {each: handler for each, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    several = jax.process_count() > 1
    if several:
        caught.pop(_PASSED_ON, None)  # JAX notes it, and tells the other processes

    def note(number: int, frame: Any) -> None:
        stop.own = signal.Signals(number)
        os.write(2, f"\n{stop.own.name}: ending in order, which may take a while; another ends at once\n".encode())
        for each in caught:
            signal.signal(each, signal.SIG_DFL)
        if several:
            os.kill(os.getpid(), _PASSED_ON)  # to JAX, for all to agree on a step
        else:
            stop.signal = stop.own

    for each in caught:
        signal.signal(each, note)
    _active.append(stop)
    try:
        yield stop
    finally:
        _active.clear()
        for each, handler in caught.items():
            signal.signal(each, handler)

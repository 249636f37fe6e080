"""What is said when a process that others work with is gone: a sentence.

JAX's runtime then ends the others from C++, with a stack trace, where no Python can run. So this file is also a program
of its own, which `watch` starts beside such a process: it passes on what C++ says on stderr, but for those last words.
It needs Python's library alone, starts no thread and takes no signal, and ends with the process it is beside.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import IO

_GONE = "process gone: "  # from `end`, and so from Python
_STARTS = re.compile(r"[IWEF]\d{4} [\d:.]+ +\d+ (\S+):\d+\] ")  # a message of C++, which may have several lines
_OF_OTHERS = re.compile(r"coordination_service|preemption_sync_manager")
_FATAL = "JAX distributed service detected fatal errors"
_WHICH = re.compile(r"Task (\d+) heartbeat timeout|stopped sending heartbeats\):\s+(\d+)")
_PLACE = re.compile(r"\[external\S+\] ")  # in C++
_FIRST_IS_GONE = "Failed to send RPC to coordination service"  # it is in process 0
_ENDS_ALONE = "Shutdown barrier has failed"
# From collectives and barriers, of which others have gone.
_BY_OTHERS = re.compile(r"gloo|nccl|connection (reset|closed|refused)|heartbeat|barrier failed|coordination", re.I)


def watch() -> Callable[[], None]:
    """Have what C++ says on this process's stderr passed on by a program beside it, until the process has ended.

    Returns:
      What ends it before, for a process that goes on alone: stderr is as it was.
    """
    before = sys.stderr
    before.flush()
    there = os.dup(2)
    beside = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=there,
        start_new_session=True,  # Ctrl-C is not for it
    )
    assert beside.stdin is not None
    os.dup2(beside.stdin.fileno(), 2)
    beside.stdin.close()
    beside.returncode = 0  # nobody waits for it: it ends when this process has
    # Python's own goes on to where it went: a bar of progress asks it how wide it is.
    sys.stderr = own = os.fdopen(there, "w", buffering=1, encoding=before.encoding, errors="backslashreplace")

    def unwatch() -> None:
        sys.stderr = before
        os.dup2(there, 2)  # the pipe has come to its end
        own.close()
        os.waitpid(beside.pid, 0)  # all that was said has been passed on

    return unwatch


def are_of_another(error: Exception) -> bool:
    """Whether an error of JAX's runtime says that another process cannot be reached."""
    return bool(_BY_OTHERS.search(str(error)))


def end(reason: str) -> None:
    """End this process at once, with the sentence; nothing may wait for others here. The status is 1."""
    if sys.stdout:  # not where it is redirected to nowhere
        sys.stdout.flush()
    os.write(2, f"{_GONE}{reason.strip().splitlines()[0]}\n".encode(errors="replace"))
    os._exit(1)


def sentence(words: str) -> str:
    """What is told, of what the process said last.

    >>> sentence("... UNAVAILABLE: Task 3 heartbeat timeout. This indicates ...")[:50]
    'train.py: process 3 of this run is gone, killed or'
    """
    which = _WHICH.search(words)
    number = which and (which[1] or which[2])
    if number is None and _ENDS_ALONE in words:
        told = "the processes of this run did not end together: what the first to end said last tells why"
    else:
        who = f"process {number}" if number else "process 0" if _FIRST_IS_GONE in words else "another process"
        reason = f" ({_PLACE.sub('', words.removeprefix(_GONE)).strip()})" if words.startswith(_GONE) else ""
        told = f"{who} of this run is gone, killed or out of reach{reason}, and the others cannot go on without it"
    return f"train.py: {told}; start all of them again with the same command and --resume."


def passed_on(lines: Iterable[str]) -> Iterator[str]:
    """The lines that are not about other processes, as they come; then the sentence, or what else was held back."""
    held: list[str] = []
    holds = False
    lines = iter(lines)
    for line in lines:
        starts = _STARTS.match(line)
        if line.startswith(_GONE) or _FATAL in line:
            yield sentence("".join([line, *lines])) + "\n"  # to the end: the stack is not told
            return
        if starts:
            holds = bool(_OF_OTHERS.search(starts[1]))
        if holds:
            held.append(line)
        else:
            yield line
    yield from held


def _main(said: IO[bytes], told: IO[bytes]) -> None:
    for line in passed_on(each.decode(errors="surrogateescape") for each in said):
        told.write(line.encode(errors="surrogateescape"))
        told.flush()


if __name__ == "__main__":
    _main(sys.stdin.buffer, sys.stderr.buffer)

"""What a process among several says when another is gone; two real ones are in test_devices.py."""

import subprocess
import sys

import pytest

from jax_mix.training import last_words

STACK = """*** Check failure stack trace: ***
    @     0x7fd764a40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""
NOTED = """E1125 21:43:13.925239   12126 coordination_service.cc:1549] [5069] Use error polling to propagate the \
following error to all tasks: UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
3
The tasks have crashed.
"""
OTHER = "W1125 21:43:13.926239   12138 cpu_client.cc:9] slow\nand a line more\n"
FATAL = "F1125 21:43:13.926460   12138 client.h:80] Terminating process because the JAX distributed service detected \
fatal errors. This most likely indicates that another task died; absl::Status: "
REASONS = {
    "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n3\nThe tasks": "process 3 of",
    "INTERNAL: Shutdown barrier has failed.\nBarrier result: 'Task 12 heartbeat timeout.'": "process 12 of this run is",
    "UNAVAILABLE: Failed to send RPC to coordination service.": "process 0 of this run is gone",
    "INTERNAL: Shutdown barrier has failed.\nBarrier result: DEADLINE": "the processes of this run did not",
    "UNKNOWN": "another process of this run is gone",
}


def told(text):
    return "".join(last_words.passed_on(text.splitlines(keepends=True)))


@pytest.mark.parametrize("reason", REASONS)
def test_the_last_words_are_a_sentence(reason):
    text = told(OTHER + NOTED + FATAL + reason + "\n" + STACK)
    assert text.startswith(OTHER + f"train.py: {REASONS[reason]}")
    assert text.endswith("; start all of them again with the same command and --resume.\n")
    assert text.count("\n") == 3


def test_what_is_said_of_others_comes_at_the_end_if_none_is_gone():
    assert told(OTHER + NOTED + "a line of Python\n" + OTHER) == OTHER + OTHER + NOTED + "a line of Python\n"
    assert told(OTHER + "F1125 21:43:13.9   12138 array.cc:80] Check failed\n" + STACK).endswith(STACK)


ERRORS = {
    "UNKNOWN: Gloo all-reduce failed: [external/gloo/pair.cc:538] Read error [127.0.0.1]:24463: Connection reset": True,
    "INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited or there was a network error": True,
    "INTERNAL: Barrier failed because: task is set to ERROR": True,
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 16 bytes": False,
    "INTERNAL: CustomCall failed: ValueError": False,
}


def test_which_errors_are_of_another_process():
    assert {error: last_words.are_of_another(RuntimeError(error)) for error in ERRORS} == ERRORS


END = """
import os, sys
from jax_mix.training import last_words
last_words.watch()
os.write(2, b"of C++, \\xff\\n")
print("of Python", file=sys.stderr)
if sys.argv[1] == "gone":
    last_words.end("Gloo: [external/a.cc:1] reset\\nmore")
sys.exit(5)
"""


@pytest.mark.parametrize(("how", "status"), [("gone", 1), ("otherwise", 5)])
def test_the_status_and_all_that_is_said(how, status):
    done = subprocess.run([sys.executable, "-c", END, how], capture_output=True, check=False)
    assert done.returncode == status
    assert b"of C++, \xff\n" in done.stderr
    assert b"of Python\n" in done.stderr
    assert (b"is gone, killed or out of reach (Gloo: reset), and the others" in done.stderr) == (how == "gone")
    assert b"more" not in done.stderr


UNWATCHED = """
import os, sys
from jax_mix.training import last_words
before = sys.stderr, os.fstat(2), os.listdir("/proc/self/fd")
unwatch = last_words.watch()
os.write(2, b"F1125 21:43:13.9   12138 array.cc:80] held back: JAX distributed service detected fatal errors\\n")
unwatch()
assert (sys.stderr, os.fstat(2), os.listdir("/proc/self/fd")) == before
os.write(2, b"of C++\\n")
print("of Python", file=sys.stderr)
"""


def test_a_process_that_goes_on_alone_has_its_stderr_again():
    done = subprocess.run([sys.executable, "-c", UNWATCHED], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    sentence, *others = done.stderr.splitlines()
    assert sentence.startswith("train.py: another process of this run is gone")
    assert others == ["of C++", "of Python"]

"""jax_mix/training/signals.py: a run that is asked to end does so in order."""

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import pytest

from jax_mix.training import signals

ROOT = Path(__file__).parents[2]


@pytest.fixture
def heard():
    """SIGINT as in a terminal; in the background of a shell it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_old_handlers_come_back(number, capfd, heard):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with signals.catch() as stop:
        assert stop.signal is None
        signal.raise_signal(number)
        assert stop.signal is number
    assert f"{number.name}: ending in order" in capfd.readouterr().err  # else one would press Ctrl-C again
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(number):
    code = f"""
import signal
from jax_mix.training import signals
signal.signal(signal.SIGINT, signal.default_int_handler)
with signals.catch() as stop:
    signal.raise_signal(signal.SIGINT)
    print(stop.signal.name, flush=True)
    signal.raise_signal({int(number)})
    print("still here", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-number, "SIGINT\n")


def test_of_several_processes_each_ends_by_the_signal_it_got(monkeypatch, capfd, heard):
    """And all after the step that they agree on; JAX is the one to handle SIGTERM."""
    to_jax = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        signals.multihost_utils, "reached_preemption_sync_point", lambda step: bool(to_jax) and step == 3
    )
    before = signal.signal(signal.SIGTERM, lambda *_: to_jax.append(1))
    try:
        with signals.catch() as stop, signals.catch():
            assert stop.agreed(3) is None
            signal.raise_signal(signal.SIGINT)
            assert len(to_jax) == 1
            assert [stop.agreed(step) for step in (2, 3)] == [None, signal.SIGINT]
        assert "SIGINT: ending in order" in capfd.readouterr().err
        with signals.catch() as stop:  # of the other process, or after a scheduler's SIGTERM
            assert [stop.agreed(step) for step in (2, 3)] == [None, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


WAITS = """
import signal, sys
from jax_mix.training import devices
signal.signal(signal.SIGINT, lambda *_: None)  # as if C++ never came back to Python
devices.join(f"localhost:{sys.argv[1]}", 2, 0)
"""


def test_a_process_that_waits_for_others_can_be_ended():
    """It waits for minutes, in C++."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-c", WAITS, port], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr.readline().startswith("process 0 of 2, waiting for the others")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == -signal.SIGINT
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.default_int_handler])
def test_ending_at_once_is_for_a_while(before):
    outer = signal.signal(signal.SIGINT, before)
    try:
        with signals.at_once():
            assert signal.getsignal(signal.SIGINT) is (before if before is signal.SIG_IGN else signal.SIG_DFL)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, outer)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and a shell's & do
    try:
        with signals.catch() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with signals.catch() as stop:
            seen.extend([stop.signal, signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None, before]

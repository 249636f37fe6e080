"""metrics.jsonl, and the event files as TensorBoard itself reads them."""

import json
import resource
import signal

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jax_mix.training.logs import Logs


def record(epoch, loss):
    return {"epoch": epoch, "step": 3 * epoch, "loss": loss, "accuracy": epoch / 10}


def read(folder, name):
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]


def write(logs, history, losses):
    logs.steps(history[-1]["step"], losses)
    logs.epoch(history)


def test_what_is_written_is_what_programs_read(tmp_path):
    folder = tmp_path / "run"
    history = [record(1, 0.5)]
    logs = Logs(folder)
    assert not folder.exists()
    write(logs, history, [0.6, 0.5, 0.4])
    assert read(folder, "loss") == [(1, 0.6), (2, 0.5), (3, 0.4)]  # while the run goes on
    history.append(record(2, 0.2))
    write(logs, history, [0.3, 0.2, 0.1])
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == history
    assert read(folder, "loss") == [(1, 0.6), (2, 0.5), (3, 0.4), (4, 0.3), (5, 0.2), (6, 0.1)]
    logs.steps(9, [0.09, 0.08, 0.07])  # of an epoch that is not evaluated
    write(logs, [*history, record(4, 0.1)], [0.06, 0.05, 0.04])
    assert read(folder, "loss")[6:] == [(7, 0.09), (8, 0.08), (9, 0.07), (10, 0.06), (11, 0.05), (12, 0.04)]
    assert read(folder, "accuracy") == [(3, 0.1), (6, 0.2), (12, 0.4)]


def test_a_run_that_is_continued_earlier_forgets_what_came_later(tmp_path):
    history = [record(epoch, 0.5) for epoch in (1, 2, 3)]
    logs = Logs(tmp_path)
    for epoch in (1, 2, 3):
        write(logs, history[:epoch], [0.5, 0.5, 0.5])
    for _ in range(2):
        write(Logs(tmp_path), history[:2], [0.1, 0.1, 0.1])
    assert read(tmp_path, "loss") == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.1), (5, 0.1), (6, 0.1)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2

    write(Logs(tmp_path), history[:1], [0.2, 0.2, 0.2])  # anew
    assert read(tmp_path, "loss") == [(1, 0.2), (2, 0.2), (3, 0.2)]


def test_what_could_not_be_written_is_written_later(tmp_path, capsys):
    """A limit on the size of files stands for a full disk, which needs a disk."""
    history, logs = [record(epoch, 0.5) for epoch in (1, 2, 3)], Logs(tmp_path)
    write(logs, history[:1], [0.5, 0.5, 0.5])
    before, (events,) = (tmp_path / "metrics.jsonl").read_text(), tmp_path.glob("events*")
    size, limits = events.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (10, size + 10):  # too little for metrics.jsonl; enough for it, too little for all events
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            write(logs, history[:2] if limit == 10 else history, [0.4, 0.4, 0.4])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert f"{'metrics.jsonl' if limit == 10 else events.name}': what epoch " in capsys.readouterr().err
        assert events.stat().st_size == size
        if limit == 10:
            assert (tmp_path / "metrics.jsonl").read_text() == before
    assert not list(tmp_path.glob(".*"))
    write(logs, [*history, record(4, 0.5)], [0.3, 0.3, 0.3])
    assert read(tmp_path, "loss") == [(i, 0.5) for i in (1, 2, 3)] + [(i, 0.4) for i in range(4, 10)] + [
        (i, 0.3) for i in (10, 11, 12)
    ]

"""metrics.jsonl, and the event files as TensorBoard itself reads them."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.logs import Logs


def record(epoch, loss):
    return {"epoch": epoch, "step": 3 * epoch, "loss": loss, "accuracy": epoch / 10}


def read(folder, name):
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]


def test_what_is_written_is_what_programs_read(tmp_path):
    folder = tmp_path / "run"
    history = [record(1, 0.5)]
    with Logs(folder) as logs:
        assert not folder.exists()
        logs.epoch(history, [0.6, 0.5, 0.4])
        assert read(folder, "loss") == [(1, 0.6), (2, 0.5), (3, 0.4)]  # while the run goes on
        history.append(record(2, 0.2))
        logs.epoch(history, [0.3, 0.2, 0.1])
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == history
    assert read(folder, "loss") == [(1, 0.6), (2, 0.5), (3, 0.4), (4, 0.3), (5, 0.2), (6, 0.1)]
    assert read(folder, "accuracy") == [(3, 0.1), (6, 0.2)]


def test_a_run_that_is_continued_earlier_forgets_what_came_later(tmp_path):
    history = [record(epoch, 0.5) for epoch in (1, 2, 3)]
    with Logs(tmp_path) as logs:
        for epoch in (1, 2, 3):
            logs.epoch(history[:epoch], [0.5, 0.5, 0.5])
    for _ in range(2):
        with Logs(tmp_path) as logs:
            logs.epoch(history[:2], [0.1, 0.1, 0.1])
    assert read(tmp_path, "loss") == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.1), (5, 0.1), (6, 0.1)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2

    with Logs(tmp_path) as logs:  # anew
        logs.epoch(history[:1], [0.2, 0.2, 0.2])
    assert read(tmp_path, "loss") == [(1, 0.2), (2, 0.2), (3, 0.2)]

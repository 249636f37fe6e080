"""What a run tells while it trains, for other programs to read: metrics.jsonl and TensorBoard's event files."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The messages and records that TensorBoard reads, from TensorBoard itself; its own writer would look for TensorFlow.
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from jax_mix.training.files import write_jsonl

_EVENTS = "events.out.tfevents."


class Logs:
    """A run's metrics.jsonl and its event file for TensorBoard (`tensorboard --logdir runs`), written at every epoch.

    A run that is continued gets another event file, named by its first step; those of later steps go. Where nothing can
    be written, say because the disk is full, stderr says so, training goes on, and the next epoch tries again.

    Args:
      folder: the run's; made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._events: Path | None = None
        self._unwritten = io.BytesIO()  # events

    def steps(self, step: int, losses: Sequence[float]) -> None:
        """Keep the losses of the steps up to `step`, until the next epoch that was evaluated is written."""
        first = step - len(losses) + 1
        if self._events is None:
            self._events = self._new_file(first)
            self._note(file_version="brain.Event:2")
            self._note(step=first, session_log=SessionLog(status=SessionLog.START))  # forget older events from here on
        for each, loss in enumerate(losses, first):
            self._note(step=each, summary=_scalars({"loss": loss}))

    def epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write what is known when an epoch was evaluated.

        Args:
          history: a record of each such epoch so far, of numbers by name; "step" is how many steps were done by then.
        """
        step = int(history[-1]["step"])
        assert self._events is not None, "steps come first"
        rest = {name: value for name, value in history[-1].items() if name not in ("step", "loss")}
        self._note(step=step, summary=_scalars(rest))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_jsonl(self._folder / "metrics.jsonl", history)
            self._append(self._events)
        except OSError as error:
            print(f"{error}: what epoch {history[-1]['epoch']} measured is not written yet.", file=sys.stderr)

    def _new_file(self, first: int) -> Path:
        path = self._folder / f"{_EVENTS}{first:09}"  # TensorBoard reads them in the order of their names
        for other in self._folder.glob(_EVENTS + "*"):
            if other.name >= path.name:
                other.unlink()
        return path

    def _append(self, path: Path) -> None:
        """Write what is unwritten to the file, all of it or nothing: half an event would hide those behind it."""
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(self._unwritten.getbuffer())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise OSError(error.errno, error.strerror, str(path)) from error
        self._unwritten = io.BytesIO()

    def _note(self, **event: Any) -> None:
        RecordWriter(self._unwritten).write(Event(wall_time=time.time(), **event).SerializeToString())


def _scalars(values: Mapping[str, float]) -> Any:
    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

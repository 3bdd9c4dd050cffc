"""A runner's events: one JSON object per line in `events.jsonl`, each flushed immediately.

    {"event": "stage", "stage": "train"}
    {"event": "progress", "step": 40, "steps": 750, "loss": 0.41, "eta_s": 93.0}
    {"event": "alive"}
    {"event": "measurement", "name": "accuracy", "value": 0.87, "unit": "1", "language": "en", "split": "test", ...}
    {"event": "curve", "name": "train_loss", "points": [[1, 0.70], [2, 0.69], ...]}
    {"event": "artifact", "name": "predictions", "path": "predictions.jsonl.gz", "sha256": "...", "bytes": 8123}
    {"event": "example_scores", "language": "en", "metric": "accuracy", "values": "eJxjYGiw..."}
    {"event": "environment", "values": {"torch": "2.13.0", ...}}
    {"event": "end", "outcome": "succeeded", "message": ""}

A measurement's value may be null; `reason` then explains why. Measurements, curves and scores by example have `"task"`
if they are of a member of a mixture of tasks. The end event of a run that failed because this host lacks something
(data, a package, disk space) has `"not_here": true`.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, Unpack

from adapeff.service.measured import Definition, Dimensions
from adapeff.service.specs.fingerprints import file_fingerprint

EVENTS = "events.jsonl"
DISK_FAILED = 74
"""The exit code of a run whose last event could not be written (EX_IOERR of sysexits.h)."""
_ALIVE_SECONDS = 10.0
WAITING = "wait"
"""The stage in which a run waits for its device."""


class EventLog:
    """Appends events to a file that a reader may follow during the run; nobody has to close it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: TextIO = (folder / EVENTS).open("a", encoding="utf-8", buffering=1)
        self._said = time.monotonic()
        weakref.finalize(self, self._file.close)

    def emit(self, event: str, **values: Any) -> None:
        """Write one event."""
        self._file.write(json.dumps({"event": event, **values}, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def alive(self) -> None:
        """Say that the run goes on, at most every ten seconds."""
        now = time.monotonic()
        if now - self._said >= _ALIVE_SECONDS:
            self._said = now
            self.emit("alive")

    def measure(
        self, definition: Definition, value: float | None, *, reason: str = "", **where: Unpack[Dimensions]
    ) -> None:
        """Write one number with its dimensions.

        Raises:
            ValueError: for a null without a reason, a number that is not finite, or an unknown dimension.
        """
        self.emit("measurement", **definition.measured(value, reason=reason, where=where).event())

    def curve(self, name: str, points: Sequence[tuple[float, float | None]], *, task: str = "") -> None:
        """Write a curve of (step, value) points, of the whole job or of the member `task` of a mixture."""
        where = {"task": task} if task else {}
        self.emit("curve", name=name, **where, points=[list(point) for point in points])

    def artifact(self, name: str, path: Path) -> None:
        """Record a finished file in the run's folder."""
        self.emit(
            "artifact",
            name=name,
            path=path.relative_to(self.folder).as_posix(),
            sha256=file_fingerprint(path),
            bytes=path.stat().st_size,
        )

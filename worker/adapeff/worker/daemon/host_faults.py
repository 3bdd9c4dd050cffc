"""What a worker knows of its host's own failures: which jobs not to try again here for now, and which slots to rest.

A job that fails because of the host (its data are not here, the disk is full) is another worker's to run. A host that
fails them all would empty the queue in seconds, so a slot that fails several in a row rests, for longer each time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from threading import Lock

RELEASED_SECONDS = 5.0
"""How long such a job is left alone by everybody."""
EXCLUDED_SECONDS = (30.0, 60.0, 120.0, 300.0, 600.0)
"""How long it is not tried again here, by how often it has failed here."""
IN_A_ROW = 3
PAUSES = (10.0, 30.0, 60.0, 300.0)


class HostFaults:
    """Failures of one worker's host, by job and by slot; used by several threads."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()
        self._until: dict[int, float] = {}
        self._said: dict[int, str] = {}
        self._times: Counter[int] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def note(self, job_id: int, slot: str, message: str) -> None:
        """A job failed in a slot because of the host."""
        with self._lock:
            rest = EXCLUDED_SECONDS[min(self._times[job_id], len(EXCLUDED_SECONDS) - 1)]
            self._times[job_id] += 1
            self._until[job_id] = self._now() + rest
            self._said[job_id] = message
            self._in_a_row[slot] += 1

    def went_well(self, slot: str) -> None:
        """A job ran in a slot, whatever came of it."""
        with self._lock:
            self._in_a_row[slot] = 0

    def excludes(self, job_id: int) -> bool:
        """Whether a job is not to be tried here now."""
        with self._lock:
            return self._until.get(job_id, 0.0) > self._now()

    @property
    def excluded(self) -> Mapping[int, str]:
        """Every job that has failed because of the host, and why."""
        with self._lock:
            return dict(self._said)

    def pause_of(self, slot: str) -> float:
        """How long a slot must rest before its next job, in seconds; 0: not at all."""
        with self._lock:
            over = self._in_a_row[slot] - IN_A_ROW
            return PAUSES[min(over, len(PAUSES) - 1)] if over >= 0 else 0.0

"""Failures caused by this host: which jobs not to retry here for now, and which slots to pause.

A job that fails because of the host (its data is missing, the disk is full) is left to other workers. A host that fails
every job would drain the queue within seconds, so a slot with several such failures in a row pauses, longer each time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from threading import Lock

RELEASED_SECONDS = 5.0
"""How long no worker retries such a job."""
EXCLUDED_SECONDS = (30.0, 60.0, 120.0, 300.0, 600.0)
"""How long it is not retried on this host, by how often it has failed here."""
IN_A_ROW = 3
"""Failures in a row after which a slot pauses."""
PAUSES = (10.0, 30.0, 60.0, 300.0)
"""How long it pauses, by how many more failures follow."""


class HostFaults:
    """Failures of one worker's host, by job and by slot; used by several threads."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()
        self._until: dict[int, float] = {}
        self._messages: dict[int, str] = {}
        self._failures: Counter[int] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def record(self, job_id: int, slot: str, message: str) -> None:
        """Record that a job failed in a slot because of the host."""
        with self._lock:
            seconds = EXCLUDED_SECONDS[min(self._failures[job_id], len(EXCLUDED_SECONDS) - 1)]
            self._failures[job_id] += 1
            self._until[job_id] = self._now() + seconds
            self._messages[job_id] = message
            self._in_a_row[slot] += 1

    def clear(self, slot: str) -> None:
        """Record that a slot ran a job, regardless of the outcome."""
        with self._lock:
            self._in_a_row[slot] = 0

    def excludes(self, job_id: int) -> bool:
        """Whether a job must not be tried on this host now."""
        with self._lock:
            return self._until.get(job_id, 0.0) > self._now()

    @property
    def excluded(self) -> Mapping[int, str]:
        """Jobs that have failed because of the host, with the reason."""
        with self._lock:
            return dict(self._messages)

    def pause_of(self, slot: str) -> float:
        """Seconds that a slot must pause before its next job, or 0."""
        with self._lock:
            over = self._in_a_row[slot] - IN_A_ROW
            return PAUSES[min(over, len(PAUSES) - 1)] if over >= 0 else 0.0

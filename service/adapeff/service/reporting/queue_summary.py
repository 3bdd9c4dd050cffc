"""The queue in one line: slots, throughput, and when it is done, from queries that do not grow with the ended jobs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from adapeff.service.reporting.words import duration
from adapeff.service.store import job_queries, sweeps
from adapeff.service.store.database import now
from adapeff.service.store.workers import list_workers

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_SAMPLE = 500
"""How many of the jobs that are left are estimated; the others count as their mean."""


@dataclass(frozen=True)
class QueueSummary:
    """What the queue does."""

    slots: int
    """Slots of all workers that are alive."""
    busy: int
    ended_last_hour: int
    """Jobs that succeeded or failed in the last hour."""
    left: int
    """Jobs of the sweep, or all, that are queued or running and neither held nor in need of a held one."""
    left_s: float | None
    """Seconds until they have ended if all slots serve them, judging by similar runs; None if none has finished."""

    @property
    def text(self) -> str:
        """A line for people; empty if nothing is left and nothing happened."""
        parts = [
            f"{self.busy} of {self.slots} slots busy" if self.slots else "no worker is alive" if self.left else "",
            f"{self.ended_last_hour} ended in the last hour" if self.ended_last_hour else "",
            f"about {duration(self.left_s)} left, judging by similar runs" if self.left_s is not None else "",
        ]
        return "; ".join(filter(None, parts))


def summarise_queue(session: Session, *, sweep_ids: Sequence[int] | None = None) -> QueueSummary:
    """What the queue does, and how long some submissions, or all, still take."""
    workers = list_workers(session)
    slots = sum(len(view.record.slots) for view in workers)
    ended = job_queries.count_ended_since(session, now(session) - timedelta(hours=1), sweep_ids=sweep_ids)
    left, sample = job_queries.list_left(session, sweep_ids=sweep_ids, limit=_SAMPLE)
    known = [seconds for seconds in sweeps.estimate_jobs(session, sample) if seconds is not None]
    left_s = None
    if known and slots:
        spent = sum((now(session) - run.started_at).total_seconds() for view in workers for run in view.runs)
        left_s = max(0.0, statistics.mean(known) * left - spent) / min(slots, left)
    busy = sum(len(view.runs) for view in workers)
    return QueueSummary(slots, busy, ended, left, left_s)

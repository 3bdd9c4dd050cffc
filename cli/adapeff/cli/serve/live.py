"""What the pages show of the queue, read once for all browsers that ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapeff.cli.job_views import job_rows
from adapeff.service.store import job_queries, sweeps
from adapeff.service.store.database import Database
from adapeff.service.store.job_queries import HostRecord
from adapeff.service.store.job_watch import JobWatch
from adapeff.service.store.sweeps import SweepRecord

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

JOBS_SHOWN = 50
FRESH_SECONDS = 0.5
OVERVIEW_SECONDS = 10.0
"""How long counts of sweeps and hosts are kept if no job changes."""


@dataclass(frozen=True)
class Snapshot:
    """The queue at one moment."""

    counts: Mapping[str, int]
    jobs: list[dict[str, Any]]
    """The most relevant jobs: running ones, failed ones, then the newest."""
    sweeps: list[SweepRecord] = field(default_factory=list)
    """The most recently submitted first."""
    hosts: list[HostRecord] = field(default_factory=list)


class Live:
    """Polls the database at most every `FRESH_SECONDS`, however many browsers ask."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._watch = JobWatch()
        self._seen: Snapshot | None = None
        self._seen_at = self._overview_at = float("-inf")

    def snapshot(self) -> Snapshot:
        """The queue now."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen_at > FRESH_SECONDS:
                with self._database.session(read_only=True) as session:
                    self._seen = self._poll(session, self._seen)
                self._seen_at = time.monotonic()
            return self._seen

    def _poll(self, session: Session, before: Snapshot | None) -> Snapshot:
        poll = self._watch.poll(session)
        is_old = time.monotonic() - self._overview_at > OVERVIEW_SECONDS
        if is_old and dict(poll.counts) != job_queries.count_by_state(session):  # jobs were removed
            self._watch = JobWatch()
            poll = self._watch.poll(session)
        shown = job_queries.list_jobs(session, ids=self._watch.most_urgent(JOBS_SHOWN), limit=JOBS_SHOWN)
        rows = job_rows(session, shown)
        if before is not None and not is_old and not poll.changed and poll.counts == before.counts:
            return Snapshot(poll.counts, rows, before.sweeps, before.hosts)
        self._overview_at = time.monotonic()
        return Snapshot(poll.counts, rows, sweeps.list_sweeps(session)[::-1], job_queries.list_hosts(session))


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    text: str
    done: float | None = None
    total: float | None = None


def progress_of(row: Mapping[str, Any]) -> Progress:
    """The progress of a job as `job_rows` lists it; its cause if it does not run."""
    if row["state"] != "running":
        return Progress(row["cause"] or "")
    at = row["progress"] or {}
    left = f", {at['eta_s']:.0f} s left" if isinstance(at.get("eta_s"), int | float) else ""
    for name, count in (("block", "blocks"), ("step", "steps")):
        if name in at and at.get(count):
            return Progress(f"{name} {at[name]} of {at[count]}{left}", at[name], at[count])
    return Progress(row["stage"] or "starting")

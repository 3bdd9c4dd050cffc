"""Follow jobs with polls that read only running and changed jobs, so that they stay fast with many jobs."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from adapeff.service.store.database import now
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.job_queries import HELD, ids_of_sweeps, shown_state
from adapeff.service.store.tables import FINAL_STATES, Job, Run

_OVERLAP = timedelta(minutes=2)
_URGENCY = {"running": 0, "failed": 1}


@dataclass(frozen=True)
class Poll:
    """The result of one poll."""

    counts: Mapping[str, int]
    """State -> number of followed jobs; those that are held are counted apart from other queued ones."""
    changed: Sequence[int]
    """The jobs that have changed since the previous poll, except new queued ones."""
    runs: Mapping[int, Run]
    """Running job -> its run, with its progress."""

    @property
    def all_ended(self) -> bool:
        """Whether every job is in a final state."""
        return self.counts.keys() <= set(FINAL_STATES)


class JobWatch:
    """Follows some jobs, those of some submissions, or all.

    The first poll reads the state of every job it follows. Later ones read, through an index, the jobs whose
    `changed_at` is not older than the last poll, and the runs of those that are running. A transaction that noted its
    time before the last poll may have committed after it, so each poll goes back two more minutes, which is longer
    than the time limit of a transaction, and skips the jobs whose state it already knows.

    Args:
        job_ids: the jobs to follow; None: those of `sweep_ids`.
        sweep_ids: the submissions whose jobs to follow; None: all jobs, also ones that are stored later.
    """

    def __init__(self, *, job_ids: Sequence[int] | None = None, sweep_ids: Sequence[int] | None = None) -> None:
        self._job_ids = job_ids
        self._sweep_ids = sweep_ids
        self._known: dict[int, tuple[str, datetime]] = {}
        self._counts: Counter[str] = Counter()
        self._running: set[int] = set()
        self._polled_at: datetime | None = None

    def poll(self, session: Session) -> Poll:
        """Read the running jobs and those that have changed since the last poll."""
        wanted = select(Job.id, Job.state, Job.held, Job.changed_at)
        if self._polled_at is not None:
            wanted = wanted.where(Job.changed_at >= self._polled_at - _OVERLAP)
        elif self._job_ids is not None:
            wanted = wanted.where(is_one_of(session, Job.id, self._job_ids))
        elif self._sweep_ids is not None:
            wanted = wanted.where(Job.id.in_(ids_of_sweeps(session, self._sweep_ids)))
        follows_all = self._job_ids is None and self._sweep_ids is None
        takes_new = self._polled_at is None or follows_all
        self._polled_at = now(session)
        changed = []
        for job_id, stored, is_held, changed_at in session.execute(wanted):
            state = shown_state(stored, is_held)
            known = self._known.get(job_id)
            if known == (state, changed_at) or (known is None and not takes_new):
                continue
            self._note(job_id, state, changed_at)
            if known is not None or state not in ("queued", HELD):
                changed.append(job_id)
        return Poll({state: count for state, count in self._counts.items() if count}, changed, self._runs(session))

    def most_urgent(self, limit: int, *, states: Sequence[str] = ()) -> list[int]:
        """The most relevant jobs as of the last poll: running ones, failed ones, then the newest."""
        wanted = {*states, HELD} if "queued" in states else set(states)
        shown = (job_id for job_id, (state, _) in self._known.items() if not wanted or state in wanted)
        return heapq.nsmallest(limit, shown, key=lambda job_id: (_URGENCY.get(self._known[job_id][0], 2), -job_id))

    def _note(self, job_id: int, state: str, changed_at: datetime) -> None:
        if job_id in self._known:
            self._counts[self._known[job_id][0]] -= 1
        self._known[job_id] = state, changed_at
        self._counts[state] += 1
        if state == "running":
            self._running.add(job_id)
        else:
            self._running.discard(job_id)

    def _runs(self, session: Session) -> dict[int, Run]:
        if not self._running:
            return {}
        wanted = (
            select(Run)
            .join(Job, and_(Job.id == Run.job_id, Job.token == Run.token))
            .where(is_one_of(session, Run.job_id, sorted(self._running)))
            .execution_options(populate_existing=True)
        )
        return {run.job_id: run for run in session.scalars(wanted)}

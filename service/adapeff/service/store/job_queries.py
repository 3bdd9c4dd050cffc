"""Read jobs and their runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, exists, false, func, not_, or_, select
from sqlalchemy.orm import Session, aliased

from adapeff.service.errors import JobError
from adapeff.service.store.database import now
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.tables import Job, JobSource, Run, SweepJob

HELD = "held"


def get_job(session: Session, job_id: int) -> Job:
    """The job's row as it is now.

    Raises:
        JobError: if it does not exist.
    """
    job = session.get(Job, job_id, populate_existing=True)
    if job is None:
        raise JobError(f"there is no job {job_id}; `adapeff status` lists them")
    return job


def list_jobs(
    session: Session,
    *,
    sweep_ids: Sequence[int] | None = None,
    states: Sequence[str] = (),
    kinds: Sequence[str] = (),
    ids: Sequence[int] | None = None,
    train_hashes: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[Job]:
    """Jobs by id, newest last.

    Args:
        states: only jobs in one of these, or `held` ones; none: all.
        sweep_ids: only jobs of these submissions; None: all.
        ids, train_hashes: only jobs with one of these; None: all.
        limit: keep only the most relevant: running jobs, failed ones, then the newest.
    """
    wanted = select(Job)
    if sweep_ids is not None:
        wanted = wanted.where(Job.id.in_(ids_of_sweeps(session, sweep_ids)))
    if states:
        is_held = and_(Job.state == "queued", Job.held) if HELD in states else false()
        wanted = wanted.where(or_(Job.state.in_(states), is_held))
    if kinds:
        wanted = wanted.where(Job.kind.in_(kinds))
    if ids is not None:
        wanted = wanted.where(is_one_of(session, Job.id, ids))
    if train_hashes is not None:
        wanted = wanted.where(is_one_of(session, Job.train_hash, train_hashes))
    if limit is None:
        return list(session.scalars(wanted.order_by(Job.id)))
    urgency = case((Job.state == "running", 0), (Job.state == "failed", 1), else_=2)
    return list(session.scalars(wanted.order_by(urgency, Job.id.desc()).limit(limit)))


def ids_of_sweeps(session: Session, sweep_ids: Sequence[int]) -> Select[int]:
    """The query for the ids of the jobs of some submissions."""
    return select(SweepJob.job_id).where(is_one_of(session, SweepJob.sweep_id, sweep_ids))


def count_by_state(session: Session, *, sweep_ids: Sequence[int] | None = None) -> dict[str, int]:
    """The number of jobs in each state; those that are held are counted apart from other queued ones."""
    wanted = select(Job.state, Job.held, func.count()).group_by(Job.state, Job.held)
    if sweep_ids is not None:
        wanted = wanted.where(Job.id.in_(ids_of_sweeps(session, sweep_ids)))
    return {shown_state(state, is_held): count for state, is_held, count in session.execute(wanted)}


def shown_state(state: str, is_held: bool) -> str:
    """A job's state for people: `held` for a queued job that is held."""
    return HELD if is_held and state == "queued" else state


def list_runs(session: Session, job_ids: Sequence[int]) -> dict[int, list[Run]]:
    """The runs of each job, first to last."""
    runs: dict[int, list[Run]] = {job_id: [] for job_id in job_ids}
    wanted = select(Run).where(is_one_of(session, Run.job_id, job_ids)).order_by(Run.job_id, Run.token)
    for run in session.scalars(wanted):
        runs[run.job_id].append(run)
    return runs


def runs_by_id(session: Session, run_ids: Sequence[int]) -> dict[int, Run]:
    """The runs with these ids."""
    return {run.id: run for run in session.scalars(select(Run).where(is_one_of(session, Run.id, run_ids)))}


@dataclass(frozen=True)
class HostRecord:
    """A host that has run jobs."""

    host: str
    running: int
    """Its runs that have not ended."""
    runs: int
    last_seen: datetime
    """When one of its runs last began or ended; while one is running, now."""


def list_hosts(session: Session) -> list[HostRecord]:
    """Every host that has run jobs, the last seen first."""
    is_running = case((Run.outcome == "running", 1), else_=0)
    wanted = select(
        Run.worker, func.sum(is_running), func.count(), func.max(Run.started_at), func.max(Run.finished_at)
    ).group_by(Run.worker)
    moment = now(session)
    hosts: dict[str, HostRecord] = {}
    for worker, running, count, started, finished in session.execute(wanted):
        host = worker.rsplit("-", 2)[0]
        seen = moment if running else max(filter(None, (started, finished)))
        known = hosts.get(host, HostRecord(host, 0, 0, seen))
        hosts[host] = HostRecord(host, known.running + running, known.runs + count, max(known.last_seen, seen))
    return sorted(hosts.values(), key=lambda record: record.last_seen, reverse=True)


def last_change(session: Session) -> datetime | None:
    """When a job last changed its state; None without jobs."""
    return session.scalar(select(func.max(Job.changed_at)))


def states_by_hash(session: Session, hashes: Sequence[str]) -> dict[str, str]:
    """The state of each job that exists, by job hash."""
    wanted = select(Job.job_hash, Job.state).where(is_one_of(session, Job.job_hash, hashes))
    return {row.job_hash: row.state for row in session.execute(wanted)}


def ids_by_hash(session: Session, hashes: Iterable[str]) -> dict[str, int]:
    """The id of each job that exists, by job hash."""
    wanted = select(Job.job_hash, Job.id).where(is_one_of(session, Job.job_hash, hashes))
    return {row.job_hash: row.id for row in session.execute(wanted)}


def is_claimable(moment: datetime) -> ColumnElement[bool]:
    """The condition for claiming a job: queued and not held, `not_before` has passed, its sources have succeeded."""
    source = aliased(Job)
    waiting = exists(
        select(1)
        .select_from(JobSource)
        .join(source, source.id == JobSource.source_id)
        .where(JobSource.job_id == Job.id, source.state != "succeeded")
    )
    return and_(Job.state == "queued", ~Job.held, or_(Job.not_before.is_(None), Job.not_before <= moment), ~waiting)


def _needed(sweep_id: int) -> Any:
    """The ids of a sweep's jobs and of the jobs whose artifacts they need."""
    needed = select(SweepJob.job_id).where(SweepJob.sweep_id == sweep_id).cte(recursive=True)
    return select(needed.union(select(JobSource.source_id).join(needed, JobSource.job_id == needed.c.job_id)).c.job_id)


def is_needed_by(session: Session, job_id: int, sweep_id: int) -> bool:
    """Whether a job belongs to a sweep, or one of the sweep's jobs needs its artifacts."""
    return session.scalar(select(Job.id).where(Job.id == job_id, Job.id.in_(_needed(sweep_id)))) is not None


def list_unfinished_sources(session: Session, job_id: int) -> list[Job]:
    """The jobs whose artifacts a job needs and that have not succeeded."""
    wanted = select(Job).join(JobSource, JobSource.source_id == Job.id).where(JobSource.job_id == job_id)
    return list(session.scalars(wanted.where(Job.state != "succeeded").order_by(Job.id)))


def count_ahead(session: Session, job: Job, lanes: Sequence[str]) -> int:
    """The number of jobs on some lanes that would be claimed before a job."""
    return session.scalar(select(func.count()).where(*_ahead(session, job, lanes))) or 0


def list_ahead(session: Session, job: Job, lanes: Sequence[str], *, limit: int) -> list[Job]:
    """The jobs on some lanes that would be claimed before a job, the first first."""
    wanted = select(Job).where(*_ahead(session, job, lanes)).order_by(Job.priority, Job.id).limit(limit)
    return list(session.scalars(wanted))


def _ahead(session: Session, job: Job, lanes: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
    is_before = or_(Job.priority < job.priority, and_(Job.priority == job.priority, Job.id < job.id))
    return Job.lane.in_(lanes), is_claimable(now(session)), is_before


def list_claimable(session: Session, sweep_id: int | None, lanes: Sequence[str], *, limit: int = 100) -> list[int]:
    """The jobs of a sweep, and their sources, or of all if None, that can be claimed now, most urgent first."""
    wanted = select(Job.id).where(*_of_sweep(sweep_id), Job.lane.in_(lanes), is_claimable(now(session)))
    return list(session.scalars(wanted.order_by(Job.priority, Job.id).limit(limit)))


def _of_sweep(sweep_id: int | None) -> list[ColumnElement[bool]]:
    return [] if sweep_id is None else [Job.id.in_(_needed(sweep_id))]


def find_most_urgent(session: Session, lanes: Sequence[str], *, but: Sequence[int] = ()) -> int | None:
    """The job to claim next on some lanes; None if there is none.

    PostgreSQL locks its row, so that workers that ask at the same time find different jobs; SQLite has one writer.

    Args:
        but: jobs to exclude.
    """
    moment = now(session)
    found = []
    for lane in lanes:  # one at a time, so that each is the first row of the index of queued jobs
        wanted = (
            select(Job.priority, Job.id)
            .where(Job.lane == lane, is_claimable(moment), not_(is_one_of(session, Job.id, but)))
            .order_by(Job.priority, Job.id)
            .limit(1)
            .with_for_update(of=Job, skip_locked=True)
        )
        found += [(row.priority, row.id) for row in session.execute(wanted)]
    return min(found)[1] if found else None


def oldest_claimable(session: Session) -> datetime | None:
    """Since when the job has waited that has waited longest of those that can be claimed now; None without any."""
    return session.scalar(select(func.min(Job.changed_at)).where(is_claimable(now(session))))


def _held_back() -> Any:
    """The ids of the jobs that are held, and of those that need a held job's artifacts."""
    held = select(Job.id).where(Job.state == "queued", Job.held).cte(recursive=True)
    return select(held.union(select(JobSource.job_id).join(held, JobSource.source_id == held.c.id)).c.id)


def count_held_back(session: Session, job_ids: Sequence[int]) -> int:
    """The number of some jobs that are held, or need one that is held."""
    wanted = select(func.count()).where(is_one_of(session, Job.id, job_ids), Job.id.in_(_held_back()))
    return session.scalar(wanted.where(Job.state == "queued")) or 0


def count_unfinished(session: Session, sweep_id: int | None, lanes: Sequence[str], *, but: Sequence[int]) -> int:
    """The number of jobs of a sweep, and of their sources, that have not ended and are not held back.

    Args:
        sweep_id: None: the queued jobs of all sweeps, without the running ones.
        but: jobs to exclude.
    """
    wanted = select(func.count()).where(
        *_of_sweep(sweep_id),
        Job.lane.in_(lanes),
        Job.state.in_(("queued", "running") if sweep_id is not None else ("queued",)),
        not_(is_one_of(session, Job.id, but)),
        Job.id.not_in(_held_back()),
    )
    return session.scalar(wanted) or 0


def count_ended_since(session: Session, moment: datetime, *, sweep_ids: Sequence[int] | None = None) -> int:
    """The number of jobs that succeeded or failed after a moment; reads only jobs that changed since."""
    wanted = select(func.count()).where(Job.changed_at >= moment, Job.state.in_(("succeeded", "failed")))
    if sweep_ids is not None:
        wanted = wanted.where(Job.id.in_(ids_of_sweeps(session, sweep_ids)))
    return session.scalar(wanted) or 0


def list_left(session: Session, *, sweep_ids: Sequence[int] | None = None, limit: int) -> tuple[int, list[Job]]:
    """The number of running jobs, and of queued ones that are not held back, and the first of them."""
    of_sweeps = [Job.id.in_(ids_of_sweeps(session, sweep_ids))] if sweep_ids is not None else []
    running = Job.state == "running", *of_sweeps
    queued = Job.state == "queued", Job.id.not_in(_held_back()), *of_sweeps
    count, first = 0, list[Job]()
    for conditions in (running, queued):  # apart, so that each reads its index
        count += session.scalar(select(func.count()).where(*conditions)) or 0
        wanted = select(Job).where(*conditions).order_by(Job.priority, Job.id)
        first += session.scalars(wanted.limit(limit - len(first)))
    return count, first


def list_unsent(session: Session, *, limit: int = 10_000) -> list[Job]:
    """Queued jobs without a message: the outbox, most urgent first."""
    wanted = (
        select(Job).where(is_claimable(now(session)), Job.sent_at.is_(None)).order_by(Job.priority, Job.id).limit(limit)
    )
    return list(session.scalars(wanted))


def list_waiting(session: Session, lane: str, *, older_than_seconds: float, limit: int = 10_000) -> list[Job]:
    """Queued jobs of a lane whose message was sent a while ago and may be lost."""
    moment = now(session)
    wanted = (
        select(Job)
        .where(is_claimable(moment), Job.lane == lane, Job.sent_at < moment - timedelta(seconds=older_than_seconds))
        .order_by(Job.priority, Job.id)
        .limit(limit)
    )
    return list(session.scalars(wanted))

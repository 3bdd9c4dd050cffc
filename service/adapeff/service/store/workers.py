"""Which workers there are, and what each runs.

A worker's reconciler reports it in a transaction that it needs anyway. With each report it promises the next one; a
worker whose promise has expired is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from sqlalchemy import CursorResult, and_, delete, insert, or_, select, update
from sqlalchemy.orm import Session

from adapeff.service.store.database import now
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.tables import Job, Run, Worker

_KEPT = timedelta(days=7)


@dataclass(frozen=True)
class WorkerRecord:
    """What a worker says of itself."""

    name: str
    host: str
    device: str
    """The kind of its devices."""
    slots: Sequence[str]
    version: str
    """adapeff's version."""
    sweep_id: int | None = None
    """The submission whose jobs it runs; None: it serves the queue."""


@dataclass(frozen=True)
class RunHere:
    """A run that a worker holds."""

    job_id: int
    label: str
    """What the job is."""
    slot: str
    stage: str
    progress: Mapping[str, Any]
    started_at: datetime


@dataclass(frozen=True)
class WorkerView:
    """A worker, and what it does."""

    record: WorkerRecord
    state: Literal["alive", "stopped", "gone"]
    started_at: datetime
    heartbeat_at: datetime
    silent_seconds: float
    """Seconds since it last reported."""
    stopped_at: datetime | None
    runs: Sequence[RunHere]


def report_alive(session: Session, worker: WorkerRecord, *, next_within_seconds: float) -> None:
    """Record that a worker is alive and reports again in time; a new worker's row replaces those of long ago."""
    moment = now(session)
    until = moment + timedelta(seconds=next_within_seconds)
    known = session.execute(
        update(Worker)
        .where(Worker.name == worker.name)
        .values(heartbeat_at=moment, alive_until=until)
        .execution_options(synchronize_session=False)
    )
    if cast("CursorResult[Any]", known).rowcount:
        return
    session.execute(delete(Worker).where(Worker.heartbeat_at < moment - _KEPT))
    session.execute(
        insert(Worker).values(
            name=worker.name,
            host=worker.host,
            device=worker.device,
            slots=list(worker.slots),
            version=worker.version,
            sweep_id=worker.sweep_id,
            started_at=moment,
            heartbeat_at=moment,
            alive_until=until,
        )
    )


def mark_stopped(session: Session, name: str) -> None:
    """Record that a worker has stopped by itself."""
    moment = now(session)
    session.execute(
        update(Worker)
        .where(Worker.name == name)
        .values(stopped_at=moment, heartbeat_at=moment)
        .execution_options(synchronize_session=False)
    )


def list_workers(session: Session, *, gone_within: timedelta = timedelta()) -> list[WorkerView]:
    """The workers that are alive, then those that stopped or fell silent within a time, the last seen first."""
    moment = now(session)
    is_alive = and_(Worker.stopped_at.is_(None), Worker.alive_until >= moment)
    wanted = select(Worker).where(or_(is_alive, Worker.heartbeat_at >= moment - gone_within))
    found = session.scalars(wanted.order_by(Worker.heartbeat_at.desc(), Worker.id)).all()
    runs = _runs_by_worker(session, [row.name for row in found])
    views = [_view(row, moment, runs.get(row.name, [])) for row in found]
    return sorted(views, key=lambda view: (view.state != "alive", view.record.host if view.state == "alive" else ""))


def _view(row: Worker, moment: datetime, runs: Sequence[RunHere]) -> WorkerView:
    is_silent = row.alive_until < moment
    return WorkerView(
        WorkerRecord(row.name, row.host, row.device, tuple(row.slots), row.version, row.sweep_id),
        "stopped" if row.stopped_at is not None else "gone" if is_silent else "alive",
        row.started_at,
        row.heartbeat_at,
        (moment - row.heartbeat_at).total_seconds(),
        row.stopped_at,
        runs,
    )


def _runs_by_worker(session: Session, names: Sequence[str]) -> dict[str, list[RunHere]]:
    wanted = (
        select(Job, Run)
        .join(Run, and_(Run.job_id == Job.id, Run.token == Job.token))
        .where(Job.state == "running", is_one_of(session, Job.lease_owner, names))
        .order_by(Run.slot, Job.id)
    )
    found: dict[str, list[RunHere]] = {}
    for job, run in session.execute(wanted):
        here = RunHere(job.id, job.label, run.slot, run.stage, run.progress, run.started_at)
        found.setdefault(run.worker, []).append(here)
    return found

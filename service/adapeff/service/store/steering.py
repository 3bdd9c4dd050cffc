"""Hold, release, reorder and retry jobs: those that are named, or those that a sweep or condition selects.

Each change is a compare-and-set: a job that a worker has claimed meanwhile stays as it is and is not in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from adapeff.service.errors import JobError
from adapeff.service.store.database import now
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.job_queries import get_job, ids_of_sweeps
from adapeff.service.store.jobs import failed_by, retry_job
from adapeff.service.store.tables import Job

CANCELLED = "cancelled"
"""What selects cancelled jobs where others are selected by the cause of their failure."""


def hold(session: Session, job_ids: Sequence[int]) -> list[int]:
    """Hold those of the jobs that are queued: no worker claims them until they are released. Returns their ids."""
    return _change_queued(session, job_ids, {"held": True})


def release(session: Session, job_ids: Sequence[int]) -> list[int]:
    """Release those of the jobs that are held, and forget their messages, which may have been consumed meanwhile."""
    return _change_queued(session, job_ids, {"held": False, "sent_at": None}, Job.held.is_(True))


def set_priority(session: Session, job_ids: Sequence[int], priority: int) -> list[int]:
    """Set the priority of those of the jobs that are queued; 0 is served first. Returns their ids."""
    return _change_queued(session, job_ids, {"priority": priority})


def _change_queued(
    session: Session, job_ids: Sequence[int], values: dict[str, Any], *conditions: ColumnElement[bool]
) -> list[int]:
    changed = session.scalars(
        update(Job)
        .where(is_one_of(session, Job.id, job_ids), Job.state == "queued", *conditions)
        .values(**values, changed_at=now(session))
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return sorted(changed)


def check_queued(session: Session, job_ids: Sequence[int], verb: str) -> None:
    """Refuse what only queued jobs allow.

    Args:
        verb: what was to be done with them, such as `held`.

    Raises:
        JobError: naming the first job that does not exist or is not queued.
    """
    for job_id in job_ids:
        state = get_job(session, job_id).state
        if state != "queued":
            raise JobError(f"job {job_id} is {state}; only queued jobs can be {verb}")


def list_ended(session: Session, *, sweep_ids: Sequence[int] | None, causes: Sequence[str]) -> list[int]:
    """The failed jobs of some submissions (None: all) by the causes of their failure, and cancelled ones if asked for.

    Args:
        causes: any of `jobs.CAUSES` and `CANCELLED`; none: every failed job.
    """
    kinds = [Job.state == CANCELLED if cause == CANCELLED else failed_by(cause) for cause in causes]
    wanted = select(Job.id).where(or_(*kinds) if kinds else Job.state == "failed").order_by(Job.id)
    if sweep_ids is not None:
        wanted = wanted.where(Job.id.in_(ids_of_sweeps(session, sweep_ids)))
    return list(session.scalars(wanted))


def retry_where_possible(session: Session, job_ids: Sequence[int]) -> tuple[list[int], list[str]]:
    """Queue those of the jobs again whose sources have not failed; sources come first.

    Returns:
        The ids of the queued ones, and why the others were left.
    """
    queued, left = [], []
    for job_id in sorted(job_ids):
        try:
            retry_job(session, job_id)
        except JobError as error:
            left.append(str(error))
        else:
            queued.append(job_id)
    return queued, left

"""The job state machine.

                 ┌──────── retry ────────┬─────────────┐
                 ▼                       │             │
    create ─► queued ── claim ─► running ┴─► failed    │
                 ▲                │  │ └──► cancelled ─┘
                 └─ release, lost ┘  └────► succeeded
    queued ── cancel ─► cancelled          (a queued job that is held is not claimed until it is released)

Every change is a compare-and-set: it names the state (and, for a run, the fencing token) it expects, so a late caller
changes nothing and gets an error. Each claim adds 1 to the token; a run whose token is no longer the job's may not
write. `failures` is a separate budget: only killed and lost runs count towards it, released runs do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, cast
from uuid import uuid4

from sqlalchemy import ColumnElement, CursorResult, and_, case, or_, select, update
from sqlalchemy.orm import Session

from adapeff.service.errors import JobError, LeaseLostError
from adapeff.service.store.database import now
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.job_queries import get_job, is_claimable
from adapeff.service.store.tables import FINAL_STATES, Job, JobSource, Run

Outcome = Literal["succeeded", "error", "oom", "killed", "timeout", "cancelled", "lost", "released"]

_TRY_AGAIN = ("killed", "lost")
BACK_OFF_SECONDS = (0.0, 10.0, 60.0, 300.0)
"""How long a job waits after its first, second, ... killed or lost run."""
_OF_SOURCE = "its source, job "
CAUSES = ("error", "oom", "killed", "timeout", "lost", "source")
"""Why jobs fail: the outcomes of their last run, or a source that failed or was cancelled."""


@dataclass(frozen=True)
class Claim:
    """The right to run a job once, with the token that fences its results."""

    job_id: int
    run_id: int
    token: int
    spec: Mapping[str, Any]
    """The job's specification as stored; the runner parses it."""
    folder: str
    """The folder for the run's files."""

    @property
    def ids(self) -> dict[str, int]:
        """What a log message about the run says of it."""
        return {"job_id": self.job_id, "run_id": self.run_id}


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended."""

    outcome: Outcome
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    resolved: Mapping[str, Any] = field(default_factory=dict)
    retry_after_seconds: float = 0
    """Seconds before a job returned to the queue may be claimed again."""
    not_here: bool = False
    """Whether the host lacks something the job needs; another host may run it."""


def claim_job(
    session: Session, job_id: int, *, owner: str, slot: str, folder: str, lease_seconds: float, lanes: Sequence[str]
) -> Claim | None:
    """Claim a queued job; None if it cannot be claimed, for instance because of a duplicate message.

    A message may be in another lane than its job, so the job's lane must be one of the `lanes` its slot serves. Each
    run's folder has a unique name: two databases may share an artifacts folder, and a run must not read another's
    events as its own.
    """
    moment = now(session)
    claimed = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.lane.in_(lanes), is_claimable(moment))
        .values(
            state="running",
            cause="",
            not_before=None,
            token=Job.token + 1,
            lease_owner=owner,
            lease_until=moment + timedelta(seconds=lease_seconds),
            cancel_requested_at=None,
            changed_at=moment,
        )
        .returning(Job.token, Job.spec, Job.job_hash)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if claimed is None:
        return None
    run = Run(
        job_id=job_id,
        token=claimed.token,
        worker=owner,
        slot=slot,
        folder=f"{folder}/{claimed.job_hash[:2]}/{claimed.job_hash}/{claimed.token}-{uuid4().hex[:8]}",
        outcome="running",
        started_at=moment,
    )
    session.add(run)
    session.flush()
    return Claim(job_id, run.id, claimed.token, claimed.spec, run.folder)


def heartbeat(
    session: Session, claim: Claim, *, lease_seconds: float | None, stage: str, progress: Mapping[str, Any]
) -> bool:
    """Store the progress, and renew the lease unless `lease_seconds` is None.

    Returns:
        Whether cancellation of the job was requested.

    Raises:
        LeaseLostError: if the run no longer holds the job's lease.
    """
    until = Job.lease_until if lease_seconds is None else now(session) + timedelta(seconds=lease_seconds)
    _set_as_holder(session, claim, {"lease_until": until})
    session.execute(update(Run).where(Run.id == claim.run_id).values(stage=stage, progress=dict(progress)))
    return session.scalar(select(Job.cancel_requested_at).where(Job.id == claim.job_id)) is not None


def finish_run(
    session: Session,
    claim: Claim,
    ending: RunOutcome,
    *conditions: ColumnElement[bool],
    environment_id: int | None = None,
) -> str:
    """End a run and move its job: to a final state, or back to the queue for another attempt.

    Args:
        conditions: further conditions on the job's row when it is changed.

    Returns:
        The job's new state.

    Raises:
        LeaseLostError: if the run no longer holds the job's lease; nothing is written then.
    """
    moment = now(session)
    wanted = select(Job.failures, Job.max_failures, Job.cancel_requested_at).where(Job.id == claim.job_id)
    job = session.execute(wanted).one()
    failures = job.failures + (ending.outcome in _TRY_AGAIN)
    state, cause = _after(ending.outcome, ending.message, failures, job.max_failures)
    if ending.outcome in ("released", *_TRY_AGAIN) and job.cancel_requested_at is not None:
        state, cause = "cancelled", f"cancelled while it ran ({cause})"
    pause = ending.retry_after_seconds
    if ending.outcome in _TRY_AGAIN:
        pause = max(pause, BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS)) - 1])
    values: dict[str, Any] = {
        "state": state,
        "cause": cause,
        "failures": failures,
        "lease_owner": None,
        "lease_until": None,
        "sent_at": None,
        "not_before": moment + timedelta(seconds=pause) if pause and state == "queued" else None,
        "finished_at": moment if state in FINAL_STATES else None,
        "changed_at": moment,
    }
    _set_as_holder(session, claim, values, *conditions)
    session.execute(
        update(Run)
        .where(Run.id == claim.run_id)
        .values(
            outcome=ending.outcome,
            message=ending.message,
            exit_code=ending.exit_code,
            signal=ending.signal,
            resolved=dict(ending.resolved),
            environment_id=environment_id,
            finished_at=moment,
        )
    )
    if state in ("failed", "cancelled"):
        _fail_dependents(session, claim.job_id, state)
    return state


def _after(outcome: Outcome, message: str, failures: int, max_failures: int) -> tuple[str, str]:
    if outcome in ("succeeded", "cancelled"):
        return outcome, "" if outcome == "succeeded" else message or "cancelled"
    if outcome == "released" or (outcome in _TRY_AGAIN and failures < max_failures):
        return "queued", f"{outcome}: {message}" if message else outcome
    times = f" ({failures} of {max_failures} failures)" if outcome in _TRY_AGAIN else ""
    return "failed", f"{outcome}{times}: {message}"


def failed_by(cause: str) -> ColumnElement[bool]:
    """The condition that a job failed by one of `CAUSES`, from the cause as it is stored."""
    return and_(Job.state == "failed", or_(*(Job.cause.startswith(beginning) for beginning in _beginnings(cause))))


def cause_of(job: Job) -> str | None:
    """Which of `CAUSES` made a job fail."""
    return next((cause for cause in CAUSES if job.state == "failed" and job.cause.startswith(_beginnings(cause))), None)


def _beginnings(cause: str) -> tuple[str, ...]:
    return (_OF_SOURCE,) if cause == "source" else (f"{cause}:", f"{cause} (")


def _set_as_holder(session: Session, claim: Claim, values: Mapping[str, Any], *conditions: ColumnElement[bool]) -> None:
    done = session.execute(
        update(Job)
        .where(Job.id == claim.job_id, Job.state == "running", Job.token == claim.token, *conditions)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    if cast("CursorResult[Any]", done).rowcount == 0:
        raise LeaseLostError(f"run {claim.run_id} of job {claim.job_id} has lost its lease (token {claim.token})")


def change(
    session: Session, moment: datetime, conditions: Sequence[ColumnElement[bool]], values: Mapping[str, Any]
) -> int:
    """Change the jobs that meet the conditions, and record the time. Returns their number."""
    done = session.execute(
        update(Job).where(*conditions).values(**values, changed_at=moment).execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", done).rowcount


def _fail_dependents(session: Session, job_id: int, state: str) -> None:
    """Fail the queued jobs that need a job which failed or was cancelled, since they could never run."""
    waiting = select(JobSource.job_id).where(JobSource.source_id == job_id)
    cause, moment = f"{_OF_SOURCE}{job_id}, was {state}", now(session)
    change(
        session,
        moment,
        (Job.id.in_(waiting), Job.state == "queued"),
        {"state": "failed", "cause": cause, "held": False, "sent_at": None, "finished_at": moment},
    )


def request_cancel(session: Session, job_id: int) -> str:
    """Cancel a queued job immediately, or tell a running job's worker to cancel it.

    Returns:
        `cancelled` or `cancelling`.

    Raises:
        JobError: if the job does not exist or has ended.
    """
    moment = now(session)
    cause = case((Job.token == 0, "cancelled before it ran"), else_="cancelled while it waited to run again")
    cancelled = {"state": "cancelled", "cause": cause, "held": False, "finished_at": moment, "sent_at": None}
    if change(session, moment, (Job.id == job_id, Job.state == "queued"), cancelled):
        _fail_dependents(session, job_id, "cancelled")
        return "cancelled"
    if change(session, moment, (Job.id == job_id, Job.state == "running"), {"cancel_requested_at": moment}):
        return "cancelling"
    raise JobError(f"job {job_id} is {get_job(session, job_id).state}; only queued and running jobs can be cancelled")


def retry_job(session: Session, job_id: int) -> None:
    """Queue a failed or cancelled job again, with a fresh failure budget.

    Raises:
        JobError: if the job does not exist or is in another state.
    """
    source = session.scalar(
        select(Job.id)
        .join(JobSource, JobSource.source_id == Job.id)
        .where(JobSource.job_id == job_id, Job.state.in_(("failed", "cancelled")))
    )
    if source is not None:
        raise JobError(
            f"job {job_id} needs the weights of job {source}, which has failed or was cancelled; "
            f"retry job {source} first"
        )
    queued = {"state": "queued", "cause": "", "failures": 0} | dict.fromkeys(
        ("sent_at", "not_before", "finished_at", "cancel_requested_at")
    )
    if not change(session, now(session), (Job.id == job_id, Job.state.in_(("failed", "cancelled"))), queued):
        raise JobError(
            f"job {job_id} is {get_job(session, job_id).state}; only failed and cancelled jobs can be retried"
        )


def take_back_expired(session: Session) -> list[tuple[int, str]]:
    """End every run with an expired lease as lost, and requeue its job or fail it.

    Returns:
        (job id, new state) of each.
    """
    moment = now(session)
    expired = session.execute(
        select(Job.id, Job.token, Job.lease_owner, Run.id.label("run_id"), Run.folder, Job.spec)
        .join(Run, and_(Run.job_id == Job.id, Run.token == Job.token))
        .where(Job.state == "running", Job.lease_until < moment)
    ).all()
    taken = []
    for row in expired:
        claim = Claim(row.id, row.run_id, row.token, row.spec, row.folder)
        try:
            ending = RunOutcome("lost", f"no heartbeat from worker {row.lease_owner}")
            state = finish_run(session, claim, ending, Job.lease_until < moment)
        except LeaseLostError:
            continue  # it has just ended or been renewed, or another reconciler was first
        taken.append((row.id, state))
    return taken


def list_left_runs(session: Session, *, host: str, but: str) -> list[Claim]:
    """List the runs of a host's other workers that are recorded as running; the workers may be gone.

    Args:
        host: the prefix of its workers' names.
        but: the worker whose runs to skip.
    """
    wanted = (
        select(Job.id, Run.id.label("run_id"), Job.token, Job.spec, Run.folder)
        .join(Run, and_(Run.job_id == Job.id, Run.token == Job.token))
        .where(Job.state == "running", Run.worker.startswith(f"{host}-", autoescape=True), Run.worker != but)
    )
    return [Claim(row.id, row.run_id, row.token, row.spec, row.folder) for row in session.execute(wanted)]


def touch(session: Session) -> None:
    """Write without changing anything, to wait until the write lock on the jobs is free and take it."""
    session.execute(update(Job).where(Job.id < 0).values(cause="").execution_options(synchronize_session=False))


def mark_sent(session: Session, job_ids: Sequence[int]) -> None:
    """Record that the broker has messages for these jobs."""
    moment = now(session)
    session.execute(
        update(Job)
        .where(is_one_of(session, Job.id, job_ids), Job.state == "queued")
        .values(sent_at=moment)
        .execution_options(synchronize_session=False)
    )


def mark_unsent(session: Session, job_id: int) -> None:
    """Record that a job's message was consumed without effect, so that it is sent again."""
    session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state == "queued")
        .values(sent_at=None)
        .execution_options(synchronize_session=False)
    )

"""Why a job is in the state it is in: what it waits for, where it runs, or why it ended, and what to do."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from adapeff.service.lanes import ANY, device_of, lane_of
from adapeff.service.reporting.words import duration, stage_in_words
from adapeff.service.store import job_queries, sweeps
from adapeff.service.store.database import now
from adapeff.service.store.jobs import cause_of
from adapeff.service.store.tables import Job, Run
from adapeff.service.store.workers import WorkerView, list_workers

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_SHOWN = 4
"""How many jobs or hosts a sentence names."""
_MOST_AHEAD = 1_000
"""With more jobs ahead than this, the time of the start is not estimated."""
_DEEPEST = 5
"""How many jobs a chain of sources names."""
_ADVICE = {
    "oom": "submit it with a smaller batch_size or max_length, or retry it where there is more memory",
    "timeout": "raise time_limit_minutes, submit the sweep again, which changes the limits of its jobs, and retry it",
    "killed": "its process was killed {failures} times: see `adapeff logs {id}` and the host's log; then retry it",
    "lost": "its workers fell silent {failures} times: see `adapeff workers` and the hosts' logs; then retry it",
    "error": "see `adapeff logs {id}`; retry it once the cause is mended",
}


@dataclass(frozen=True)
class Reason:
    """One thing that a job waits for, or that happened to it."""

    kind: str
    """`hold`, `source`, `not_before`, `no_worker`, `busy`, `ahead`, `unsent`, `soon`, or the job's state."""
    text: str
    jobs: Sequence[int] = ()
    """The other jobs that it is about."""


@dataclass(frozen=True)
class Explanation:
    """Why a job is in its state."""

    job_id: int
    label: str
    state: str
    """As people see it: `held` for a queued job that is held."""
    reasons: list[Reason]
    advice: list[str] = field(default_factory=list)
    needs_broker: bool = False
    """Whether it only waits for a worker to hear of it, so that the state of the broker matters."""
    position: int | None = None
    """Its place in the queue of the workers that could run it: 1 is claimed next."""
    starts_in_s: float | None = None
    takes_s: float | None = None
    """How long it takes, or still takes, judging by similar runs."""


def explain_job(session: Session, job_id: int) -> Explanation:
    """Why a job is in its state.

    Raises:
        JobError: if it does not exist.
    """
    job = job_queries.get_job(session, job_id)
    if job.state == "queued":
        return _explain_queued(session, job)
    runs = job_queries.list_runs(session, [job_id])[job_id]
    if job.state == "running":
        return _explain_running(session, job, runs[-1])
    return _explain_ended(session, job, runs)


def _explain_running(session: Session, job: Job, run: Run) -> Explanation:
    moment = now(session)
    elapsed = (moment - run.started_at).total_seconds()
    where = f"{run.slot} of {_host(run)}"
    reasons = [
        Reason(
            "running",
            f"run {run.token} has been on {where} for {duration(elapsed)}, since {_time(run.started_at, moment)}: "
            f"{stage_in_words(run.stage, run.progress)}",
        )
    ]
    advice = []
    if job.cancel_requested_at is not None:
        reasons.append(Reason("cancelling", "its cancellation was requested; its worker stops it within seconds"))
    if job.lease_until is not None and job.lease_until < moment:
        silent = duration((moment - job.lease_until).total_seconds())
        reasons.append(Reason("lost", f"its worker has fallen silent; its lease expired {silent} ago"))
        advice.append("any worker that is alive takes it back within two minutes: see `adapeff workers`")
    (whole,) = sweeps.estimate_jobs(session, [job])
    left = max(0.0, whole - elapsed) if whole is not None else None
    return Explanation(job.id, job.label, job.state, reasons, advice, takes_s=left)


def _explain_ended(session: Session, job: Job, runs: Sequence[Run]) -> Explanation:
    moment = now(session)
    ago = duration((moment - job.finished_at).total_seconds()) if job.finished_at else "some time"
    if job.state == "succeeded":
        where = f" on {runs[-1].slot} of {_host(runs[-1])}" if runs else ""
        reason = Reason("succeeded", f"it succeeded {ago} ago{where}")
        return Explanation(job.id, job.label, job.state, [reason], [f"`adapeff show {job.id}` has its results"])
    reasons = [Reason(job.state, f"it {'failed' if job.state == 'failed' else 'was cancelled'} {ago} ago: {job.cause}")]
    ended = [source for source in job_queries.list_unfinished_sources(session, job.id) if source.state != "queued"]
    reasons += [
        Reason("source", f"{_named(source)}, whose weights it needs, is {source.state}", [source.id])
        for source in ended[:_SHOWN]
    ]
    if job.state == "failed" and runs:
        attempts = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
        used = f"{job.failures} of at most {job.max_failures} failures used"
        reasons.append(Reason("failures", f"{attempts}, {used}; the last on {runs[-1].slot} of {_host(runs[-1])}"))
    cause = cause_of(job)
    first = " ".join(str(source.id) for source in ended if source.state in ("failed", "cancelled"))
    advice = [_ADVICE[cause].format(id=job.id, failures=job.failures)] if cause in _ADVICE else []
    return Explanation(
        job.id, job.label, job.state, reasons, [*advice, f"`adapeff retry {f'{first} ' if first else ''}{job.id}`"]
    )


def _explain_queued(session: Session, job: Job) -> Explanation:
    moment = now(session)
    state = job_queries.shown_state(job.state, job.held)
    reasons, advice = [], []
    if job.held:
        reasons.append(Reason("hold", "no worker takes it until it is released"))
        advice.append(f"`adapeff release {job.id}`")
    for source in job_queries.list_unfinished_sources(session, job.id)[:_SHOWN]:
        chain = list(_chain(session, source))
        text = ", which needs ".join(f"{_named(each)}, {_in_state(each)}" for each in chain)
        reasons.append(Reason("source", f"it needs the weights of {text}", [each.id for each in chain]))
        if chain[-1].held:
            advice.append(f"`adapeff release {chain[-1].id}`")
    if job.not_before is not None and job.not_before > moment:
        wait = duration((job.not_before - moment).total_seconds())
        text = f"it is not tried before {_time(job.not_before, moment)}, in {wait}"
        reasons.append(Reason("not_before", f"{text}, because its last run was {job.cause}" if job.cause else text))
    elif job.cause:
        reasons.append(Reason("tried", f"its last run was {job.cause}"))
    (takes,) = sweeps.estimate_jobs(session, [job])
    if any(reason.kind in ("hold", "source", "not_before") for reason in reasons):
        return Explanation(job.id, job.label, state, reasons, advice, takes_s=takes)
    workers = _workers_for(session, job)
    if not workers:
        reasons.append(_nobody(session, job))
        kind = device_of(job.lane)
        advice.append("`adapeff worker`" if kind == ANY else f"`adapeff worker --devices {kind}` on a host that has it")
        position = 1 + job_queries.count_ahead(session, job, [job.lane])
        return Explanation(job.id, job.label, state, reasons, advice, position=position, takes_s=takes)
    lanes = sorted({lane_of(ANY), *(lane_of(view.record.device) for view in workers)})
    ahead = job_queries.count_ahead(session, job, lanes)
    free = sum(max(0, len(view.record.slots) - len(view.runs)) for view in workers)
    if ahead:
        reasons.append(Reason("ahead", f"{ahead} {'job is' if ahead == 1 else 'jobs are'} more urgent or older"))
    if free <= ahead:
        reasons.append(_busy(workers, free))
    elif job.sent_at is None:
        reasons.append(Reason("unsent", "its message has not been sent yet; any worker sends it within a minute"))
    else:
        sent = duration((moment - job.sent_at).total_seconds())
        text = f"a slot is free, and a message was sent {sent} ago; a lost one is sent again within a minute"
        reasons.append(Reason("soon", text))
    starts = _starts_in(session, job, workers, lanes) if ahead <= _MOST_AHEAD else None
    return Explanation(
        job.id, job.label, state, reasons, advice, needs_broker=free > ahead, position=1 + ahead, starts_in_s=starts,
        takes_s=takes,
    )  # fmt: skip


def _chain(session: Session, source: Job) -> Iterator[Job]:
    """A source, its first source that has not succeeded, and so on."""
    yield source
    for _ in range(_DEEPEST - 1):
        if source.state != "queued" or source.held:
            return
        further = job_queries.list_unfinished_sources(session, source.id)
        if not further:
            return
        source = further[0]
        yield source


def _workers_for(session: Session, job: Job) -> list[WorkerView]:
    """The workers that are alive and would run a job."""
    kind = device_of(job.lane)
    return [
        view
        for view in list_workers(session)
        if kind in (ANY, view.record.device)
        and (view.record.sweep_id is None or job_queries.is_needed_by(session, job.id, view.record.sweep_id))
    ]


def _nobody(session: Session, job: Job) -> Reason:
    """That no worker would run a job, and what those that are alive do instead."""
    alive = list_workers(session)
    kind = device_of(job.lane)
    others = sorted({f"{view.record.device} on {view.record.host}" for view in alive})
    wanted = "serves the queue" if kind == ANY else f"offers {kind}"
    text = f"no worker that {wanted} is alive" if alive else "no worker is alive"
    if others:
        only = ", for the jobs of one sweep only" if all(view.record.sweep_id for view in alive) else ""
        text += f" (alive: {', '.join(others[:_SHOWN])}{only})"
    return Reason("no_worker", text)


def _busy(workers: Sequence[WorkerView], free: int) -> Reason:
    runs = [(view, run) for view in workers for run in view.runs]
    slots = sum(len(view.record.slots) for view in workers)
    those = "the slot" if slots == 1 else f"all {slots} slots"
    if free:
        text = f"{free} of {slots} slots that could run it {'is' if free == 1 else 'are'} free, for those ahead of it"
        return Reason("busy", text, [run.job_id for _, run in runs])
    named = ", ".join(
        f"job {run.job_id} on {run.slot} of {view.record.host} ({stage_in_words(run.stage, run.progress)})"
        for view, run in runs[:_SHOWN]
    )
    more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
    verb = "is" if slots == 1 else "are"
    return Reason("busy", f"{those} that could run it {verb} busy: {named}{more}", [run.job_id for _, run in runs])


def _starts_in(session: Session, job: Job, workers: Sequence[WorkerView], lanes: Sequence[str]) -> float | None:
    """Seconds until a slot is free for a job, judging by similar runs; None if those of a job before it are unknown."""
    before = job_queries.list_ahead(session, job, lanes, limit=_MOST_AHEAD)
    runs = [run for view in workers for run in view.runs]
    running = {found.id: found for found in job_queries.list_jobs(session, ids=[run.job_id for run in runs])}
    times = sweeps.estimate_jobs(session, [*(running[run.job_id] for run in runs if run.job_id in running), *before])
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return None
    moment = now(session)
    elapsed = [(moment - run.started_at).total_seconds() for run in runs if run.job_id in running]
    idle = max(0, sum(len(view.record.slots) for view in workers) - len(elapsed))
    free_at = [0.0] * idle + [max(0.0, time - spent) for time, spent in zip(known, elapsed, strict=False)]
    heapq.heapify(free_at)
    for time in known[len(elapsed) :]:
        heapq.heapreplace(free_at, free_at[0] + time)
    return free_at[0]


def _named(job: Job) -> str:
    return f"job {job.id} ({job.label})"


def _in_state(job: Job) -> str:
    state = job_queries.shown_state(job.state, job.held)
    return f"which is {state}{f' ({job.cause})' if job.state == 'failed' else ''}"


def _host(run: Run) -> str:
    return run.worker.rsplit("-", 2)[0]


def _time(when: datetime, moment: datetime) -> str:
    """A time of day, with the date if it is another one."""
    return f"{when:%H:%M:%S} UTC" if when.date() == moment.date() else f"{when:%Y-%m-%d %H:%M} UTC"

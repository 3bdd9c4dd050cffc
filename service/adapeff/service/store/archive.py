"""Write finished jobs with all their results as an archive, which `archive_import` reads: lines of JSON.

    {"adapeff_archive": 1, "written_at": "..."}
    {"submission": 3, "name": "demo", "created_at": "...", "spec": {...}}      one per submission
    {"job_hash": "...", "spec": {...}, "submissions": [3], "events": [...], ...}      one per job, sources first
    {"jobs": 12}

Runs that count are archived, failed attempts are not. Files of runs stay where they are; their paths, sizes and
checksums are archived, and the predictions' content on request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapeff.service.store import job_queries, results
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.tables import (
    Artifact,
    Curve,
    Environment,
    ExampleScores,
    Job,
    JobSource,
    Run,
    Sweep,
    SweepJob,
)

FORMAT = 1
PREDICTIONS = "predictions"
LONGEST_LINE = 2**26
"""Characters of a line; longer ones are refused."""
_LARGEST_FILE = LONGEST_LINE // 2
_CHUNK = 100


@dataclass(frozen=True)
class Written:
    """What an archive contains."""

    jobs: int
    without_predictions: int
    """Runs whose predictions were requested, but are not on this host as the run stored them, or are too large."""


def write_archive(
    session: Session,
    sweep_ids: Sequence[int] | None,
    write_line: Callable[[str], object],
    *,
    with_predictions: bool = False,
) -> Written:
    """Write an archive of the succeeded jobs of some submissions and of the jobs they build on, or of all jobs.

    Args:
        sweep_ids: the submissions; None: all jobs, with all submissions.
        write_line: takes each line, without a line break.
        with_predictions: include the content of the files of predictions.
    """
    write_line(json.dumps({"adapeff_archive": FORMAT, "written_at": datetime.now(UTC).isoformat(timespec="seconds")}))
    ids = list(session.scalars(_wanted_jobs(session, sweep_ids)))
    submissions = _submissions_of(session, ids, sweep_ids)
    for sweep in _sweeps(session, {number for of_job in submissions.values() for number in of_job}):
        about = {"submission": sweep.id, "name": sweep.name, "created_at": sweep.created_at.isoformat()}
        write_line(json.dumps({**about, "spec": sweep.spec}))
    jobs = without = 0
    for start in range(0, len(ids), _CHUNK):
        for job_id, record in _job_records(session, ids[start : start + _CHUNK]):
            if with_predictions:
                without += not _add_predictions(record["events"])
            write_line(json.dumps({**record, "submissions": submissions.get(job_id, [])}))
            jobs += 1
    write_line(json.dumps({"jobs": jobs}))
    return Written(jobs, without)


def _wanted_jobs(session: Session, sweep_ids: Sequence[int] | None) -> Any:
    """The query for the ids of jobs; a job is newer than those it builds on."""
    wanted = select(Job.id).where(Job.state == "succeeded").order_by(Job.id)
    if sweep_ids is None:
        return wanted
    needed = job_queries.ids_of_sweeps(session, sweep_ids).cte(recursive=True)
    needed = needed.union(select(JobSource.source_id).join(needed, JobSource.job_id == needed.c.job_id))
    return wanted.where(Job.id.in_(select(needed.c.job_id)))


def _submissions_of(session: Session, ids: Sequence[int], sweep_ids: Sequence[int] | None) -> dict[int, list[int]]:
    """The submissions of each job, of those that are archived."""
    wanted = select(SweepJob.job_id, SweepJob.sweep_id).where(is_one_of(session, SweepJob.job_id, ids))
    if sweep_ids is not None:
        wanted = wanted.where(is_one_of(session, SweepJob.sweep_id, sweep_ids))
    found: dict[int, list[int]] = {}
    for job_id, sweep_id in session.execute(wanted.order_by(SweepJob.sweep_id)):
        found.setdefault(job_id, []).append(sweep_id)
    return found


def _sweeps(session: Session, ids: set[int]) -> list[Sweep]:
    return list(session.scalars(select(Sweep).where(is_one_of(session, Sweep.id, ids)).order_by(Sweep.id)))


def _job_records(session: Session, ids: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Id and record of each job."""
    rows = session.execute(
        select(Job, Run, Environment.values)
        .join(Run, Run.job_id == Job.id)
        .outerjoin(Environment, Environment.id == Run.environment_id)
        .where(Job.id.in_(ids), Run.outcome == "succeeded")
        .order_by(Job.id)
    ).all()
    events = _events(session, [run.id for _, run, _ in rows])
    for job, run, environment in rows:
        record = {
            "job_hash": job.job_hash,
            "spec": job.spec,
            "worker": run.worker,
            "slot": run.slot,
            "folder": run.folder,
            "message": run.message,
            "started_at": run.started_at.isoformat(),
            "finished_at": run.finished_at.isoformat() if run.finished_at else None,
            "resolved": run.resolved,
            "environment": environment or {},
            "events": events[run.id],
        }
        yield job.id, record


def _events(session: Session, run_ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """The results of each run as a runner's events."""
    measured = results.list_measurements(session, run_ids)
    events = {run_id: [one.event() | {"event": "measurement"} for one in of_run] for run_id, of_run in measured.items()}
    for curve in session.scalars(select(Curve).where(Curve.run_id.in_(run_ids))):
        about = {"event": "curve", **_member(curve)}
        events[curve.run_id].append({**about, "name": curve.name, "points": curve.points})
    for scores in session.scalars(select(ExampleScores).where(ExampleScores.run_id.in_(run_ids))):
        values = base64.b64encode(scores.packed).decode("ascii")
        about = {"event": "example_scores", **_member(scores), "language": scores.language, "metric": scores.metric}
        events[scores.run_id].append({**about, "values": values})
    for file in session.scalars(select(Artifact).where(Artifact.run_id.in_(run_ids))):
        stored = {"name": file.name, "path": file.uri, "sha256": file.sha256, "bytes": file.bytes}
        events[file.run_id].append({"event": "artifact", **stored})
    return events


def _member(row: Curve | ExampleScores) -> dict[str, str]:
    """The member of a mixture that a row is of; nothing for the whole job."""
    return {"task": row.task} if row.task else {}


def _add_predictions(events: Sequence[dict[str, Any]]) -> bool:
    """Add the content of a run's predictions to their event; false if the run has some that cannot be read here."""
    for event in events:
        if event["event"] == "artifact" and event["name"] == PREDICTIONS:
            try:
                with Path(event["path"]).open("rb") as file:
                    content = file.read(_LARGEST_FILE + 1)
            except OSError:
                return False
            if len(content) > _LARGEST_FILE or hashlib.sha256(content).hexdigest() != event["sha256"]:
                return False
            event["content"] = base64.b64encode(content).decode("ascii")
    return True

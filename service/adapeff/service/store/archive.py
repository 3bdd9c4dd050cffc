"""Move finished jobs with all their results between databases: a header line, then one line of JSON per job.

Runs that count are archived, failed attempts are not. Files of runs stay where they are; their paths, sizes and
checksums are archived.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from adapeff.service.errors import DataError, first_problem
from adapeff.service.specs.profile import AnySpec, read_spec
from adapeff.service.store import job_creation, job_queries, results
from adapeff.service.store.database import now
from adapeff.service.store.results import RunResults, storable
from adapeff.service.store.tables import Artifact, Curve, Environment, ExampleScores, Job, Run, Sweep, SweepJob

FORMAT = 1
_CHUNK = 100


@dataclass(frozen=True)
class Imported:
    """What an archive brought."""

    new: int
    """Jobs that this database did not have, or had not finished."""
    known: int
    """Jobs that had finished here already."""
    busy: int
    """Jobs that are running here; theirs counts."""


def archive_lines(session: Session, sweep_ids: Sequence[int] | None) -> Iterator[str]:
    """The lines of an archive of the succeeded jobs of some submissions, or of all."""
    yield json.dumps({"adapeff_archive": FORMAT, "written_at": datetime.now(UTC).isoformat(timespec="seconds")})
    wanted = select(Job.id).where(Job.state == "succeeded").order_by(Job.id)
    if sweep_ids is not None:
        wanted = wanted.where(Job.id.in_(job_queries.ids_of_sweeps(session, sweep_ids)))
    ids = list(session.scalars(wanted))
    for start in range(0, len(ids), _CHUNK):
        yield from _job_lines(session, ids[start : start + _CHUNK])


def _job_lines(session: Session, ids: Sequence[int]) -> Iterator[str]:
    rows = session.execute(
        select(Job, Run, Environment.values)
        .join(Run, Run.job_id == Job.id)
        .outerjoin(Environment, Environment.id == Run.environment_id)
        .where(Job.id.in_(ids), Run.outcome == "succeeded")
        .order_by(Job.id)
    ).all()
    run_ids = [run.id for _, run, _ in rows]
    measured = results.list_measurements(session, run_ids)
    events = {run_id: [one.event() | {"event": "measurement"} for one in of_run] for run_id, of_run in measured.items()}
    for curve in session.scalars(select(Curve).where(Curve.run_id.in_(run_ids))):
        events[curve.run_id].append({"event": "curve", "name": curve.name, "points": curve.points})
    for scores in session.scalars(select(ExampleScores).where(ExampleScores.run_id.in_(run_ids))):
        values = base64.b64encode(scores.packed).decode("ascii")
        about = {"event": "example_scores", "language": scores.language, "metric": scores.metric}
        events[scores.run_id].append({**about, "values": values})
    for file in session.scalars(select(Artifact).where(Artifact.run_id.in_(run_ids))):
        stored = {"name": file.name, "path": file.uri, "sha256": file.sha256, "bytes": file.bytes}
        events[file.run_id].append({"event": "artifact", **stored})
    names = _sweep_names(session, ids)
    for job, run, environment in rows:
        yield json.dumps(
            {
                "job_hash": job.job_hash,
                "spec": job.spec,
                "sweeps": names[job.id],
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
        )


def _sweep_names(session: Session, ids: Sequence[int]) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {job_id: [] for job_id in ids}
    wanted = (
        select(SweepJob.job_id, Sweep.name)
        .join(Sweep, Sweep.id == SweepJob.sweep_id)
        .where(SweepJob.job_id.in_(ids))
        .distinct()
        .order_by(Sweep.name)
    )
    for job_id, name in session.execute(wanted):
        names[job_id].append(name)
    return names


def import_lines(session: Session, lines: Iterable[str], origin: str) -> Imported:
    """Store what an archive has and this database has not; importing it again changes nothing.

    Args:
        origin: the archive's name, for messages.

    Raises:
        DataError: if it is not an archive, of a later format, or damaged; the caller must not commit then.
    """
    numbered = enumerate(lines, start=1)
    _check_header(next((line for _, line in numbered), ""), origin)
    counts = {"new": 0, "known": 0, "busy": 0}
    of_sweeps: dict[str, list[int]] = {}
    for number, line in numbered:
        try:
            record = json.loads(line)
            spec = read_spec(record["spec"])
            outcome, job_id = _import_job(session, record, spec)
        except ValidationError as error:
            raise DataError(f"{origin}, line {number} has a job that cannot be read: {first_problem(error)}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{origin}, line {number} is damaged ({error}); export it again") from error
        counts[outcome] += 1
        for name in record["sweeps"]:
            of_sweeps.setdefault(name, []).append(job_id)
    for name, ids in of_sweeps.items():
        _add_to_sweep(session, name, ids)
    return Imported(**counts)


def _check_header(line: str, origin: str) -> None:
    try:
        header = json.loads(line)
        version = header["adapeff_archive"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{origin} is not an archive of adapeff; make one with adapeff export --what archive"
        ) from error
    if version != FORMAT:
        raise DataError(f"{origin} has format {version}, but this version reads format {FORMAT}; upgrade adapeff")


def _import_job(session: Session, record: Mapping[str, Any], spec: AnySpec) -> tuple[str, int]:
    """Store a job and its run unless it has finished or runs here."""
    if spec.job_hash != record["job_hash"]:
        raise ValueError(f"its specification has the hash {spec.job_hash[:12]}, not {str(record['job_hash'])[:12]}")
    known = session.execute(select(Job.id, Job.state).where(Job.job_hash == spec.job_hash)).one_or_none()
    if known is not None and known.state in ("succeeded", "running"):
        return ("known" if known.state == "succeeded" else "busy"), known.id
    (job_id,), _ = job_creation.create_jobs(session, [spec], priority=5, max_failures=3)
    found = RunResults(environment=dict(record["environment"]), resolved=dict(record["resolved"]))
    for event in record["events"]:
        found.take(event)
    found = storable(found)
    finished_at = datetime.fromisoformat(record["finished_at"]) if record["finished_at"] else now(session)
    token = 1 + (session.scalar(select(func.max(Run.token)).where(Run.job_id == job_id)) or 0)
    run = {
        "job_id": job_id,
        "token": token,
        **{key: str(record[key]) for key in ("worker", "slot", "folder", "message")},
        "outcome": "succeeded",
        "stage": "",
        "progress": {},
        "resolved": found.resolved,
        "environment_id": results.store_environment(session, found.environment),
        "started_at": datetime.fromisoformat(record["started_at"]),
        "finished_at": finished_at,
    }
    run_id = session.scalars(insert(Run).returning(Run.id), [run]).one()
    results.store_rows(session, run_id, str(record["folder"]), found)
    results.store_summary(session, run_id, record["spec"], found.resolved, found)
    moment = now(session)
    ended = {"state": "succeeded", "cause": "", "token": token, "finished_at": finished_at, "changed_at": moment}
    session.execute(update(Job).where(Job.id == job_id).values(**ended))
    return "new", job_id


def _add_to_sweep(session: Session, name: str, ids: Sequence[int]) -> None:
    """Put jobs into the sweep of that name, as one more submission, if they are in none of that name yet."""
    here = select(SweepJob.job_id).join(Sweep, Sweep.id == SweepJob.sweep_id).where(Sweep.name == name)
    known = set(session.scalars(here))
    missing = [job_id for job_id in dict.fromkeys(ids) if job_id not in known]
    if missing:
        sweep = Sweep(name=name, spec={"name": name, "description": "imported"}, created_at=now(session))
        session.add(sweep)
        session.flush()
        session.execute(insert(SweepJob), [{"sweep_id": sweep.id, "job_id": job_id} for job_id in missing])

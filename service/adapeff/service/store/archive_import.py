"""Read archives of finished jobs, which `archive` writes, into a database: completely or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from uuid import uuid4

from pydantic import ValidationError
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import InternalError, OperationalError, StatementError
from sqlalchemy.orm import Session

from adapeff.service.errors import DataError, JobError, first_line, first_problem
from adapeff.service.paths import make_private
from adapeff.service.specs.profile import AnySpec, read_spec
from adapeff.service.store import job_creation, results
from adapeff.service.store.archive import FORMAT, PREDICTIONS
from adapeff.service.store.database import now, take_turn
from adapeff.service.store.results import RunResults, storable
from adapeff.service.store.tables import IMPORTED, Job, Run, Sweep, SweepJob

_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a value of a wrong kind raises when it is read or stored."""

_COMPARED = ("validation_", "train_samples", "train_compute_s", "train_flops")
"""Beginnings of the names of curves that reports read; the values of others may be missing."""


@dataclass(frozen=True)
class Imported:
    """What an archive brought."""

    new: int
    """Jobs that this database did not have, or had not finished."""
    known: int
    """Jobs that had finished here already."""
    busy: int
    """Jobs that are running here; theirs counts."""


class ImportedFiles:
    """The files of an import, below the folder of artifacts; removed again if the block raises."""

    def __init__(self, artifacts: Path) -> None:
        self._artifacts = artifacts.resolve()
        self._folders: list[Path] = []

    def store(self, job_hash: str, content: bytes) -> Path:
        """Store the predictions of a job in a folder of their own, and give the file.

        Args:
            job_hash: of the job's checked specification, since it becomes part of the path.
        """
        folder = self._artifacts / "runs" / job_hash[:2] / job_hash / f"imported-{uuid4().hex[:8]}"
        make_private(folder)
        self._folders.append(folder)
        file = folder / "predictions.jsonl.gz"
        file.write_bytes(content)
        return file

    def discard(self) -> None:
        """Remove the files."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> ImportedFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()


def import_lines(session: Session, lines: Iterable[str], origin: str, files: ImportedFiles) -> Imported:
    """Store what an archive has and this database has not; importing it again changes nothing.

    Args:
        origin: the archive's name, for messages.
        files: stores the predictions that the archive contains.

    Raises:
        DataError: if it is not an archive, of a later format, or damaged; the caller must not commit then.
    """
    numbered = enumerate(lines, start=1)
    _check_header(next((line for _, line in numbered), ""), origin)
    take_turn(session, job_creation.SUBMITTING)
    reading = _Import(session, files)
    for number, line in numbered:
        try:
            reading.take(storable(json.loads(line)))
        except ValidationError as error:
            raise DataError(f"{origin}, line {number} has a job that cannot be read: {first_problem(error)}") from error
        except JobError as error:
            raise DataError(f"{origin}, line {number}: {error}") from error
        except (*_DAMAGE, StatementError) as error:
            if isinstance(error, OperationalError | InternalError):
                raise
            raise DataError(f"{origin}, line {number} is damaged ({first_line(error)}); export it again") from error
    if not reading.has_ended:
        raise DataError(f"{origin} is incomplete: its end is missing; copy or export it again")
    return Imported(**reading.counts)


def _check_header(line: str, origin: str) -> None:
    try:
        header = json.loads(line)
        version = header["adapeff_archive"]
    except _DAMAGE as error:
        raise DataError(
            f"{origin} is not an archive of adapeff; make one with adapeff export --what archive"
        ) from error
    if version != FORMAT:
        raise DataError(f"{origin} has format {version!r:.20}, but this version reads format {FORMAT}; upgrade adapeff")


class _Import:
    """Stores the lines of one archive in their order."""

    def __init__(self, session: Session, files: ImportedFiles) -> None:
        self._session = session
        self._files = files
        self._submissions: dict[int, Mapping[str, Any]] = {}
        """By the archive's number, those without a job so far."""
        self._sweep_ids: dict[int, int] = {}
        """The archive's number of a submission -> its id here."""
        self.counts: dict[Literal["new", "known", "busy"], int] = {"new": 0, "known": 0, "busy": 0}
        self.has_ended = False

    def take(self, record: Mapping[str, Any]) -> None:
        """Store one line.

        Raises:
            JobError, ValidationError, StatementError, or one of _DAMAGE: if it is damaged.
        """
        if self.has_ended:
            raise ValueError("it follows the archive's end")
        if "submission" in record:
            self._submissions[record["submission"]] = record
        elif "jobs" in record:
            if record["jobs"] != sum(self.counts.values()):
                raise ValueError(f"the archive has {sum(self.counts.values())} of its {record['jobs']} jobs")
            self.has_ended = True
        else:
            self._take_job(record)

    def _take_job(self, record: Mapping[str, Any]) -> None:
        spec = read_spec(record["spec"])
        if spec.job_hash != record["job_hash"]:
            raise ValueError(f"its specification has the hash {spec.job_hash[:12]}, not {record['job_hash']!r:.14}")
        wanted = select(Job.id, Job.state).where(Job.job_hash == spec.job_hash).with_for_update()
        known = self._session.execute(wanted).one_or_none()
        if known is not None and known.state in ("succeeded", "running"):
            job_id = known.id
            self.counts["known" if known.state == "succeeded" else "busy"] += 1
        else:
            job_id = _store_job(self._session, record, spec, self._files)
            self.counts["new"] += 1
        for number in record["submissions"]:
            self._add_to_submission(number, job_id)

    def _add_to_submission(self, number: int, job_id: int) -> None:
        if number not in self._sweep_ids:
            self._sweep_ids[number] = _find_or_store_sweep(self._session, self._submissions[number])
        sweep_id = self._sweep_ids[number]
        if self._session.get(SweepJob, (sweep_id, job_id)) is None:
            self._session.execute(insert(SweepJob).values(sweep_id=sweep_id, job_id=job_id))


def _find_or_store_sweep(session: Session, record: Mapping[str, Any]) -> int:
    """The id of a submission, which is the same as one here if it has its name and time."""
    name, spec = record["name"], record["spec"]
    if not isinstance(name, str) or not 0 < len(name) <= Sweep.name.type.length or not isinstance(spec, dict):
        raise TypeError(f"submission {name!r:.100} has no name or no specification")
    created_at = datetime.fromisoformat(record["created_at"])
    known = session.scalar(select(Sweep.id).where(Sweep.name == name, Sweep.created_at == created_at).limit(1))
    if known is not None:
        return known
    values = {"name": name, "spec": spec, "created_at": created_at, "announced_at": created_at}
    stored = insert(Sweep).values(**values).returning(Sweep.id)
    return session.scalars(stored).one()


def _store_job(session: Session, record: Mapping[str, Any], spec: AnySpec, files: ImportedFiles) -> int:
    """Store a job with its run, and give its id."""
    (job_id,), _ = job_creation.create_jobs(session, [spec], priority=5, max_failures=3)
    found = RunResults(environment=dict(record["environment"]), resolved=dict(record["resolved"]))
    folder, stage = str(record["folder"]), IMPORTED
    for event in record["events"]:
        if "content" in event:
            file = _store_predictions(files, spec.job_hash, event)
            event, folder, stage = {**event, "path": str(file)}, str(file.parent), ""
        found.take(event)
    for (_, name), points in found.curves.items():
        _check_points(name, points)
    token = 1 + (session.scalar(select(func.max(Run.token)).where(Run.job_id == job_id)) or 0)
    moment = now(session)
    finished_at = datetime.fromisoformat(record["finished_at"]) if record["finished_at"] else moment
    run = {
        "job_id": job_id,
        "token": token,
        **{key: str(record[key]) for key in ("worker", "slot", "message")},
        "folder": folder,
        "outcome": "succeeded",
        "stage": stage,
        "progress": {},
        "resolved": found.resolved,
        "environment_id": results.store_environment(session, found.environment),
        "started_at": datetime.fromisoformat(record["started_at"]),
        "finished_at": finished_at,
    }
    run_id = session.scalars(insert(Run).returning(Run.id), [run]).one()
    results.store_rows(session, run_id, str(record["folder"]), found)
    results.store_summary(session, run_id, record["spec"], found.resolved, found)
    ended = {"state": "succeeded", "cause": "", "token": token, "finished_at": finished_at, "changed_at": moment}
    cleared = dict.fromkeys(("sent_at", "not_before", "cancel_requested_at"))
    session.execute(update(Job).where(Job.id == job_id).values(**ended, **cleared, held=False))
    return job_id


def _check_points(name: str, points: Iterable[Any]) -> None:
    """Refuse points that would make every later report fail."""
    for point in points:
        step, value = point
        is_missing = value is None and not name.startswith(_COMPARED)
        if type(step) not in (int, float) or not (is_missing or type(value) in (int, float)):
            raise TypeError(f"curve {name!r:.100} has the point {point!r:.100}")


def _store_predictions(files: ImportedFiles, job_hash: str, event: Mapping[str, Any]) -> Path:
    """Store the content of a run's predictions if it is what the run recorded."""
    content = base64.b64decode(event["content"], validate=True)
    if event["name"] != PREDICTIONS or hashlib.sha256(content).hexdigest() != event["sha256"]:
        raise ValueError(f"the content of {event['name']!r:.20} has another checksum than its run recorded")
    return files.store(job_hash, content)

"""Remove old files of runs; their results stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session, aliased

from adapeff.service.store.database import now
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.tables import FINAL_STATES, IMPORTED, Artifact, Job, JobSource, Run

KINDS = {
    "weights": "what was trained, of runs that kept it",
    "predictions": "the answers to the test data",
    "samples": "the raw times behind medians and intervals",
    "logs": "run.log and events.jsonl of successful runs",
    "failed": "all files of runs that did not succeed",
}
"""Kinds of files, and what they are."""
_LOGS = ("run.log", "events.jsonl")


@dataclass(frozen=True)
class OldFile:
    """A file that may be removed."""

    kind: str
    path: Path
    bytes: int
    run_id: int
    artifact: str | None = None
    """Its name among the run's artifacts."""


def list_old_files(
    session: Session,
    artifacts: Path,
    *,
    older_than: timedelta,
    kinds: Sequence[str],
    job_ids: Sequence[int] | None = None,
) -> list[OldFile]:
    """The files of ended runs that are older, in the folder of artifacts only.

    Weights that a queued or running job builds on stay, and so does everything of jobs that have not ended.

    Args:
        job_ids: only of these jobs; None: of all.
    """
    root = artifacts.resolve()
    found = [
        file
        for run in _ended_runs(session, older_than, job_ids)
        for file in _files_of(session, run, kinds)
        if root in file.path.resolve().parents
    ]
    return sorted(found, key=lambda file: (list(KINDS).index(file.kind), file.path))


def _ended_runs(session: Session, older_than: timedelta, job_ids: Sequence[int] | None) -> Iterator[Run]:
    wanted = (
        select(Run)
        .join(Job, Job.id == Run.job_id)
        .where(
            Job.state.in_(FINAL_STATES),
            Run.outcome != "running",
            Run.stage != IMPORTED,
            Run.finished_at <= now(session) - older_than,
        )
    )
    if job_ids is not None:
        wanted = wanted.where(is_one_of(session, Run.job_id, job_ids))
    yield from session.scalars(wanted.order_by(Run.id))


def _files_of(session: Session, run: Run, kinds: Sequence[str]) -> Iterator[OldFile]:
    folder = Path(run.folder)
    if run.outcome != "succeeded":
        if "failed" in kinds and run.folder:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    yield OldFile("failed", path, path.stat().st_size, run.id)
        return
    for artifact in session.scalars(select(Artifact).where(Artifact.run_id == run.id)):
        path = Path(artifact.uri)
        if artifact.name not in kinds or not path.is_file():
            continue
        if artifact.name != "weights" or not _is_needed(session, run.job_id):
            yield OldFile(artifact.name, path, artifact.bytes, run.id, artifact.name)
    for name in _LOGS if "logs" in kinds else ():
        if (folder / name).is_file():
            yield OldFile("logs", folder / name, (folder / name).stat().st_size, run.id)


def _is_needed(session: Session, job_id: int) -> bool:
    """Whether a job that has not ended builds on a job's weights."""
    user = aliased(Job)
    needing = select(1).select_from(JobSource).join(user, user.id == JobSource.job_id)
    unfinished = needing.where(JobSource.source_id == job_id, user.state.in_(("queued", "running")))
    return bool(session.scalar(select(exists(unfinished))))


def remove_files(session: Session, files: Sequence[OldFile]) -> Counter[str]:
    """Remove the files and what the database says of them; files that cannot be removed stay. Bytes removed by kind."""
    removed: Counter[str] = Counter()
    for file in files:
        if file.artifact == "weights" and _is_needed(session, session.get_one(Run, file.run_id).job_id):
            continue
        try:
            file.path.unlink(missing_ok=True)
        except OSError:
            continue
        removed[file.kind] += file.bytes
        if file.artifact is not None:
            session.execute(delete(Artifact).where(Artifact.run_id == file.run_id, Artifact.name == file.artifact))
        with suppress(OSError):  # unless it holds other files
            file.path.parent.rmdir()
    return removed

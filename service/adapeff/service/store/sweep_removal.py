"""Remove a sweep with everything that only it needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from adapeff.service.errors import JobError
from adapeff.service.store.database import take_turn
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.job_creation import SUBMITTING
from adapeff.service.store.sweeps import ids_of_name
from adapeff.service.store.tables import IMPORTED, Artifact, Job, JobSource, Run, Sweep, SweepJob


@dataclass(frozen=True)
class Removal:
    """What removing a sweep removes, and what it leaves."""

    sweep_ids: tuple[int, ...]
    job_ids: tuple[int, ...]
    """Jobs that no other sweep uses and no other job builds on."""
    kept_jobs: int
    runs: int
    folders: tuple[str, ...]
    """Of the runs, without those that are another database's."""
    artifact_bytes: int
    """Of the files in these folders."""


def plan_removal(session: Session, sweep_ids: Sequence[int]) -> Removal:
    """Find what removing these submissions would remove.

    Raises:
        JobError: if one of the jobs is queued or running.
    """
    of_sweep = select(SweepJob.job_id).where(SweepJob.sweep_id.in_(sweep_ids))
    of_others = select(SweepJob.job_id).where(SweepJob.sweep_id.not_in(sweep_ids))
    own = select(Job.id, Job.state).where(Job.id.in_(of_sweep), Job.id.not_in(of_others)).order_by(Job.id)
    states = {row.id: row.state for row in session.execute(own)}
    sources = [(row.job_id, row.source_id) for row in session.execute(select(JobSource.job_id, JobSource.source_id))]
    removed = _without_sources(states, sources)
    ids = [job_id for job_id in states if job_id in removed]
    if active := [job_id for job_id in ids if states[job_id] in ("queued", "running")]:
        raise JobError(
            f"{len(active)} of its jobs are queued or running, such as job {active[0]}; cancel them first: "
            f"adapeff cancel --sweep {_reference(session, sweep_ids)}"
        )
    of_runs = is_one_of(session, Run.job_id, ids)
    runs = session.execute(select(Run.folder, Run.stage).where(of_runs)).all()
    is_inside = func.substr(Artifact.uri, 1, func.length(Run.folder)) == Run.folder
    files = select(func.sum(Artifact.bytes)).join(Run, Run.id == Artifact.run_id)
    size = session.scalar(files.where(of_runs, Run.stage != IMPORTED, is_inside))
    total = session.scalar(select(func.count(func.distinct(SweepJob.job_id))).where(SweepJob.sweep_id.in_(sweep_ids)))
    folders = tuple(sorted({run.folder for run in runs if run.folder and run.stage != IMPORTED}))
    return Removal(tuple(sweep_ids), tuple(ids), (total or 0) - len(ids), len(runs), folders, int(size or 0))


def _reference(session: Session, sweep_ids: Sequence[int]) -> str | int:
    """How to name these submissions: by their sweep's name if they are all under it, else by id."""
    name = session.scalars(select(Sweep.name).where(Sweep.id == sweep_ids[0])).one()
    return name if ids_of_name(session, name) == list(sweep_ids) else sweep_ids[0]


def _without_sources(jobs: Iterable[int], sources: Sequence[tuple[int, int]]) -> set[int]:
    """The jobs that no other job builds on, directly or through further jobs.

    Args:
        sources: (job, job it builds on) of every job.
    """
    left = set(jobs)
    while needed := {source for job, source in sources if source in left and job not in left}:
        left -= needed
    return left


def remove(session: Session, removal: Removal) -> None:
    """Delete the rows; runs, measurements and curves go with their jobs. The folders are removed after the commit.

    Raises:
        JobError: if it is no longer what would be removed.
    """
    take_turn(session, SUBMITTING)
    session.execute(select(Job.id).where(is_one_of(session, Job.id, removal.job_ids)).with_for_update())
    if plan_removal(session, removal.sweep_ids) != removal:
        raise JobError("the sweep's jobs have changed in the meantime, and nothing was removed; try again")
    for start in range(0, len(removal.job_ids), 500):
        chunk = removal.job_ids[start : start + 500]
        session.execute(delete(JobSource).where(JobSource.job_id.in_(chunk)))
    session.execute(delete(Sweep).where(Sweep.id.in_(removal.sweep_ids)))
    for start in range(0, len(removal.job_ids), 500):
        session.execute(delete(Job).where(Job.id.in_(removal.job_ids[start : start + 500])))


def remove_folders(folders: Sequence[str], artifacts: Path) -> int:
    """Remove the runs' folders that lie in the folder of artifacts, and give their number; others are left alone."""
    root, removed = artifacts.resolve(), 0
    for folder in folders:
        path = Path(folder).resolve()
        if path.is_dir() and root in path.parents:
            shutil.rmtree(path, ignore_errors=True)
            removed += not path.exists()
    return removed

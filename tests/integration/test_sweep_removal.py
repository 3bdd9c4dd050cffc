"""Removing a sweep removes what only it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from adapeff.service.errors import JobError
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store import sweeps
from adapeff.service.store.database import Database
from adapeff.service.store.sweep_removal import plan_removal, remove, remove_folders
from adapeff.service.store.tables import Job, Measurement, Run, Sweep
from tests.factories import spec
from tests.integration.test_report import store


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    opened = Database(any_database_url)
    yield opened
    opened.close()


def submit(database: Database, name: str, *seeds: int) -> None:
    """A sweep of finished jobs that `store` has made, or of new ones."""
    settings = {"test_languages": ["en", "de"]}
    raw = {"name": name, "models": ["org/model"], "tasks": ["offline_sentiment"], "methods": ["full"]}
    specs = [spec(seed, settings=settings) for seed in seeds]
    with database.session() as session:
        sweeps.submit(session, parse_sweep(raw), specs, max_failures=3)


def count(database: Database, table: type) -> int:
    with database.session(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_jobs_of_another_sweep_stay_and_the_rest_goes(database: Database) -> None:
    for seed in range(3):
        store(database, "full", seed, 0.8, 100)
    submit(database, "mine", 0, 1)
    submit(database, "theirs", 1, 2)
    measured = count(database, Measurement)

    with database.session() as session:
        removal = plan_removal(session, sweeps.find_sweep_ids(session, "mine"))
        remove(session, removal)

    assert (len(removal.job_ids), removal.kept_jobs, removal.runs) == (1, 1, 1)
    assert (count(database, Sweep), count(database, Job), count(database, Run)) == (1, 2, 2)
    assert count(database, Measurement) == measured * 2 // 3
    with database.session(read_only=True) as session, pytest.raises(JobError, match="there is no sweep 'mine'"):
        sweeps.find_sweep_ids(session, "mine")


def test_active_jobs_are_refused(database: Database) -> None:
    submit(database, "mine", 0)

    with database.session() as session, pytest.raises(JobError, match="1 of its jobs are queued or running"):
        plan_removal(session, sweeps.find_sweep_ids(session, "mine"))


def test_only_folders_of_artifacts_are_removed(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    inside, outside = artifacts / "runs" / "a", tmp_path / "precious"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
    (artifacts / "link").symlink_to(outside)

    removed = remove_folders(
        [str(inside), str(outside), str(artifacts / "link"), str(artifacts), "/nowhere"], artifacts
    )

    assert removed == 1 and not inside.exists() and outside.exists() and artifacts.exists()

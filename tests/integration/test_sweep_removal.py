"""Removing a sweep removes what only it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, insert, select

from adapeff.service.errors import JobError
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store import sweeps
from adapeff.service.store.database import Database
from adapeff.service.store.sweep_removal import _without_sources, plan_removal, remove, remove_folders
from adapeff.service.store.tables import Job, JobSource, Measurement, Run, Sweep
from tests.factories import spec
from tests.integration.test_report import store


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    opened = Database(any_database_url)
    yield opened
    opened.close()


def submit(database: Database, name: str, *seeds: int, languages: Sequence[str] = ("en", "de")) -> None:
    """A sweep of finished jobs that `store` has made, or of new ones."""
    raw = {"name": name, "models": ["org/model"], "tasks": ["offline_sentiment"], "methods": ["full"]}
    specs = [spec(seed, settings={"test_languages": list(languages)}) for seed in seeds]
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

    with database.session() as session, pytest.raises(JobError, match=r"1 of its jobs .* cancel --sweep mine"):
        plan_removal(session, sweeps.find_sweep_ids(session, "mine"))
    submit(database, "mine", 1)
    with database.session() as session, pytest.raises(JobError, match="cancel --sweep 1"):
        plan_removal(session, [1])


def build_on(database: Database, *pairs: tuple[int, int]) -> None:
    """Make jobs of `full` build on others: (seed, seed of the source)."""
    with database.session() as session:
        ids = {row.seed: row.id for row in session.execute(select(Job.seed, Job.id).where(Job.method == "full"))}
        rows = [{"job_id": ids[job], "source_id": ids[source]} for job, source in pairs]
        session.execute(insert(JobSource), rows)


def test_what_a_job_of_another_sweep_builds_on_stays_with_all_it_builds_on(database: Database) -> None:
    for seed in range(5):
        store(database, "full", seed, 0.8, 100)
    submit(database, "mine", 0, 1, 2, 3)
    submit(database, "theirs", 4)
    build_on(database, (1, 0), (4, 1), (3, 2))

    with database.session() as session:
        removal = plan_removal(session, sweeps.find_sweep_ids(session, "mine"))
        remove(session, removal)

    with database.session(read_only=True) as session:
        assert session.scalars(select(Job.seed).order_by(Job.seed)).all() == [0, 1, 4]
        assert len(session.scalars(select(JobSource.job_id)).all()) == 2
    assert removal.kept_jobs == 2


@settings(max_examples=200)
@given(
    own=st.sets(st.integers(0, 9)),
    sources=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] > pair[1])),
)
def test_no_job_that_stays_loses_a_source(own: set[int], sources: list[tuple[int, int]]) -> None:
    removed = _without_sources(own, sources)

    assert removed <= own
    assert all(job in removed for job, source in sources if source in removed)
    needed = own - removed
    assert all(any(source == job and other not in removed for other, source in sources) for job in needed)


def test_nothing_is_removed_if_the_sweep_has_changed(database: Database) -> None:
    for seed in range(2):
        store(database, "full", seed, 0.8, 100)
    submit(database, "mine", 0, 1)
    with database.session(read_only=True) as session:
        shown = plan_removal(session, sweeps.find_sweep_ids(session, "mine"))
    submit(database, "theirs", 1)

    with pytest.raises(JobError, match="have changed in the meantime"), database.session() as session:
        remove(session, shown)
    assert (count(database, Sweep), count(database, Job)) == (2, 2)


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

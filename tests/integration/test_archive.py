"""Finished jobs move between databases without loss and without duplicates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import func, select

from adapeff.service.errors import DataError
from adapeff.service.reporting.index import build_index
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.rows import report_rows
from adapeff.service.statistics.packing import pack
from adapeff.service.store import job_creation
from adapeff.service.store.archive import Imported, archive_lines, import_lines
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.tables import Job, Run, Sweep
from tests.factories import claimer, spec
from tests.integration.stored import store_profile
from tests.integration.test_claims import curves
from tests.integration.test_example_scores import finish_run, scores_event
from tests.integration.test_report import store
from tests.integration.test_sweep_removal import submit


def sqlite(path: Path) -> Database:
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    return database


@pytest.fixture
def source(tmp_path: Path) -> Database:
    """Runs of two methods with curves in a sweep, their profile, and a run with scores by example."""
    database = sqlite(tmp_path / "source.db")
    for method in ("full", "lora"):
        for seed in range(2):
            store(database, method, seed, 0.8 + seed / 100, 100, curves=curves(0.5, 0.8))
    submit(database, "mine", 0, 1)
    store_profile(database, {"lora": (0.7, 0.68, 0.72)})
    finish_run(database, 5, scores_event())
    return database


def lines_of(database: Database) -> list[str]:
    with database.session(read_only=True) as session:
        return list(archive_lines(session, None))


def imported(database: Database, lines: list[str]) -> Imported:
    with database.session() as session:
        return import_lines(session, lines, "archive.gz")


def figures(database: Database) -> list[str]:
    with database.session(read_only=True) as session:
        return [json.dumps(row, sort_keys=True) for row in report_rows(build_report(session))]


def test_a_round_trip_over_postgresql_keeps_every_figure(source: Database, postgres_url: str, tmp_path: Path) -> None:
    middle, last = Database(postgres_url), sqlite(tmp_path / "last.db")

    first = imported(middle, lines_of(source))
    second = imported(last, lines_of(middle))

    assert first == second == Imported(6, 0, 0)
    assert figures(middle) == figures(last) == figures(source)
    with last.session(read_only=True) as session:
        there = build_index(session).lines
        assert session.scalars(select(Sweep.name).order_by(Sweep.name)).all() == ["mine", "profile"]
    with source.session(read_only=True) as session:
        assert build_index(session).lines == there
    middle.close()


def test_importing_again_changes_nothing(source: Database, tmp_path: Path) -> None:
    target, lines = sqlite(tmp_path / "target.db"), lines_of(source)
    imported(target, lines)

    assert imported(target, lines) == Imported(0, 6, 0)
    with target.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(Run)) == 6
        assert session.scalar(select(func.count()).select_from(Sweep)) == 2


def test_a_job_that_waits_here_takes_the_result_and_one_that_runs_does_not(source: Database, tmp_path: Path) -> None:
    target = sqlite(tmp_path / "target.db")
    settings = {"test_languages": ["en", "de"]}
    with target.session() as session:
        specs = [spec(0, settings=settings), spec(1, settings=settings)]
        (waiting, running), _ = job_creation.create_jobs(session, specs, priority=5, max_failures=3)
    assert claimer(target)(running) is not None

    assert imported(target, lines_of(source)) == Imported(5, 0, 1)
    with target.session(read_only=True) as session:
        states = {row.id: row.state for row in session.execute(select(Job.id, Job.state))}
    assert (states[waiting], states[running]) == ("succeeded", "running")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [], "is not an archive"),
        (lambda lines: ["[1, 2]", *lines[1:]], "is not an archive"),
        (lambda lines: ['{"adapeff_archive": 99}', *lines[1:]], "has format 99, but this version reads format 1"),
        (lambda lines: [*lines[:2], lines[2][:200]], "line 3 is damaged"),
        (lambda lines: [*lines[:2], lines[2].replace('"seed": 1', '"seed": 7')], "line 3 is damaged"),
        (lambda lines: [*lines[:2], lines[2].replace('"kind": "train"', '"kind": "dance"')], "line 3"),
        (lambda lines: [*lines[:2], lines[2].replace('"value": ', '"value": "x", "v": ', 1)], "line 3 is damaged"),
    ],
    ids=["empty", "another file", "later format", "cut", "changed job", "unknown kind", "wrong type"],
)
def test_a_damaged_archive_changes_nothing(source: Database, tmp_path: Path, damage, said: str) -> None:  # type: ignore[no-untyped-def]
    target = sqlite(tmp_path / "target.db")

    with pytest.raises(DataError, match=said):
        imported(target, damage(lines_of(source)))
    with target.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_scores_by_example_travel_as_they_are(source: Database) -> None:
    (line,) = [line for line in lines_of(source) if '"example_scores"' in line]
    (event,) = [event for event in json.loads(line)["events"] if event["event"] == "example_scores"]

    assert event["values"] == scores_event()["values"] == pack([1, 0, 1, 1, 0, 1, 1, 1])

"""Finished jobs move between databases without loss and without duplicates."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from adapeff.service.errors import DataError, UnreachableError
from adapeff.service.reporting.examples import example_scores_of
from adapeff.service.reporting.index import build_index
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.rows import report_rows
from adapeff.service.reporting.runs import load_results
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.statistics.packing import pack
from adapeff.service.store import job_creation, results, sweeps
from adapeff.service.store.archive import Written, write_archive
from adapeff.service.store.archive_import import Imported, ImportedFiles, import_lines
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from adapeff.service.store.sweep_removal import plan_removal, remove, remove_folders
from adapeff.service.store.tables import Artifact, Job, JobSource, Run, Sweep, SweepJob
from tests.factories import claimer, spec
from tests.integration.stored import store_profile
from tests.integration.test_claims import curves
from tests.integration.test_example_scores import finish_run, predictions, scores_event
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


def lines_of(database: Database, *names: str) -> list[str]:
    lines: list[str] = []
    with database.session(read_only=True) as session:
        write_archive(session, sweeps.find_sweeps(session, names) if names else None, lines.append)
    return lines


def imported(database: Database, lines: list[str], artifacts: Path = Path("/nowhere")) -> Imported:
    with ImportedFiles(artifacts) as files, database.session() as session:
        return import_lines(session, lines, "archive.gz", files)


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
        kept = submissions(session)
    with source.session(read_only=True) as session:
        assert build_index(session).lines == there
        assert submissions(session) == kept and [name for name, *_ in kept] == ["mine", "profile"]
    middle.close()


def submissions(session: Session) -> list[tuple[Any, ...]]:
    """Name, time, specification and hashes of the jobs of each submission."""
    found = [
        (
            *(sweep.name, sweep.created_at, json.dumps(sweep.spec, sort_keys=True)),
            sorted(session.scalars(select(Job.job_hash).join(SweepJob).where(SweepJob.sweep_id == sweep.id))),
        )
        for sweep in session.scalars(select(Sweep))
    ]
    return sorted(found)


def test_importing_again_changes_nothing(source: Database, tmp_path: Path) -> None:
    target, lines = sqlite(tmp_path / "target.db"), lines_of(source)
    imported(target, lines)

    assert imported(target, lines) == Imported(0, 6, 0)
    with target.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(Run)) == 6
        assert session.scalar(select(func.count()).select_from(Sweep)) == 2


def test_a_job_that_waits_here_takes_the_result_and_one_that_runs_does_not(source: Database, tmp_path: Path) -> None:
    target = sqlite(tmp_path / "target.db")
    tested = {"test_languages": ["en", "de"]}
    with target.session() as session:
        specs = [spec(0, settings=tested), spec(1, settings=tested)]
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
        (lambda lines: ["[" * 100_000], "is not an archive"),
        (lambda lines: [*lines[:4], lines[4][:200]], "line 5 is damaged"),
        (lambda lines: lines[:-2], "is incomplete: its end is missing"),
        (lambda lines: [*lines[:-2], lines[-1]], "line 9 is damaged .the archive has 5 of its 6 jobs"),
        (lambda lines: [*lines, lines[4]], "line 11 is damaged .it follows the archive's end"),
        (lambda lines: [lines[0], *lines[2:]], "line 3 is damaged"),
        (lambda lines: [*lines[:4], "[" * 100_000], "line 5 is damaged"),
        (lambda lines: [*lines[:4], lines[4].replace('"seed": 1', '"seed": 7')], "line 5 is damaged"),
        (lambda lines: [*lines[:4], lines[4].replace('"kind": "train"', '"kind": "dance"')], "line 5"),
        (lambda lines: [*lines[:4], lines[4].replace('"value": ', '"value": "x", "v": ', 1)], "line 5 is damaged"),
    ],
    ids=[
        *("empty", "another file", "later format", "nested header", "cut", "without an end", "without a job"),
        *("longer", "without a sweep", "nested", "changed job", "unknown kind", "wrong type"),
    ],
)
def test_a_damaged_archive_changes_nothing(source: Database, tmp_path: Path, damage, said: str) -> None:  # type: ignore[no-untyped-def]
    target = sqlite(tmp_path / "target.db")

    with pytest.raises(DataError, match=said):
        imported(target, damage(lines_of(source)))
    with target.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


HOSTILE: list[Any] = [None, 0, -1, 10**30, 1e308, True, "", "\0", "\ud800", "x" * 1000, "../../x", [], {}, [[]], [{}]]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a value, itself included."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def with_value(line: str, path: tuple[Any, ...], value: Any) -> str:
    """A line with another value at a place."""
    record = json.loads(line)
    functools.reduce(operator.getitem, path[:-1], record)[path[-1]] = value
    return json.dumps(record)


def test_whatever_is_in_an_archive_it_is_stored_or_refused_in_one_line(source: Database, any_database_url: str) -> None:
    lines, target = lines_of(source), Database(any_database_url)
    anywhere = [(at, path) for at, line in enumerate(lines) for path in places(json.loads(line)) if path]

    @settings(max_examples=60, deadline=None)
    @given(place=st.sampled_from(anywhere), value=st.sampled_from(HOSTILE))
    def is_stored_or_refused(place: tuple[int, tuple[Any, ...]], value: Any) -> None:
        at, path = place
        changed = with_value(lines[at], path, value)
        try:
            with ImportedFiles(Path("/nowhere")) as files, target.session() as session:
                import_lines(session, [*lines[:at], changed, *lines[at + 1 :]], "archive.gz", files)
                session.rollback()
        except DataError as error:
            assert "\n" not in str(error)
        with target.session(read_only=True) as session:
            assert session.scalar(select(func.count()).select_from(Job)) == 0

    is_stored_or_refused()
    target.close()


@pytest.mark.parametrize(
    "points", [[3], [[]], [[1]], [["1", 0.5]], [[1, "0.5"]], [[1, None]], [[1, {}]], [[1, 2, 3]], [{}]]
)
def test_points_that_no_report_could_read_are_refused(source: Database, tmp_path: Path, points: list[Any]) -> None:
    lines, target = lines_of(source, "mine"), sqlite(tmp_path / "target.db")
    curve = {"event": "curve", "name": "validation_accuracy"}
    (place,) = [at for at, one in enumerate(json.loads(lines[2])["events"]) if curve.items() <= one.items()]

    with pytest.raises(DataError, match="line 3 is damaged"):
        imported(target, [*lines[:2], with_value(lines[2], ("events", place, "points"), points), *lines[3:]])


def test_an_archive_of_a_sweep_has_what_its_jobs_build_on_and_no_other_sweep(source: Database, tmp_path: Path) -> None:
    weights = {"event": "artifact", "name": "weights", "path": "w", "sha256": "0" * 64, "bytes": 1}
    kept = {"test_languages": ["en", "de"], "keep_weights": True}
    store(source, "houlsby", 7, 0.8, 100, settings=kept, events=[weights])
    with source.session() as session:
        built_on = session.execute(select(Job.id, Job.job_hash).where(Job.method == "houlsby")).one()
        fusion = job_creation.with_sources(session, spec(7, methods=[f"adapterfusion[sources=[{built_on.id}]]"]))
        raw = {"name": "theirs", "models": ["org/model"], "tasks": ["offline_sentiment"], "methods": ["full"]}
        (job_id,) = sweeps.submit(session, parse_sweep(raw), [fusion], max_failures=3).job_ids
    claim = claimer(source)(job_id)
    assert claim is not None
    with source.session() as session:
        results.finish(session, claim, RunOutcome("succeeded"), RunResults())
    target = sqlite(tmp_path / "target.db")

    assert imported(target, lines_of(source, "theirs")) == Imported(2, 0, 0)
    with target.session(read_only=True) as session:
        ((name, _, _, hashes),) = submissions(session)
        assert (name, hashes) == ("theirs", [fusion.job_hash])
        source_id = session.scalars(select(JobSource.source_id)).one()
        assert session.get_one(Job, source_id).job_hash == built_on.job_hash


def test_a_later_archive_of_a_sweep_adds_to_the_same_submission(source: Database, tmp_path: Path) -> None:
    target, lines = sqlite(tmp_path / "target.db"), lines_of(source, "mine")
    earlier = [*lines[:-2], '{"jobs": 1}']

    assert imported(target, earlier) == Imported(1, 0, 0)
    assert imported(target, lines) == Imported(1, 1, 0)
    with target.session(read_only=True) as session:
        ((name, _, _, hashes),) = submissions(session)
        assert name == "mine" and len(hashes) == 2


def test_a_job_cannot_be_claimed_while_its_result_is_imported(source: Database, postgres_url: str) -> None:
    target, impatient = Database(postgres_url), Database(f"{postgres_url}?options=-c%20lock_timeout%3D50")
    with target.session() as session:
        waiting = [spec(0, settings={"test_languages": ["en", "de"]})]
        ((job_id,), _) = job_creation.create_jobs(session, waiting, priority=5, max_failures=3)
    refused: list[str] = []

    @event.listens_for(target.engine, "before_cursor_execute")
    def claim(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO runs") and not refused:
            with pytest.raises(UnreachableError, match="timed out waiting for a lock") as error:
                claimer(impatient)(job_id)
            refused.append(str(error.value))

    assert imported(target, lines_of(source, "mine")) == Imported(2, 0, 0)
    assert len(refused) == 1 and claimer(impatient)(job_id) is None
    target.close()
    impatient.close()


@pytest.fixture
def with_files(tmp_path: Path) -> Database:
    """A run with predictions, and one whose predictions are gone."""
    database = sqlite(tmp_path / "with_files.db")
    folder = tmp_path / "there"
    folder.mkdir()
    finish_run(database, 0, predictions(folder / "predictions.jsonl.gz"))
    (tmp_path / "gone").mkdir()
    finish_run(database, 1, predictions(tmp_path / "gone" / "predictions.jsonl.gz"))
    (tmp_path / "gone" / "predictions.jsonl.gz").unlink()
    submit(database, "mine", 0, 1, languages=["en"])
    return database


def archive_with_predictions(database: Database) -> tuple[Written, list[str]]:
    lines: list[str] = []
    with database.session(read_only=True) as session:
        return write_archive(session, None, lines.append, with_predictions=True), lines


def test_predictions_travel_on_request_and_are_removed_with_their_sweep(with_files: Database, tmp_path: Path) -> None:
    target, artifacts = sqlite(tmp_path / "target.db"), tmp_path / "artifacts"

    written, lines = archive_with_predictions(with_files)
    (tmp_path / "there" / "predictions.jsonl.gz").rename(tmp_path / "original")
    assert written == Written(2, 1)
    assert imported(target, lines, artifacts) == Imported(2, 0, 0)

    with target.session() as session:
        uri = session.scalar(select(Artifact.uri).where(Artifact.uri.contains("imported-")))
        assert Path(str(uri)).read_bytes() == (tmp_path / "original").read_bytes()
        assert len(example_scores_of(session, load_results(session))) == 1
        removal = plan_removal(session, sweeps.find_sweep_ids(session, "mine"))
        remove(session, removal)
    assert remove_folders(removal.folders, artifacts) == 1 and not Path(str(uri)).exists()


def test_a_failed_import_leaves_no_file(with_files: Database, tmp_path: Path) -> None:
    _, lines = archive_with_predictions(with_files)
    artifacts = tmp_path / "artifacts"

    with pytest.raises(DataError, match="incomplete"):
        imported(sqlite(tmp_path / "target.db"), lines[:-1], artifacts)
    assert [path for path in artifacts.rglob("*") if path.is_file()] == []


def test_predictions_that_are_not_what_the_run_recorded_are_refused(with_files: Database, tmp_path: Path) -> None:
    _, lines = archive_with_predictions(with_files)
    changed = [line.replace('"content": "H4s', '"content": "AAAA') for line in lines]

    with pytest.raises(DataError, match="another checksum"):
        imported(sqlite(tmp_path / "target.db"), changed, tmp_path / "artifacts")


def test_folders_of_the_other_database_stay_when_an_imported_sweep_is_removed(source: Database, tmp_path: Path) -> None:
    target = sqlite(tmp_path / "target.db")
    imported(target, lines_of(source))

    with target.session() as session:
        removal = plan_removal(session, sweeps.find_sweep_ids(session, "mine"))
    assert len(removal.job_ids) == 2 and removal.folders == ()


def test_scores_by_example_travel_as_they_are(source: Database) -> None:
    (line,) = [line for line in lines_of(source) if '"example_scores"' in line]
    (event,) = [event for event in json.loads(line)["events"] if event["event"] == "example_scores"]

    assert event["values"] == scores_event()["values"] == pack([1, 0, 1, 1, 0, 1, 1, 1])

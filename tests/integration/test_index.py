"""Summaries of runs agree with the report's figures, and so does the index that is built from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import delete, select

from adapeff.service.measurements import PEAK_MEMORY_ALLOCATED, PEAK_MEMORY_PROCESS
from adapeff.service.reporting.index import build_index
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.runs import load_results
from adapeff.service.reporting.table import Row, Table
from adapeff.service.store import results
from adapeff.service.store.conditions import likeness_of
from adapeff.service.store.database import Database, downgrade, upgrade
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.tables import Job, RunConditions, StoredSummary
from tests.factories import claimer, queue_jobs
from tests.integration.test_jobs import run_results
from tests.integration.test_last_release import upgraded
from tests.integration.test_report import database, store

__all__ = ["database", "upgraded"]

COLUMNS = {"quality": "quality", "train_compute_s": "train_compute_s", "stored_bytes": "stored_bytes"}
VARIANTS = ("(merged)", "(dropped_layers ")
PEAKS = (PEAK_MEMORY_ALLOCATED.name, PEAK_MEMORY_PROCESS.name)


def summaries(database: Database) -> list[StoredSummary]:
    with database.session(read_only=True) as session:
        return list(session.scalars(select(StoredSummary).order_by(StoredSummary.job_id)))


def figures(row: Row) -> dict[str, Any]:
    """A row's values over seeds of the figures that a summary has."""
    latencies = [key for key in row.cells if key.startswith("latency_b")]
    peaks = [key for key in PEAKS if key in row.cells]
    keys = {**COLUMNS, "latency_s": latencies[0], "peak_memory_bytes": peaks[0]}
    cells = {name: row.cells[key].summary for name, key in keys.items()}
    return {name: None if cell is None else cell.values for name, cell in cells.items()}


def test_summaries_of_the_last_releases_runs_are_its_reports_figures(upgraded: Database) -> None:
    with upgraded.session(read_only=True) as session:
        tables = build_report(session).tables
        runs = {result.run.run_id: result.run for result in load_results(session)}
        conditions = {row.id: row.values for row in session.scalars(select(RunConditions))}
    stored = summaries(upgraded)

    assert [summary.run_id for summary in stored] == sorted(runs)
    for summary in stored:
        run = runs[summary.run_id]
        assert likeness_of(conditions[summary.conditions_id]) == run.likeness
        assert (summary.seed, summary.repeat, summary.method) == (run.spec.seed, run.spec.repeat, str(run.spec.method))
        assert summary.finished_at == run.finished_at
    assert len({summary.conditions_id for summary in stored}) == len(tables) == 3
    expected = {
        (str(table.model), table.task, row.method): figures(row)
        for table in tables
        for row in table.rows
        if not any(variant in row.method for variant in VARIANTS)
    }
    found: dict[tuple[str, str, str], dict[int, StoredSummary]] = {}
    for summary in stored:
        found.setdefault((summary.model, summary.task, summary.label), {})[summary.seed] = summary
    assert {
        key: {
            name: None if any(value is None for value in values) else values
            for name in figures(tables[0].rows[0])
            for values in [tuple(getattr(seeds[seed], name) for seed in sorted(seeds))]
        }
        for key, seeds in found.items()
    } == expected


def check_index(database: Database) -> tuple[Table, ...]:
    """Compare each line of the index with its table."""
    with database.session(read_only=True) as session:
        tables, index = build_report(session).tables, build_index(session)
    assert len(index.lines) == len(tables)
    for table, line in zip(tables, index.lines, strict=True):
        rows = [row for row in table.rows if not any(variant in row.method for variant in VARIANTS)]
        qualities = {row.method: cell.mean for row in rows if (cell := row.cells["quality"].summary) is not None}
        assert (line.model, line.task, line.runs, line.metric) == (table.model, table.task, table.runs, table.metric)
        assert line.methods == len(rows)
        assert line.seeds == len({seed for row in rows for seed in row.seeds})
        best = (max if table.metric.higher_is_better else min)(qualities.values())
        assert line.best_quality == pytest.approx(best)
        assert qualities[line.best_method] == best
        reference = next((qualities[row.method] for row in rows if row.method == "full"), None)
        assert line.reference_quality == (reference if table.has_reference else None)
    return tables


def test_index_of_the_last_releases_database_agrees_with_its_report(upgraded: Database) -> None:
    assert len(check_index(upgraded)) == 3


def test_index_has_a_line_for_each_table(database: Database) -> None:
    for seed, score in enumerate((0.80, 0.84, 0.82)):
        store(database, "full", seed, score, 100)
        store(database, "lora", seed, score + 0.01, 50)
        store(database, "lora", seed, score - 0.05, 50, settings={"test_languages": ["en", "de"], "steps": 20})
    store(database, "full", 0, 0.9, 100, repeat=1)
    store(database, "lora[rank=4]", 0, 0.7, 50, device_name="Another CPU")

    tables = check_index(database)

    with database.session(read_only=True) as session:
        first, short, other = build_index(session).lines
    assert len(tables) == 3
    assert (first.methods, first.runs, first.seeds, first.best_method) == (2, 7, 3, "full")
    assert first.reference_quality == pytest.approx((0.9 + 0.84 + 0.82) / 3)
    assert first.differs == {"steps": None, "device_name": "Test CPU"}
    assert short.differs == {"steps": 20, "device_name": "Test CPU"}
    assert (other.differs["device_name"], other.reference_quality) == ("Another CPU", None)


def test_index_names_learning_rates_and_searches_as_the_report_does(database: Database) -> None:
    tuning = {"learning_rate": [1e-4, 1e-3], "trials": 2}
    languages = {"test_languages": ["en", "de"]}
    store(database, "full", 0, 0.80, 100)
    store(database, "lora", 0, 0.81, 50)
    store(database, "lora", 0, 0.82, 50, settings={**languages, "learning_rate": 0.002})
    check_index(database)
    store(database, "lora", 0, 0.83, 50, settings={**languages, "tuning": tuning})

    check_index(database)

    with database.session(read_only=True) as session:
        (line,) = build_index(session).lines
    assert (line.best_method, line.methods) == ("lora (tuned, 2 trials)", 4)


def test_index_of_a_sweep_counts_its_jobs_only(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)

    with database.session(read_only=True) as session:
        assert build_index(session, sweep_ids=[1]).lines == ()


@pytest.fixture
def on_any_database(any_database_url: str) -> Iterator[Database]:
    """A migrated database on either server."""
    opened = Database(any_database_url)
    yield opened
    opened.close()


def test_only_a_run_that_succeeded_has_a_summary_and_it_goes_with_its_job(on_any_database: Database) -> None:
    ids = queue_jobs(on_any_database, 3)
    for job_id, outcome in zip(ids, ("succeeded", "error", "killed"), strict=True):
        claim = claimer(on_any_database)(job_id)
        assert claim is not None
        with on_any_database.session() as session:
            results.finish(session, claim, RunOutcome(outcome), run_results())  # type: ignore[arg-type]

    assert [summary.job_id for summary in summaries(on_any_database)] == ids[:1]
    with on_any_database.session() as session:
        session.execute(delete(Job))
    assert summaries(on_any_database) == []


def test_migrated_and_new_summaries_are_equal(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "lora", 1, 0.7, 50, noise=0.02)
    written = [vars(summary) for summary in summaries(database)]

    downgrade(database, "0002")
    upgrade(database)

    migrated = [vars(summary) for summary in summaries(database)]
    for old, new in zip(written, migrated, strict=True):
        assert {key: value for key, value in new.items() if key[0] != "_"} == {
            key: value for key, value in old.items() if key[0] != "_"
        }

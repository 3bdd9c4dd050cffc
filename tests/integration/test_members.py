"""Figures of the members of a mixture beside those of the whole job: stored, read, exported, and in no report."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from pyarrow import parquet
from sqlalchemy import select

from adapeff.cli.export_files import write_csv, write_parquet
from adapeff.cli.job_views import job_view
from adapeff.cli.render.markdown import report_markdown
from adapeff.service import api
from adapeff.service.reporting.compare import compare
from adapeff.service.reporting.compare_cells import Side
from adapeff.service.reporting.examples import example_scores_of
from adapeff.service.reporting.export import What, open_export
from adapeff.service.reporting.grids import grid_documents
from adapeff.service.reporting.picture_data import curves_panels
from adapeff.service.reporting.profiles import profile_rows
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.runs import load_results
from adapeff.service.reporting.views import VIEWS
from adapeff.service.statistics.packing import pack
from adapeff.service.store import results, sweeps
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.example_scores import load_example_scores
from adapeff.service.store.results import RunResults
from adapeff.service.store.tables import Run, StoredSummary
from tests.factories import spec
from tests.integration.stored import store_profile
from tests.integration.test_archive import imported, lines_of
from tests.integration.test_claims import curves
from tests.integration.test_example_scores import CORRECT, finish_run, predictions, scores_event
from tests.integration.test_report import store

MEMBERS = ("sst2", "offline_sentiment[difficulty=0.5]")


def figure(name: str, value: float, **where: Any) -> dict[str, Any]:
    return {"event": "measurement", "name": name, "value": value, "unit": "1", **where}


def of_member(task: str, shift: float) -> Iterator[dict[str, Any]]:
    """A member's figures by every name that reports look for, none of them equal to the whole job's."""
    for split, language in (("test", "en"), ("test", "de"), ("test", "fr"), ("validation", "en")):
        for name in ("accuracy", "majority_accuracy", "noise_accuracy", "examples"):
            yield figure(name, 0.1 + shift, split=split, language=language, task=task)
    yield figure("accuracy", 0.2, split="test", language="en", variant={"merged": True}, task=task)
    yield figure("f1", 0.3, split="validation", language="en", task=task)
    for name in ("train_compute_s", "wall_s", "stored_bytes", "trainable_parameters_head", "train_energy_j"):
        yield figure(name, 7 + shift, task=task)
    yield figure("peak_memory_allocated_bytes", 9, task=task)
    yield figure("latency_s", 5, batch=1, length=64, statistic="p50", task=task)
    for phase in ("train", "inference"):
        yield figure("disturbance", 1, phase=phase, task=task) | {"reason": "another member"}
    for name in ("validation_accuracy", "train_samples", "train_compute_s", "train_flops"):
        yield {"event": "curve", "name": name, "points": [[1, 0.9 + shift], [2, 0.95]], "task": task}
    yield {**scores_event(), "task": task, "values": pack(numpy.array([1.0, 0.0, 1.0]))}


def members(shift: float = 0.0) -> list[dict[str, Any]]:
    return [event for task in MEMBERS for event in of_member(task, shift)]


def filled(database: Database, *, with_members: bool) -> Database:
    """Runs of two methods and a repeat of one, with or without figures of members before those of the whole job."""
    for method, seed, repeat in (("full", 0, 0), ("full", 1, 0), ("lora", 0, 0), ("lora", 1, 0), ("lora", 1, 1)):
        events = members(shift=repeat / 100) if with_members else []
        scores, about = curves(0.5, 0.6 + seed / 10), {"repeat": repeat, "events": [scores_event(), *events][::-1]}
        store(database, method, seed, 0.8 + seed / 100, 100, curves=scores, **about)
    store_profile(database, {"lora": (0.7, 0.68, 0.72)})
    if with_members:
        _add_members_to_profile(database)
    return database


def _add_members_to_profile(database: Database) -> None:
    found = RunResults()
    for event in members():
        found.take({**event, "variant": {"method": "lora"}} if event["event"] == "measurement" else event)
    with database.session() as session:
        found.measurements = list({measured.key: measured for measured in found.measurements}.values())
        newest = session.scalars(select(Run.id).order_by(Run.id.desc()).limit(1)).one()
        results.store_rows(session, newest, "/runs", found)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Database]:
    """Runs without members."""
    opened = Database(f"sqlite:///{tmp_path / 'plain.db'}")
    upgrade(opened)
    yield filled(opened, with_members=False)
    opened.close()


@pytest.fixture
def mixed(any_database_url: str) -> Iterator[Database]:
    """The same runs with members."""
    opened = Database(any_database_url)
    yield filled(opened, with_members=True)
    opened.close()


def printed(database: Database) -> dict[str, Any]:
    """What reports say of a database: figures, every view, pictures, profiles, a comparison, summaries, an estimate."""
    with database.session(read_only=True) as session:
        report = build_report(session)
        summaries = session.execute(select(*StoredSummary.__table__.columns).order_by(StoredSummary.run_id))
        columns = StoredSummary.__table__.columns.keys()
        return {
            "figures": api.figures(report),
            **{view: api.records(report, view) for view in VIEWS},
            "markdown": report_markdown(report),
            "curves": curves_panels(report),
            "profiles": list(profile_rows(report.profiles)),
            "compare": grid_documents(compare(session, Side("method", "full"), Side("method", "lora"))),
            "summaries": [dict(zip(columns, row, strict=True)) | {"finished_at": None} for row in summaries],
            "estimate": sweeps.estimate_seconds(session, [spec(5, settings={"test_languages": ["en", "de"]})]),
        }


def test_members_change_nothing_that_is_reported_of_the_whole_job(plain: Database, mixed: Database) -> None:
    expected, found = printed(plain), printed(mixed)

    assert len(expected["summaries"]) == 5 and expected["compare"] and expected["estimate"] != [None]
    for what in expected:
        assert found[what] == expected[what], what


def test_a_members_figures_are_read_by_its_name(mixed: Database) -> None:
    with mixed.session(read_only=True) as session:
        first = load_results(session)[0]

    assert set(first.members) == set(MEMBERS)
    assert first.read("accuracy", split="test", language="en").value == pytest.approx(0.8)
    for member in first.members:
        assert first.read("accuracy", split="test", language="en", task=member).value == pytest.approx(0.1)
        assert first.as_variant('{"merged":true}').read("accuracy", task=member).value == pytest.approx(0.2)
        assert {key.language for key, _ in first.run.readings.named("examples", member)} == {"en", "de", "fr"}
    assert first.read("accuracy", task="imdb").reason == "not measured"


def rows_of(database: Database, what: What) -> list[dict[str, Any]]:
    with database.session(read_only=True) as session:
        return list(open_export(session, what).records())


@pytest.mark.parametrize("what", ["measurements", "curves"])
def test_an_export_names_the_member_of_each_row(plain: Database, mixed: Database, what: What) -> None:
    expected, found = rows_of(plain, what), rows_of(mixed, what)

    of_job = [row for row in found if not row["member"]]
    assert {row["member"] for row in found} == {"", *MEMBERS}
    assert {row["task"] for row in found} <= {"offline_sentiment", "profile"}
    assert "member" not in expected[0]
    assert [{key: value for key, value in row.items() if key != "member"} for row in of_job] == expected


def test_every_format_of_an_export_has_the_members(mixed: Database, tmp_path: Path) -> None:
    text = io.StringIO()
    with mixed.session(read_only=True) as session:
        write_csv(open_export(session), text.write)
        write_parquet(open_export(session), tmp_path / "x.parquet")

    text.seek(0)
    assert {row["member"] for row in csv.DictReader(text)} == {"", *MEMBERS}
    assert set(parquet.read_table(tmp_path / "x.parquet")["member"].to_pylist()) == {"", *MEMBERS}


def test_a_job_is_shown_with_its_members(plain: Database, mixed: Database) -> None:
    expected, found = job_view(plain, 1), job_view(mixed, 1)

    assert {one.get("task", "") for one in found["measurements"]} == {"", *MEMBERS}
    assert [one for one in found["measurements"] if "task" not in one] == expected["measurements"]
    assert found["curves"] == expected["curves"] and expected["member_curves"] == {}
    assert set(found["member_curves"]) == set(MEMBERS)
    assert found["member_curves"]["sst2"]["validation_accuracy"] == [[1, 0.9], [2, 0.95]]


def test_scores_by_example_are_kept_apart_by_member(mixed: Database) -> None:
    with mixed.session(read_only=True) as session:
        loaded = load_results(session)
        of_job, of_sst2 = example_scores_of(session, loaded), example_scores_of(session, loaded, task="sst2")
        run_id = loaded[0].run.run_id

    assert len(of_job) == len(of_sst2) == 5
    assert of_job[run_id, "en"].tolist() == CORRECT
    assert of_sst2[run_id, "en"].tolist() == [1, 0, 1]


def test_predictions_are_not_read_of_a_run_that_stored_scores_of_members_only(
    any_database_url: str, tmp_path: Path
) -> None:
    database = Database(any_database_url)
    run_id = finish_run(database, 0, {**scores_event(), "task": "sst2"}, predictions(tmp_path / "p.jsonl.gz"))

    with database.session(read_only=True) as session:
        loaded = load_results(session)
        assert example_scores_of(session, loaded) == {}
        assert example_scores_of(session, loaded, task="sst2").keys() == {(run_id, "en")}
    database.close()


def test_an_archive_carries_members(mixed: Database, plain: Database, tmp_path: Path) -> None:
    target = Database(f"sqlite:///{tmp_path / 'target.db'}")
    upgrade(target)

    imported(target, lines_of(mixed))

    assert printed(target) == printed(plain)
    assert everything(target) == everything(mixed)
    assert not any('"task": "sst2"' in line for line in lines_of(plain))
    target.close()


def everything(database: Database) -> list[Any]:
    """Measurements, curves and scores by example of each run, in the order of the runs."""
    found: list[Any] = []
    with database.session(read_only=True) as session:
        for run_id in session.scalars(select(Run.id).order_by(Run.id)):
            scores = {task: load_example_scores(session, [run_id], task=task) for task in ("", *MEMBERS)}
            found += [
                results.list_measurements(session, [run_id])[run_id],
                results.list_curves(session, run_id),
                {task: {where: values.tolist() for where, values in of.items()} for task, of in scores.items()},
            ]
    return found


@pytest.mark.parametrize("kind", ["curve", "example_scores"])
def test_a_member_without_a_name_is_refused(kind: str) -> None:
    event = {"event": kind, "name": "n", "points": [], "language": "en", "metric": "accuracy", "values": ""}

    with pytest.raises(TypeError, match="'task'"):
        RunResults().take({**event, "task": None})

"""Scores by test example from a runner's event, or from its predictions, to the report."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy
import pytest
from sqlalchemy import delete, func, select

from adapeff.service.plugins import catalog
from adapeff.service.reporting.examples import example_scores_of, have_same_examples
from adapeff.service.reporting.report import Options, build_report
from adapeff.service.reporting.runs import load_results
from adapeff.service.statistics.packing import pack, packed_bytes, unpack
from adapeff.service.store import job_creation, results
from adapeff.service.store.database import Database, downgrade, upgrade
from adapeff.service.store.example_scores import load_example_scores
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from adapeff.service.store.tables import ExampleScores, Run
from adapeff.worker.events import EVENTS, EventLog
from adapeff.worker.training.evaluate import Predictions
from adapeff.worker.training.record_inference import store_example_scores, store_predictions
from tests.factories import claimer, spec

CORRECT = [1, 0, 1, 1, 0, 1, 1, 1]


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    opened = Database(any_database_url)
    yield opened
    opened.close()


def finish_run(database: Database, seed: int, *events: dict[str, Any], metric: str = "accuracy", **changes: Any) -> int:
    """A finished run that stored these events and its score."""
    known: dict[str, Any] = changes.pop("resolved", {})
    data: dict[str, Any] = changes.pop("data", {})
    with database.session() as session:
        wanted = spec(seed, settings={"test_languages": ["en"]}, **changes)
        wanted = wanted.model_copy(update={"data": wanted.data.model_copy(update=data)})
        (job_id,), _ = job_creation.create_jobs(session, [wanted], priority=5, max_failures=3)
    claim = claimer(database)(job_id)
    assert claim is not None
    found = RunResults(environment={"device_name": "Test CPU"})
    score = {"event": "measurement", "name": "accuracy", "unit": "1", "language": "en", "split": "test"}
    found.take({**score, "value": sum(CORRECT) / len(CORRECT)})
    for name in ("train_compute_s", "peak_memory_process_bytes", "stored_bytes"):
        found.take({"event": "measurement", "name": name, "value": 1.0, "unit": "s"})
    for event in events:
        found.take(event)
    resolved = {"metric": metric, "source_language": "en", **known}
    with database.session() as session:
        results.finish(session, claim, RunOutcome("succeeded", resolved=resolved), found)
    return claim.run_id


def predictions(path: Path) -> dict[str, Any]:
    """The event of a file of predictions that are right where CORRECT says so."""
    with gzip.open(path, "wt") as lines:
        for at, is_correct in enumerate(CORRECT):
            row = {"language": "en", "id": str(at), "gold": 1, "predicted": is_correct, "score": 0.9}
            lines.write(json.dumps(row) + "\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"event": "artifact", "name": "predictions", "path": str(path), "sha256": digest, "bytes": 1}


def scores_event() -> dict[str, Any]:
    values = pack(numpy.array(CORRECT, dtype=float))
    return {"event": "example_scores", "language": "en", "metric": "accuracy", "values": values}


def test_stored_scores_and_those_of_the_predictions_are_the_same(database: Database, tmp_path: Path) -> None:
    stored = finish_run(database, 0, scores_event())
    computed = finish_run(database, 1, predictions(tmp_path / "p.jsonl.gz"))
    with database.session(read_only=True) as session:
        found = example_scores_of(session, load_results(session))

    assert found[stored, "en"].tolist() == CORRECT
    assert found[computed, "en"] == pytest.approx(CORRECT)


ANSWERS: dict[str, tuple[list[Any], list[Any]]] = {
    "accuracy": ([0, 1, 2, 2], [0, 1, 1, 2]),
    "macro_f1": ([0, 1, 2, 2], [0, 1, 1, 2]),
    "entity_f1": ([["B-PER", "O"], ["O", "B-LOC"], ["O", "O"]], [["B-PER", "O"], ["O", "O"], ["B-LOC", "O"]]),
    "squad_f1": ([["the red cat"], ["dogs"], []], ["red cat sat", "dogs", ""]),
    "spearman": ([0.1, 0.4, 0.2, 0.9, 0.5], [0.2, 0.3, 0.1, 0.8, 0.9]),
}


@pytest.mark.parametrize("metric", ANSWERS)
def test_a_runners_events_and_its_predictions_give_the_same_scores(
    database: Database, tmp_path: Path, metric: str
) -> None:
    gold, predicted = ANSWERS[metric]
    ids = [str(at) for at in range(len(gold))]
    found = {
        language: Predictions(ids, gold, answers, [0.9] * len(gold))
        for language, answers in (("en", predicted), ("de", predicted[::-1]))
    }
    log = EventLog(tmp_path)
    with closing(log._file):
        store_example_scores(log, catalog.get_metric(metric), found)
        store_predictions(log, {"": found}, tmp_path)
    *scored, file = (json.loads(line) for line in (tmp_path / EVENTS).read_text().splitlines())
    file["path"] = str(tmp_path / file["path"])

    stored = finish_run(database, 0, *scored, metric=metric)
    computed = finish_run(database, 1, file, metric=metric)
    with database.session(read_only=True) as session:
        by_run = example_scores_of(session, load_results(session))

    assert by_run[computed, "en"] == pytest.approx(by_run[stored, "en"], abs=1e-6)
    assert by_run[computed, "en"].mean() == pytest.approx(catalog.get_metric(metric).compute(gold, predicted))
    assert by_run.keys() == {(run_id, language) for run_id in (stored, computed) for language in ("en", "de")}


def test_scores_are_read_by_language_and_go_with_their_run(database: Database) -> None:
    run_id = finish_run(database, 0, scores_event(), {**scores_event(), "language": "de"})

    with database.session() as session:
        assert load_example_scores(session, [run_id]).keys() == {(run_id, "en"), (run_id, "de")}
        assert (run_id, "de") in load_example_scores(session, [run_id])
        assert load_example_scores(session, [run_id + 1]) == {}
        session.execute(delete(Run).where(Run.id == run_id))
        assert session.scalar(select(func.count()).select_from(ExampleScores)) == 0


def test_runs_of_a_database_without_the_table_are_scored_from_their_predictions(
    database: Database, tmp_path: Path
) -> None:
    run_id = finish_run(database, 0, scores_event(), predictions(tmp_path / "p.jsonl.gz"))

    downgrade(database, "0002")
    upgrade(database)

    with database.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(ExampleScores)) == 0
        assert example_scores_of(session, load_results(session))[run_id, "en"] == pytest.approx(CORRECT)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({}, True),
        ({"methods": ["lora"]}, True),
        ({"data": {"test_fingerprint": "f" * 64}}, False),
        ({"data": {"fingerprint": "f" * 64}}, False),
        ({"resolved": {"data_revision": "b"}}, False),
        ({"resolved": {"data_revision:org/other": "b"}}, False),
        ({"metric": "macro_f1"}, False),
        ({"tasks": ["offline_nli"]}, False),
    ],
)
def test_examples_of_two_runs_are_the_same_only_on_the_same_data(
    database: Database, second: dict[str, Any], expected: bool
) -> None:
    finish_run(database, 0, scores_event(), resolved={"data_revision": "a"})
    finish_run(database, 1, scores_event(), **{"resolved": {"data_revision": "a"}, **second})

    with database.session(read_only=True) as session:
        one, other = load_results(session)
        scores = example_scores_of(session, [one, other])

    assert have_same_examples(one, other, scores, "en") is expected
    assert not have_same_examples(one, other, scores, "de")
    fewer = {**scores, (other.run.run_id, "en"): scores[other.run.run_id, "en"][1:]}
    assert not have_same_examples(one, other, fewer, "en")


@pytest.mark.parametrize("fault", ["changed", "missing", "cut", "garbled"])
def test_predictions_that_are_not_those_of_the_run_are_not_used(database: Database, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "p.jsonl.gz"
    event = predictions(path)
    if fault == "missing":
        path.unlink()
    elif fault == "changed":
        path.write_bytes(path.read_bytes() + b" ")
    else:
        whole = path.read_bytes()
        path.write_bytes(whole[:-20] if fault == "cut" else whole[:30] + bytes(255 - byte for byte in whole[30:]))
        event["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    finish_run(database, 0, event)

    with database.session(read_only=True) as session:
        assert example_scores_of(session, load_results(session)) == {}


@pytest.mark.parametrize("metric", ["entity_f1", "squad_f1", "mean_average_precision", "not_installed"])
def test_answers_that_the_metric_cannot_score_are_not_used(database: Database, tmp_path: Path, metric: str) -> None:
    """As after a change of a plug-in; the file's answers are labels, 0 and 1."""
    finish_run(database, 0, predictions(tmp_path / "p.jsonl.gz"), metric=metric)

    with database.session(read_only=True) as session:
        assert example_scores_of(session, load_results(session)) == {}


def test_difference_of_one_seed_rests_on_its_examples(database: Database) -> None:
    finish_run(database, 0, scores_event())
    finish_run(database, 0, scores_event(), methods=["lora"])

    with database.session(read_only=True) as session:
        (decision,) = build_report(session).decisions
    (_, lora) = decision.lines

    assert lora.difference is not None and (lora.difference.basis, lora.difference.examples) == ("examples", 8)
    assert lora.verdict.text == "undecided (1 seed)"


@pytest.mark.parametrize(
    ("metric", "basis"), [("", "seeds and examples"), ("accuracy", "seeds and examples"), ("macro_f1", None)]
)
def test_metric_that_selected_the_runs_may_be_named(database: Database, metric: str, basis: str | None) -> None:
    """Scores by example are those of the headline metric, whether or not a reader asks for it by name."""
    for method in ("full", "lora"):
        for seed in (0, 1):
            finish_run(database, seed, scores_event(), methods=[method])

    with database.session(read_only=True) as session:
        (decision,) = build_report(session, options=Options(metric=metric)).decisions

    (difference,) = [line.difference for line in decision.lines if line.method == "lora"]
    assert (difference and difference.basis) == basis


def test_runner_scores_examples_of_the_trained_model_once_per_language(tiny_model: Path, tmp_path: Path) -> None:
    """Also where it tests inference variants."""
    settings = {"epochs": 1, "train_size": 32, "max_length": 16, "latency_batches": [], "variants": True}
    changes: dict[str, Any] = {
        "models": [str(tiny_model)],
        "methods": ["lora"],
        "settings": {**settings, "device": "cpu"},
    }
    (tmp_path / "job.json").write_text(spec(**changes).model_dump_json())
    command = [sys.executable, "-m", "adapeff.worker.runner", "job.json", "--out", "out"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "out" / EVENTS).read_text().splitlines()]
    measured = [event for event in events if event.get("name") == "accuracy" and event.get("split") == "test"]
    trained = {event["language"]: event["value"] for event in measured if not event.get("variant")}
    scored = [event for event in events if event["event"] == "example_scores"]
    assert len(measured) > len(trained)
    assert [event["language"] for event in scored] == list(trained)
    for event in scored:
        values = numpy.array(unpack(packed_bytes(event["values"])))
        assert set(values.tolist()) <= {0.0, 1.0}
        assert values.mean() == pytest.approx(trained[event["language"]])


@pytest.mark.parametrize("values", ["", "%%%", "AAAA"])
def test_malformed_scores_are_refused(values: str) -> None:
    with pytest.raises(ValueError, match="example scores"):
        RunResults().take({**scores_event(), "values": values})

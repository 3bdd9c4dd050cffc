"""Scores by test example from a runner's event, or from its predictions, to the report."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from adapeff.service.reporting.examples import example_scores_of
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.runs import load_results
from adapeff.service.statistics.packing import pack
from adapeff.service.store import job_creation, results
from adapeff.service.store.database import Database
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from tests.factories import claimer, spec

CORRECT = [1, 0, 1, 1, 0, 1, 1, 1]


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    opened = Database(any_database_url)
    yield opened
    opened.close()


def finish_run(database: Database, seed: int, *events: dict[str, Any], **changes: Any) -> int:
    """A finished run that stored these events and its score."""
    with database.session() as session:
        wanted = spec(seed, settings={"test_languages": ["en"]}, **changes)
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
    resolved = {"metric": "accuracy", "source_language": "en"}
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


@pytest.mark.parametrize("fault", ["changed", "missing", "cut"])
def test_predictions_that_are_not_those_of_the_run_are_not_used(database: Database, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "p.jsonl.gz"
    event = predictions(path)
    if fault == "missing":
        path.unlink()
    elif fault == "changed":
        path.write_bytes(path.read_bytes() + b" ")
    else:
        path.write_bytes(path.read_bytes()[:-20])
        event["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    finish_run(database, 0, event)

    with database.session(read_only=True) as session:
        assert example_scores_of(session, load_results(session)) == {}


def test_difference_of_one_seed_rests_on_its_examples(database: Database) -> None:
    finish_run(database, 0, scores_event())
    finish_run(database, 0, scores_event(), methods=["lora"])

    with database.session(read_only=True) as session:
        (decision,) = build_report(session).decisions
    (_, lora) = decision.lines

    assert lora.difference is not None and (lora.difference.basis, lora.difference.examples) == ("examples", 8)
    assert lora.verdict.text == "undecided: 1 seed"


@pytest.mark.parametrize("values", ["", "%%%", "AAAA"])
def test_malformed_scores_are_refused(values: str) -> None:
    with pytest.raises(ValueError, match="example scores"):
        RunResults().take({**scores_event(), "values": values})

"""Scores by test example of the runs of a report: those stored, or computed from stored predictions."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Metric
from adapeff.service.plugins.example_scores import score_examples
from adapeff.service.reporting.runs import Result
from adapeff.service.specs.fingerprints import file_fingerprint
from adapeff.service.store.example_scores import load_example_scores, runs_with_example_scores
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.tables import Artifact

MOST_FILES = 300
"""Runs whose predictions are read; beyond, a report would take too long."""

ExampleScores = Mapping[tuple[int, str], numpy.ndarray]
"""(Run id, language) -> one number per test example whose mean is the run's score."""

_UNREADABLE = (
    *(AdapeffError, OSError, EOFError, zlib.error),
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
)
"""What a damaged file raises when it is read, and answers of another shape than its metric scores."""


def example_scores_of(session: Session, results: Sequence[Result], *, task: str = "") -> ExampleScores:
    """The scores by example of these runs.

    Runs of versions that stored none have their predictions read instead, if the files can be reached and are intact.

    Args:
        task: the member of a mixture that the examples are of, for which nothing is read from predictions; '' for the
            whole job.
    """
    if task:
        return load_example_scores(session, [result.run.run_id for result in results], task=task)
    metrics = {result.run.run_id: str(result.run.resolved.get("metric", "")) for result in results}
    found = load_example_scores(session, metrics)
    stored = runs_with_example_scores(session, metrics)
    missing = {run_id: name for run_id, name in metrics.items() if run_id not in stored}
    if len(missing) > MOST_FILES:
        return found
    wanted = select(Artifact.run_id, Artifact.uri, Artifact.sha256).where(
        Artifact.name == "predictions", is_one_of(session, Artifact.run_id, missing)
    )
    for run_id, uri, sha256 in session.execute(wanted):
        metric = catalog.metrics().get(missing[run_id])
        if metric is not None:
            scores = _from_predictions(Path(uri), sha256, metric)
            found |= {(run_id, language): values for language, values in scores.items()}
    return found


def have_same_examples(first: Result, second: Result, scores: ExampleScores, language: str) -> bool:
    """Whether the scores by example of two runs may be subtracted from each other.

    They may if both are of the same task, metric and data, whose order is fixed, and equal in number. Where the data
    are not known to be the same they may not.
    """
    ours, theirs = (scores.get((result.run.run_id, language)) for result in (first, second))
    return (
        ours is not None and theirs is not None and len(ours) == len(theirs) and tested_on(first) == tested_on(second)
    )


def tested_on(result: Result) -> tuple[Any, ...]:
    """What decides which examples a run was tested on, and what their scores are."""
    conditions = result.run.conditions
    resolved = conditions["resolved"]
    revisions = {name: commit for name, commit in resolved.items() if name.startswith("data_revision")}
    return conditions["task"], conditions["data"], conditions["test_data"], revisions, resolved.get("metric")


def _from_predictions(path: Path, sha256: str, metric: Metric) -> dict[str, numpy.ndarray]:
    """Language -> scores by example; empty if the file is missing or is not the one that the run stored."""
    try:
        if file_fingerprint(path) != sha256:
            return {}
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        answers: dict[str, tuple[list[Any], list[Any]]] = {}
        for row in rows:
            gold, predicted = answers.setdefault(row["language"], ([], []))
            gold.append(row["gold"])
            predicted.append(row["predicted"])
        return {language: score_examples(metric, *both) for language, both in answers.items()}
    except _UNREADABLE:
        return {}

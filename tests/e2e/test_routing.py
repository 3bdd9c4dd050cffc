"""Planted errors: what is wrong with one language's file shows in that language's row and nowhere else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapeff.service.plugins.catalog import get_metric
from tests.e2e.conftest import Adapeff, show, write_rows

Row = dict[str, Any]


def names(at: int, *, shifted: bool = False) -> Row:
    """The word `film` is tagged as a person; if shifted, the next word is tagged instead."""
    place = at % 3
    tokens = ["the", "was", "not", "good", chr(97 + at % 26)]
    tokens.insert(place, "film")
    tags = [0] * len(tokens)
    tags[place + shifted] = 1
    return {"tokens": tokens, "ner_tags": tags, "langs": [], "spans": []}


def questions(at: int, *, swapped: bool = False) -> Row:
    """The word `film` is the answer; if swapped, another word of the context is."""
    words = ["the", "was", "not", "good"]
    words.insert(at % 4, "film")
    context = " ".join(words)
    text = "the" if swapped else "film"
    answers = {"text": [text], "answer_start": [context.index(text)]}
    return {"id": str(at), "title": chr(97 + at % 5), "context": context, "question": "was it ?", "answers": answers}


def write_splits(folder: Path, splits: dict[str, int], row: Callable[[int], Row]) -> None:
    for split, size in splits.items():
        write_rows(folder / f"{split}.jsonl", [row(at) for at in range(size)])


def scores(view: dict[str, Any], name: str) -> dict[str, float]:
    """Language -> test score."""
    return {m["language"]: m["value"] for m in view["measurements"] if m["name"] == name and m.get("split") == "test"}


def predictions(view: dict[str, Any]) -> dict[str, list[Row]]:
    """Language -> the stored predictions."""
    (file,) = [artifact["uri"] for artifact in view["artifacts"] if artifact["name"] == "predictions"]
    found: dict[str, list[Row]] = {}
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            found.setdefault(record["language"], []).append(record)
    return found


def run(adapeff: Adapeff, sweep: Path, task: str) -> dict[str, Any]:
    options = ("-s", "epochs=12", "-s", "learning_rate=3e-3", "-s", "batch_size=8")
    done = adapeff("run", sweep, "--tasks", task, "--methods", "full", *options)
    assert done.returncode == 0, done.stderr
    return show(adapeff, 1)


def check_stored(view: dict[str, Any], metrics: tuple[str, ...]) -> None:
    """Recompute every score from the stored predictions."""
    for language, records in predictions(view).items():
        gold, predicted = [r["gold"] for r in records], [r["predicted"] for r in records]
        for name in metrics:
            assert scores(view, name)[language] == pytest.approx(get_metric(name).compute(gold, predicted))


def test_shifted_tags_show_in_their_own_row(adapeff: Adapeff, sweep: Path, data_root: Path) -> None:
    folder = data_root / "ner" / "wikiann"
    write_splits(folder / "en", {"train": 64, "validation": 12, "test": 20}, names)
    write_splits(folder / "sw", {"test": 20}, names)
    write_splits(folder / "de", {"test": 20}, lambda at: names(at, shifted=True))

    view = run(adapeff, sweep, "wikiann")

    assert scores(view, "entity_f1") == {"en": 1, "sw": 1, "de": 0}
    predicted = {language: [row["predicted"] for row in rows] for language, rows in predictions(view).items()}
    assert predicted["en"] == predicted["sw"] == predicted["de"]
    check_stored(view, ("entity_f1", "entity_precision", "entity_recall", "token_accuracy"))


def test_swapped_spans_show_in_their_own_row(adapeff: Adapeff, sweep: Path, data_root: Path) -> None:
    """Trained on one data set and tested on another, in three languages."""
    write_splits(data_root / "qa/squad/plain_text", {"train": 64, "validation": 12, "test": 12}, questions)
    for language in ("en", "de"):
        write_splits(data_root / f"qa/xquad/xquad.{language}", {"validation": 8, "test": 20}, questions)
    write_splits(data_root / "qa/xquad/xquad.es", {"test": 20}, lambda at: questions(at, swapped=True))

    view = run(adapeff, sweep, "xquad")

    assert scores(view, "exact_match") == {"en": 1, "de": 1, "es": 0}
    assert scores(view, "squad_f1") == {"en": 1, "de": 1, "es": 0}
    check_stored(view, ("exact_match", "squad_f1"))
    assert {record["predicted"] for record in predictions(view)["es"]} == {"film"}

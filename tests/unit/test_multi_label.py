"""Multi-label classification: lists of labels read strictly, a threshold chosen by validation, baselines, a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.errors import DataError
from adapeff.service.plugins.catalog import get_metric, get_task
from adapeff.service.specs.job import Training
from adapeff.worker.families.encoding import Batch
from adapeff.worker.families.multi_label import THRESHOLDS, MultiLabelClassification, MultiLabelExample
from adapeff.worker.metrics.multi_label import LabelScores
from adapeff.worker.tasks.init import draft
from adapeff.worker.tasks.validation import check_task
from adapeff.worker.training.evaluate import Predictions, baseline

LABELS = ("calm", "glad", "sad")


def family() -> MultiLabelClassification:
    """The family with settings that do not matter."""
    return MultiLabelClassification(LABELS, Training(learning_rate=1))


def make_examples(golds: list[tuple[int, ...]]) -> list[MultiLabelExample]:
    """Examples with these labels."""
    return [MultiLabelExample(str(at), "x", None, gold) for at, gold in enumerate(golds)]


def test_loss_is_the_mean_over_items_and_labels() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.0], [0.5, 0.5, -3.0]])
    targets = torch.tensor([[1, 0, 1], [0, 0, 0]])
    batch = Batch({}, {"labels": targets}, [1, 1], [3, 3])

    probabilities = logits.sigmoid()
    by_hand = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log()).mean()
    assert float(family().loss(logits, batch)) == pytest.approx(float(by_hand), abs=1e-6)


sets = st.sets(st.integers(0, 2)).map(lambda found: tuple(sorted(found)))
scores = st.tuples(*[st.sampled_from([0.04, 0.2, 0.33, 0.5, 0.61, 0.97])] * 3)


@given(st.lists(st.tuples(sets, scores), min_size=1, max_size=12))
def test_threshold_has_the_best_f1_of_all(found: list[tuple[tuple[int, ...], tuple[float, ...]]]) -> None:
    """No other of the thresholds does better on the data it is chosen by, and 0.5 stays where none does."""
    examples, readings = make_examples([gold for gold, _ in found]), [graded for _, graded in found]
    chooser, metric, data = family(), get_metric("micro_f1"), None

    def f1_at(threshold: float) -> float:
        chooser.threshold = threshold
        given = [answer for answer, _ in chooser.answers(examples, data, readings)]  # type: ignore[arg-type]
        return metric.compute([chooser.gold(example) for example in examples], given)

    chosen = chooser.choose(examples, data, readings)["label_threshold"]  # type: ignore[arg-type]

    best = max(map(f1_at, THRESHOLDS))
    assert f1_at(chosen) == best
    assert chosen == 0.5 or f1_at(0.5) < best


def test_confidence_is_that_of_the_least_sure_label() -> None:
    ((answer, sure),) = family().answers(make_examples([()]), None, [[0.9, 0.4, 0.05]])  # type: ignore[arg-type]

    assert answer == LabelScores((0,), (0.9, 0.4, 0.05))
    assert sure == 0.6


def test_baseline_is_the_best_of_nothing_and_the_most_frequent_labels() -> None:
    golds: list[tuple[int, ...]] = [*[(0, 1)] * 6, *[(0,)] * 2, *[(2,)] * 2]
    examples = make_examples(golds)
    found = Predictions([e.id for e in examples], golds, [LabelScores((), (0.0,) * 3)] * 10, [1.0] * 10)

    against = baseline(get_metric("micro_f1"), family(), examples, found)
    by_rank = baseline(get_metric("mean_average_precision"), family(), examples, found)

    # the two most frequent: 14 of 20 right, 16 gold
    assert against.score == pytest.approx(2 * 14 / (20 + 16))
    assert by_rank.score == pytest.approx((0.8 + 0.6 + 0.2) / 3)


def write(folder: Path, rows: list[dict[str, Any]], **declared: Any) -> Path:
    """An own task with the same rows as every split."""
    folder.mkdir(exist_ok=True)
    described = {
        "family": "multi_label_classification",
        "columns": {"text": "text", "label": "moods"},
        **declared,
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(described))
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read(folder: Path) -> list[set[str]]:
    """The names of the labels of each training example."""
    task = get_task(str(folder))
    return [{task.labels[label] for label in example.labels} for example in task.examples("train", "und", None)]


def test_lists_of_labels_are_read_by_name_and_by_number(tmp_path: Path) -> None:
    by_name = write(tmp_path / "a", [{"text": "x", "moods": ["sad", "calm"]}, {"text": "y", "moods": []}])
    by_number = write(tmp_path / "b", [{"text": "x", "moods": [2, 0]}, {"text": "y", "moods": []}], labels=LABELS)

    assert read(by_name) == read(by_number) == [{"calm", "sad"}, set()]
    assert get_task(str(by_name)).labels == ("calm", "sad")


@pytest.mark.parametrize("written", ['"[""sad"", ""calm""]"', "sad calm"], ids=["list", "words"])
def test_lists_of_labels_may_be_written_into_a_table(tmp_path: Path, written: str) -> None:
    folder = write(tmp_path / "t", [], labels=list(LABELS))
    (folder / "train.jsonl").unlink()
    (folder / "train.csv").write_text(f"text,moods\nx,{written}\ny,\n")

    assert read(folder) == [{"calm", "sad"}, set()]


@pytest.mark.parametrize(
    ("moods", "message"),
    [
        (["sad", "angry"], "row 1: unknown label 'angry'; expected 0 .calm., 1 .glad., 2 .sad."),
        ([3], "row 1: unknown label 3; expected 0 .calm., 1 .glad., 2 .sad."),
        ("sad", "row 1: 'moods' is 'sad', expected a list"),
        (None, "row 1: 'moods' is None, expected a list"),
    ],
    ids=["name", "number", "text", "null"],
)
def test_what_is_no_list_of_labels_is_refused(tmp_path: Path, moods: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "t", [{"text": "x", "moods": moods}], labels=list(LABELS)))


def test_validation_counts_labels_and_warns_of_those_that_tell_nothing(tmp_path: Path) -> None:
    rows = [{"text": f"x {at}", "moods": ["calm", "glad"] if at % 2 else ["calm"]} for at in range(4)]
    folder = write(tmp_path / "t", rows, labels=list(LABELS))
    (folder / "test.jsonl").write_text('{"text": "y", "moods": ["sad"]}\n{"text": "z", "moods": []}\n')

    train, _, test = check_task(get_task(str(folder)), None)

    assert train["labels"] == {"calm": 4, "glad": 2}
    assert train["warnings"] == ["no example is: sad", "every example is: calm"]
    assert test["labels"] == {"(none)": 1, "sad": 1}
    assert test["warnings"] == ["training never sees: sad"]


def test_draft_takes_lists_for_several_labels(tmp_path: Path) -> None:
    file = tmp_path / "moods.jsonl"
    rows = [{"text": "a b c", "labels": ["sad", "calm"]}, {"text": "d e", "labels": []}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    made = draft(file)

    assert (made["family"], made["labels"]) == ("multi_label_classification", ["sad", "calm"])
    assert made["columns"] == {"text": "text", "label": "labels"}


@pytest.mark.slow
def test_own_task_with_several_labels_is_trained(
    adapeff: Callable[..., CompletedProcess[str]], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two words decide two labels: learned better than the best constant, with the threshold in the results."""
    monkeypatch.setenv("ADAPEFF_STATE_DIR", str(tmp_path / "state"))
    words = (("film", "the"), ("good", "bad"))
    rows = [
        {"text": f"was {words[0][at % 2]} {words[1][at // 2 % 2]} {chr(97 + at % 26)}",
         "moods": [label for label, there in (("calm", not at % 2), ("glad", not at // 2 % 2)) if there]}
        for at in range(64)
    ]  # fmt: skip
    write(tmp_path / "moods", rows, labels=["calm", "glad"])
    settings: dict[str, Any] = {"epochs": 15, "batch_size": 8, "max_length": 16, "learning_rate": 3e-3}
    settings |= {"latency_seconds": 0.05, "latency_batches": [1], "device": "cpu"}
    sweep = {"models": [str(tiny_model)], "tasks": ["./moods"], "methods": ["full"], "settings": settings}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(sweep))

    done = adapeff("run", "own.yaml", "--json")

    assert done.returncode == 0, done.stderr
    view = json.loads(adapeff("show", "1", "--json").stdout)
    values = {(m["name"], m.get("split")): m["value"] for m in view["measurements"] if "variant" not in m}
    assert values["label_threshold", "validation"] in THRESHOLDS
    assert values["micro_f1", "test"] > values["majority_micro_f1", "test"] + values["noise_micro_f1", "test"]
    assert values["mean_average_precision", "test"] > 0.8

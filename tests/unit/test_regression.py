"""Regression: numbers read strictly, and the lowest error kept, tuned and compared to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from adapeff.service.errors import DataError
from adapeff.service.plugins.catalog import get_metric, get_task
from adapeff.service.specs.job import Training
from adapeff.worker.families.regression import Regression, ScoredExample
from adapeff.worker.tasks.init import draft
from adapeff.worker.tasks.validation import check_task
from adapeff.worker.training.evaluate import Predictions, baseline
from adapeff.worker.training.tuning import open_search


def family() -> Regression:
    """The family with settings that do not matter."""
    return Regression((), Training(learning_rate=1))


def test_baseline_is_the_constant_with_the_lowest_error() -> None:
    """The mean has the lowest squared error; good answers beat it by more than the noise, constants do not."""
    values = [0.0, 0.0, 0.0, 1.0, 9.0] * 20
    examples = [ScoredExample(str(at), "x", None, value) for at, value in enumerate(values)]
    metric = get_metric("mse")

    def compared(predicted: list[float]) -> tuple[float, float, float]:
        found = Predictions([e.id for e in examples], values, predicted, predicted)
        against = baseline(metric, family(), examples, found)
        return metric.compute(values, predicted), against.score, against.noise

    good, score, noise = compared([value + 0.1 for value in values])
    variance = sum((value - 2) ** 2 for value in values) / len(values)
    assert score == pytest.approx(variance)
    assert metric.is_better(good, than=score - noise)
    bad, score, noise = compared([2.05] * len(values))
    assert not metric.is_better(bad, than=score - noise)


def write(folder: Path, rows: list[dict[str, Any]], **declared: Any) -> Path:
    """An own task with the same rows as every split."""
    folder.mkdir(exist_ok=True)
    described = {"family": "regression", "columns": {"text": "text", "label": "score"}, **declared}
    (folder / "task.yaml").write_text(yaml.safe_dump(described))
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("value", [2.5, 2, "2.5", "2", -1e3], ids=repr)
def test_numbers_may_be_written_as_text(tmp_path: Path, value: Any) -> None:
    task = get_task(str(write(tmp_path / "t", [{"text": "a", "score": value}])))

    assert [example.value for example in task.examples("train", "und", None)] == [float(value)]


@pytest.mark.parametrize("value", ["high", None, True, float("nan"), float("inf"), 1e30, [1.0], ""], ids=repr)
def test_what_is_no_finite_number_is_refused(tmp_path: Path, value: Any) -> None:
    task = get_task(str(write(tmp_path / "t", [{"text": "a", "score": 1.0}, {"text": "b", "score": value}])))

    with pytest.raises(DataError, match=r"train.jsonl, row 2: 'score' is .*, expected a finite number; correct it"):
        task.examples("train", "und", None)


def test_missing_numbers_are_left_out_where_declared(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "score": 1.5}, {"text": "b", "score": None}, {"text": "c", "score": -1}]
    task = get_task(str(write(tmp_path / "t", rows, unlabelled=True, ignore_labels=[-1])))

    assert [example.text for example in task.examples("train", "und", None)] == ["a"]


def test_validation_shows_the_range_and_warns_of_values_outside_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "t", [{"text": f"t {at}", "score": at / 2} for at in range(11)])
    (folder / "test.jsonl").write_text('{"text": "x", "score": 7}\n')

    train, _, test = check_task(get_task(str(folder)), None)

    assert train["labels"] == {"0 to 1": 2, "1 to 2": 2, "2 to 3": 2, "3 to 4": 2, "4 to 5": 3}
    assert test["warnings"] == [
        "every value is 7, so that no correlation is defined",
        "1 values are outside the range of training (0 to 5)",
    ]


def test_draft_takes_decimal_numbers_for_regression(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("sentence1,sentence2,score\na b c,a b d,3.8\nx y,z,0.5\n")

    made = draft(file)

    assert made["family"] == "regression"
    assert made["columns"] == {"text": "sentence1", "text_pair": "sentence2", "label": "score"}


def test_tuning_over_a_range_minimises_errors() -> None:
    """Told that low rates have low errors, the search proposes lower rates than when told that they are high scores."""
    pytest.importorskip("optuna")
    from adapeff.service.specs.job import LogRange, Tuning

    def proposed(*, higher_is_better: bool) -> float:
        tuning = Tuning(learning_rate=LogRange(low=1e-5, high=1e-1), trials=40)
        search = open_search(tuning, seed=0, higher_is_better=higher_is_better)
        rates = []
        for _ in range(40):
            rates.append(search.ask())
            search.tell(rates[-1])
        return sorted(rates[-10:])[5]

    assert proposed(higher_is_better=False) < 1e-3 < proposed(higher_is_better=True)


@pytest.mark.slow
def test_run_keeps_and_tunes_for_the_lowest_error(
    adapeff: Callable[..., CompletedProcess[str]], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the error as headline, the lowest validation is the best state and the lowest trial the rate."""
    monkeypatch.setenv("ADAPEFF_STATE_DIR", str(tmp_path / "state"))
    rows = [
        {"text": f"the film was {'good' if at % 2 else 'bad'} {chr(97 + at % 26)}", "score": 3.5 * (at % 2)}
        for at in range(64)
    ]
    write(tmp_path / "scores", rows, metric="mse", further_metrics=["pearson"])
    settings = {
        "epochs": 12,
        "batch_size": 8,
        "max_length": 16,
        "latency_seconds": 0.05,
        "latency_batches": [1],
        "device": "cpu",
    }
    sweep = {"models": [str(tiny_model)], "tasks": ["./scores"], "methods": ["full"], "settings": settings}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(sweep))

    done = adapeff("run", "own.yaml", "-s", "tuning={learning_rate: [1e-6, 3e-3], trials: 2}", "--json")

    assert done.returncode == 0, done.stderr
    view = json.loads(adapeff("show", "1", "--json").stdout)
    values = {(m["name"], m.get("split")): m["value"] for m in view["measurements"] if "variant" not in m}
    trials, validated = dict(view["curves"]["tuning"]), dict(view["curves"]["validation_mse"])
    assert values["learning_rate", None] == 3e-3
    assert trials[3e-3] == min(trials.values()) == min(validated.values()) == values["mse", "validation"]
    assert validated[values["best_step", None]] == min(validated.values())
    assert values["majority_mse", "test"] == pytest.approx(1.75**2)
    assert values["mse", "test"] < values["majority_mse", "test"] - values["noise_mse", "test"]

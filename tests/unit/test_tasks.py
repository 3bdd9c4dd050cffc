"""Data: the hub's schema read strictly, held-out selection, generated tasks with a known ceiling."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.errors import DataError
from adapeff.service.plugins.catalog import get_metric, get_task
from adapeff.service.specs.job import Training
from adapeff.worker.families import FAMILIES, family_of
from adapeff.worker.tasks import TASKS
from adapeff.worker.tasks.offline import LANGUAGES, OfflineClassification, OfflineTask


def write_sst2(root: Path, **splits: Sequence[Any]) -> Path:
    """A folder in SST-2's schema; rows are (sentence, label) or raw lines."""
    folder = root / "sentiment" / "sst2" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        rows = splits.get(split, [("fine", 1), ("poor", 0)])
        lines = [
            row if isinstance(row, str) else json.dumps({"idx": i, "sentence": row[0], "label": row[1]})
            for i, row in enumerate(rows)
        ]
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"idx": 0, "sentence": "x", "label": 2}', "row 1: unknown label 2; expected 0 .negative., 1 .positive."),
        ('{"idx": 0, "sentence": "x", "label": "Positive"}', "unknown label 'Positive'"),
        ('{"idx": 0, "sentence": "x", "label": true}', "unknown label True"),
        ('{"idx": 0, "text": "x", "label": 1}', "no column 'sentence'; found: idx, text, label"),
        ('{"idx": 0, "sentence": null, "label": 1}', "'sentence' is None, expected text"),
        ("[1, 2]", "line 1: expected a JSON object, found list"),
        ('{"idx": 0, ', "line 1: not JSON"),
    ],
)
def test_row_that_is_not_as_declared_is_refused(tmp_path: Path, line: str, message: str) -> None:
    root = write_sst2(tmp_path, train=[line])

    with pytest.raises(DataError, match=message):
        get_task("sst2").examples("train", "en", root)


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    root = write_sst2(tmp_path)
    (root / "sentiment/sst2/default/train.jsonl").write_bytes(b"\xc3\x28{}")

    with pytest.raises(DataError, match="not UTF-8 text"):
        get_task("sst2").examples("train", "en", root)


def test_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation\.jsonl contains no examples"):
        get_task("sst2").examples("validation", "en", write_sst2(tmp_path, validation=[]))


def test_labels_may_be_names(tmp_path: Path) -> None:
    root = write_sst2(tmp_path, train=[("a", "positive"), ("b", "negative")])

    assert [example.label for example in get_task("sst2").examples("train", "en", root)] == [1, 0]


def test_without_test_labels_validation_is_the_test_and_selection_is_held_out_of_train(tmp_path: Path) -> None:
    """As on the hub: paper.md S3, no selection on what is reported."""
    train = [(f"train {i}", i % 2) for i in range(50)]
    root = write_sst2(tmp_path, train=train, validation=[("dev", 1)], test=[("t", -1), ("u", -1)])
    task = get_task("sst2")

    texts = {
        split: {example.text for example in task.examples(split, "en", root)}
        for split in ("train", "validation", "test")
    }

    assert texts["test"] == {"dev"}
    assert len(texts["validation"]) == 5
    assert texts["train"] | texts["validation"] == {text for text, _ in train}
    assert not texts["train"] & texts["validation"]


def test_every_language_is_read_from_its_own_file(tmp_path: Path) -> None:
    task = get_task("xnli")
    for number, language in enumerate(("en", "de", "sw")):
        folder = tmp_path / "nli" / "xnli" / language
        folder.mkdir(parents=True)
        row = {"premise": f"p {language}", "hypothesis": f"h {language}", "label": number}
        (folder / "test.jsonl").write_text(json.dumps(row) + "\n")

    found = {language: task.examples("test", language, tmp_path) for language in task.available_languages(tmp_path)}

    assert {lang: [(e.text, e.text_pair, e.label) for e in rows] for lang, rows in found.items()} == {
        "en": [("p en", "h en", 0)],
        "de": [("p de", "h de", 1)],
        "sw": [("p sw", "h sw", 2)],
    }


def test_identity_follows_the_training_and_the_test_files_apart(tmp_path: Path) -> None:
    task = get_task("sst2")
    assert task.available_languages(write_sst2(tmp_path)) == ("en",)
    before = task.identity(["en"], tmp_path)
    other_test = task.identity(["en"], write_sst2(tmp_path, test=[("new", 1)]))
    other_train = task.identity(["en"], write_sst2(tmp_path, train=[("new", 1)]))

    assert other_test.fingerprint == before.fingerprint
    assert other_test.test_fingerprint != before.test_fingerprint
    assert other_train.fingerprint != before.fingerprint


def test_identity_tells_which_split_serves_as_test(tmp_path: Path) -> None:
    """With and without test labels other examples are trained on and selected by, from the same train file."""
    task = get_task("sst2")
    labelled = task.identity(["en"], write_sst2(tmp_path))
    unlabelled = task.identity(["en"], write_sst2(tmp_path, test=[("t", -1)]))

    assert labelled.fingerprint != unlabelled.fingerprint
    assert labelled.test_fingerprint != unlabelled.test_fingerprint


def test_real_files_are_read_whole(real_data: Path) -> None:
    """Row counts as the data's own description states them."""
    xnli, sst2 = get_task("xnli"), get_task("sst2")

    assert len(xnli.examples("train", "en", real_data)) == 8000
    assert {len(xnli.examples("test", language, real_data)) for language in xnli.available_languages(real_data)} == {
        999
    }
    assert [len(sst2.examples(s, "en", real_data)) for s in ("train", "validation", "test")] == [8000, 436, 910]


OFFLINE = sorted(name for name, task in TASKS.items() if isinstance(task, OfflineTask))
CLASSIFYING = sorted(name for name, task in TASKS.items() if isinstance(task, OfflineClassification))


def without_target(example: Any) -> dict[str, Any]:
    """What a reader sees of an example."""
    return {key: value for key, value in example._asdict().items() if key != target_of(example)}


def target_of(example: Any) -> str:
    """The field that a reader is asked for."""
    return next(family.target for family in FAMILIES.values() if isinstance(example, family.example))


def target(example: Any) -> Any:
    """What a reader must say."""
    return getattr(example, target_of(example))


@pytest.mark.parametrize("name", OFFLINE)
def test_generated_data_follow_from_the_parameters_alone(name: str) -> None:
    one, other = get_task(name), get_task(name, {"data_seed": 1})

    assert one.examples("train", "en", None) == get_task(name).examples("train", "en", None)
    assert one.examples("train", "en", None) != other.examples("train", "en", None)
    assert one.identity(["en"], None) != other.identity(["en"], None)


@pytest.mark.parametrize("name", [*CLASSIFYING, "offline_choice"])
def test_generated_example_means_the_same_in_every_language(name: str) -> None:
    labels = {language: [e.label for e in get_task(name).examples("test", language, None)] for language in LANGUAGES}
    texts = {language: {e.text for e in get_task(name).examples("test", language, None)} for language in LANGUAGES}

    assert len({tuple(found) for found in labels.values()}) == 1
    assert not texts["en"] & texts["de"]


def test_generated_entities_are_the_same_in_every_language() -> None:
    """As many of each type in the n-th sentence, whatever their order; firms and people have the same names."""
    task = get_task("offline_ner", {"noise": 0})
    found = {}
    for language in LANGUAGES:
        sentences = task.examples("test", language, None)
        found[language] = [sorted(task.labels[tag] for tag in e.tags if tag) for e in sentences]

    assert len({repr(tags) for tags in found.values()}) == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_generated_answers_stand_where_they_say(language: str) -> None:
    for example in get_task("offline_qa").examples("train", language, None):
        (answer,) = example.answers
        assert example.context[answer.start :].startswith(answer.text)
        assert f"{answer.text} " in example.context


@pytest.mark.parametrize("name", ["offline_ner", "offline_qa", "offline_choice"])
def test_right_answers_reach_the_ceiling_and_no_more(name: str) -> None:
    """What a perfect reader scores against the noisy data is what the task says nobody can beat, to sampling error."""
    task, metric = get_task(name, {"test_examples": 3000}), get_metric(get_task(name).metric)
    family = family_of(task, Training(learning_rate=1))
    clean = get_task(name, {"test_examples": 3000, "noise": 0}).examples("test", "en", None)
    noisy = task.examples("test", "en", None)
    right = [family.gold(example) for example in clean]
    if name == "offline_qa":
        right = [texts[0] for texts in right]

    assert [without_target(e) for e in clean] == [without_target(e) for e in noisy]
    score = metric.compute([family.gold(example) for example in noisy], right)
    assert score == pytest.approx(task.ceiling(), abs=0.015)
    assert 0.9 < score < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFYING)
@given(noise=st.just(0.0) | st.floats(0.01, 0.49), seed=st.integers(0, 3))
def test_noise_replaces_that_share_of_the_labels(name: str, noise: float, seed: int) -> None:
    """With and without noise the texts are the same, and labels differ in about that share: four standard errors."""
    size = {"test_examples": 400, "data_seed": seed}
    clean = get_task(name, {**size, "noise": 0}).examples("test", "en", None)
    noisy = get_task(name, {**size, "noise": noise}).examples("test", "en", None)
    changed = sum(a.label != b.label for a, b in zip(clean, noisy, strict=True))

    assert [(e.text, e.text_pair) for e in clean] == [(e.text, e.text_pair) for e in noisy]
    assert abs(changed / 400 - noise) <= 4 * (noise * (1 - noise) / 400) ** 0.5
    assert get_task(name, {"noise": noise}).ceiling() == 1 - noise


@pytest.mark.parametrize("name", OFFLINE)
def test_clean_data_are_decidable(name: str) -> None:
    """Without noise the same text never has two answers: nothing but the noise keeps a reader from a full score."""
    examples = get_task(name, {"noise": 0, "train_examples": 3000}).examples("train", "en", None)
    answers: dict[str, set[Any]] = {}
    for example in examples:
        answers.setdefault(repr({**without_target(example), "id": ""}), set()).add(target(example))

    assert all(len(found) == 1 for found in answers.values())


@pytest.mark.parametrize("name", CLASSIFYING)
def test_generated_labels_are_balanced(name: str) -> None:
    task = get_task(name, {"test_examples": 3000})
    counts = Counter(example.label for example in task.examples("test", "en", None))

    assert len(counts) == len(task.labels)
    assert max(counts.values()) / 3000 < 1 / len(task.labels) + 0.05


def test_test_vocabulary_is_held_out_of_train() -> None:
    task = get_task("offline_sentiment")
    words = {s: {w for e in task.examples(s, "en", None) for w in e.text.split()} for s in ("train", "test")}

    assert {"superb", "fascinating", "tedious"} <= words["test"] - words["train"]

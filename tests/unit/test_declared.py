"""The declared data sets, tasks and suites: no language under another's name, none twice, nothing dropped."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapeff.service.errors import DataError
from adapeff.service.plugins.catalog import get_suite, get_task, suites, tasks
from adapeff.service.specs.job import Training
from adapeff.worker.families import FAMILIES
from adapeff.worker.tasks.declared import DeclaredTask
from adapeff.worker.tasks.hub import HUB_TASKS, VERIFIED, hub_data_sets
from adapeff.worker.tasks.verification import verify

# Names that data sets give a language beside its code: ISO 639-3, English, and the hub's own (Bodo is brx, but
# IndicSentiment says bd). Written here from the standard, not from the declarations.
OTHER_NAMES = {
    "am": "amh", "ar": "arabic", "brx": "bd", "de": "german", "en": "english", "es": "spanish", "fr": "french",
    "ha": "hau", "hi": "hindi", "ig": "ibo", "it": "italian", "lg": "lug", "om": "orm", "pt": "por portuguese",
    "rw": "kin", "sw": "swa", "ti": "tir", "ts": "tso", "tw": "twi", "wo": "wol", "yo": "yor",
}  # fmt: skip
INDIC = {"as", "bn", "gu", "hi", "kn", "ml", "mr", "or", "pa", "ta", "te"}


@pytest.mark.parametrize("name", sorted(hub_data_sets()))
def test_each_language_is_read_from_its_own_configuration(name: str) -> None:
    """Urdu was reported as Sindhi in the study's COPA scripts, and three languages were tested twice."""
    data_set = hub_data_sets()[name]
    told_apart = [(config, data_set.prefixes.get(language)) for language, config in data_set.languages.items()]

    assert len(set(told_apart)) == len(told_apart)
    for language, config in data_set.languages.items():
        words = set(re.split(r"[.-]", config))
        named = words & {language, *OTHER_NAMES.get(language, "").split()}
        assert named or len(data_set.languages) == 1 or data_set.prefixes, f"{language} is read from {config}"
        others = {other for other in (*OTHER_NAMES, *INDIC) if other in words} - {language}
        assert not others, f"{language} is read from {config}"


@pytest.mark.parametrize("task", HUB_TASKS, ids=lambda task: task.name)
def test_declared_task_is_sound(task: DeclaredTask) -> None:
    assert task.languages[0] == task.source_language or task.source_language in task.tests
    assert set(task.tests) == set(task.languages)
    assert task.licence and task.title and not task.title.endswith(".")
    assert FAMILIES[task.family](task.labels, Training(learning_rate=1)).name == task.family
    for language, data_set in task.tests.items():
        assert language in data_set.languages
        assert "test" in data_set.splits
        assert data_set.family == task.family
    assert "train" in task.train.splits


def test_what_is_selected_on_is_never_what_is_tested() -> None:
    """Of one data set, no split of the hub serves as validation and as test (the study's SQuAD and Social IQa did)."""
    for task in HUB_TASKS:
        selection = task.train.splits.get("validation")
        for data_set in task.tests.values():
            if data_set.hub == task.train.hub and selection is not None:
                assert data_set.splits["test"] != selection


def test_no_pin_is_claimed_that_was_not_seen() -> None:
    pins = json.loads(VERIFIED.read_text(encoding="utf-8"))
    for data_set in hub_data_sets().values():
        assert (data_set.revision, data_set.verified) == (pins.get(data_set.hub), data_set.hub in pins)


def test_indic_suite_has_its_six_tasks_in_their_languages() -> None:
    tested = {name: set(get_task(name).languages) - {"en"} for name in get_suite("indic").tasks}

    assert tested["indicxnli"] == tested["naamapadam"] == tested["indicqa"] == INDIC
    assert tested["indicxparaphrase"] == INDIC - {"ta"}  # the hub has no Tamil
    assert tested["indicsentiment"] == INDIC | {"brx", "ur"}
    assert tested["indiccopa"] == INDIC | {"gom", "mai", "ne", "sa", "sat", "sd", "ur"}
    assert {get_task(name).source_language for name in get_suite("indic").tasks} == {"en"}
    assert len({get_task(name).title.split(":")[0] for name in get_suite("indic").tasks}) == 6


def test_xlmr_suite_has_the_languages_of_the_study() -> None:
    expected = {"en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"}

    assert set(get_task("xnli").languages) == expected
    assert set(get_task("wikiann").languages) >= expected
    assert set(get_task("xquad").languages) >= expected - {"bg", "fr", "sw", "ur"}


def test_every_generated_task_is_in_three_languages_or_more() -> None:
    offline = [task for name, task in tasks().items() if name.startswith("offline_")]

    assert set(get_suite("offline").tasks) <= {task.name for task in offline}
    assert {task.family for task in offline} == set(FAMILIES)
    assert all(len(task.languages) >= 3 for task in offline)


def test_every_task_of_a_suite_exists() -> None:
    for suite in suites().values():
        assert {name.partition("[")[0] for name in suite.tasks} <= set(tasks())


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_sentences_with_misc_stay_and_misc_counts_as_outside(tmp_path: Path) -> None:
    """The study removed them from train and test, a fifth of the data."""
    rows = [{"tokens": ["The", "British", "queen"], "ner_tags": [0, 7, 1]}, {"tokens": ["He"], "ner_tags": [0]}]
    for split in ("train", "validation", "test"):
        write(tmp_path / f"ner/conll2003/conll2003/{split}.jsonl", rows)
    task = get_task("naamapadam")

    examples = task.examples("train", "en", tmp_path)

    assert [[task.labels[tag] for tag in example.tags] for example in examples] == [["O", "O", "B-PER"], ["O"]]
    assert task.examples("test", "en", tmp_path) == examples
    assert "B-MISC" in get_task("conll2003").labels


def test_labels_of_another_order_keep_their_names(tmp_path: Path) -> None:
    """AfriSenti's 0 is positive; IndicSentiment's labels are words, and anything but the two is refused."""
    write(tmp_path / "sentiment/afrisenti/hau/test.jsonl", [{"tweet": "t", "label": n} for n in range(3)])
    folder = tmp_path / "sentiment/indicsentiment/translation-bd"
    write(folder / "test.jsonl", [{"INDIC REVIEW": "r", "LABEL": x} for x in ("Positive", "Negative", None)])
    afrisenti, indic = get_task("afrisenti"), get_task("indicsentiment")

    def named(task: Any, language: str) -> list[str]:
        return [task.labels[example.label] for example in task.examples("test", language, tmp_path)]

    assert named(afrisenti, "ha") == ["positive", "neutral", "negative"]
    assert named(indic, "brx") == ["positive", "negative"]
    write(folder / "test.jsonl", [{"INDIC REVIEW": "r", "LABEL": "positive "}])
    with pytest.raises(DataError, match="unknown label 'positive '; expected 'Negative', 'Positive'"):
        named(indic, "brx")


def test_questions_without_an_answer_are_left_out_where_declared(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "context": "abc", "question": "q", "answers": {"text": ["b"], "answer_start": [1]}},
        {"id": "2", "context": "abc", "question": "q", "answers": {"text": [""], "answer_start": [None]}},
        {"id": "3", "context": "abc", "question": "q", "answers": {"text": [], "answer_start": []}},
    ]
    write(tmp_path / "qa/indicqa/indicqa.hi/test.jsonl", rows)
    write(tmp_path / "qa/xquad/xquad.hi/test.jsonl", rows)

    assert len(get_task("indicqa").examples("test", "hi", tmp_path)) == 1
    with pytest.raises(DataError, match=r"xquad.hi/test.jsonl, row 2: the question has no answer"):
        get_task("xquad").examples("test", "hi", tmp_path)


def test_selection_is_held_out_by_whole_articles(tmp_path: Path) -> None:
    """No article is on both sides, about a tenth is held out, and the official validation split is the test."""
    rows = [
        {"id": str(i), "title": f"article {i // 10}", "context": f"c {i}", "question": "q",
         "answers": {"text": ["c"], "answer_start": [0]}}
        for i in range(200)
    ]  # fmt: skip
    folder = tmp_path / "qa/squad/plain_text"
    write(folder / "train.jsonl", rows)
    write(folder / "validation.jsonl", [{**rows[0], "context": "c dev"}])
    task = get_task("squad")

    train, held_out, test = (task.examples(split, "en", tmp_path) for split in ("train", "validation", "test"))

    assert [example.context for example in test] == ["c dev"]
    assert (len(train), len(held_out)) == (180, 20)
    articles = [{int(e.id) // 10 for e in some} for some in (train, held_out)]
    assert not articles[0] & articles[1]


def test_paws_rows_that_paws_x_is_made_of_are_not_selected_on(tmp_path: Path) -> None:
    """PAWS-X's tests are translations of PAWS's validation rows: a local copy of these must not select for it."""
    rows = [{"id": i, "sentence1": f"a {i}", "sentence2": "b", "label": i % 2} for i in range(60)]
    for split, some in (("train", rows[:40]), ("validation", rows[40:50]), ("test", rows[50:])):
        write(tmp_path / f"paraphrase/paws/labeled_final/{split}.jsonl", some)
    write(tmp_path / "paraphrase/paws-x/de/test.jsonl", rows[40:50])
    task = get_task("paws-x")

    selected, trained = (task.examples(split, "en", tmp_path) for split in ("validation", "train"))

    assert (len(selected), len(trained)) == (4, 36)
    assert {int(e.id) for e in (*selected, *trained)} == set(range(40))
    assert task.identity(["de"], tmp_path) != get_task("paws").identity(["en"], tmp_path)


def test_one_configuration_of_several_languages_is_told_apart_by_its_ids(tmp_path: Path) -> None:
    answers = {"text": ["c"], "answer_start": [0]}
    rows = [
        {"id": f"{language}-{i}", "title": f"t{i}", "context": f"c {language}", "question": "q", "answers": answers}
        for language in ("english", "arabic", "swahili")
        for i in range(12)
    ]
    for split in ("train", "validation"):
        write(tmp_path / f"qa/tydiqa/secondary_task/{split}.jsonl", rows)
    task = get_task("tydiqa", {"source_language": "sw"})

    assert {e.context for e in task.examples("train", "sw", tmp_path)} == {"c swahili"}
    assert {e.context for e in task.examples("test", "ar", tmp_path)} == {"c arabic"}


def test_every_language_with_training_data_can_be_the_source(tmp_path: Path) -> None:
    for config in ("hau", "yor"):
        for split in ("train", "validation", "test"):
            write(tmp_path / f"ner/masakhaner/{config}/{split}.jsonl", [{"tokens": [config], "ner_tags": [1]}] * 2)
    default, yoruba = get_task("masakhaner"), get_task("masakhaner", {"source_language": "yo"})

    assert default.examples("train", default.source_language, tmp_path)[0].tokens == ("hau",)
    assert yoruba.examples("train", yoruba.source_language, tmp_path)[0].tokens == ("yor",)
    assert default.identity(["ha"], tmp_path).fingerprint != yoruba.identity(["ha"], tmp_path).fingerprint
    assert default.identity(["ha"], tmp_path).test_fingerprint == yoruba.identity(["ha"], tmp_path).test_fingerprint


def test_test_data_of_another_set_are_part_of_the_identity(tmp_path: Path) -> None:
    answers = {"text": ["c"], "answer_start": [0]}
    row = {"id": "1", "title": "t", "context": "c", "question": "q", "answers": answers}
    for split in ("train", "validation", "test"):
        write(tmp_path / f"qa/squad/plain_text/{split}.jsonl", [row])
    write(tmp_path / "qa/xquad/xquad.en/test.jsonl", [row])
    task = get_task("xquad")
    before = task.identity(["en"], tmp_path)
    write(tmp_path / "qa/xquad/xquad.en/test.jsonl", [{**row, "context": "c c"}])
    after = task.identity(["en"], tmp_path)

    assert before.fingerprint == after.fingerprint == get_task("squad").identity(["en"], tmp_path).fingerprint
    assert before.test_fingerprint != after.test_fingerprint


@pytest.mark.slow
def test_every_real_data_set_is_read_as_declared(real_data: Path) -> None:
    """Row counts as the data's own description states them; whatever is not as declared would be an error."""
    sizes = {}
    for task in HUB_TASKS:
        if all(
            data_set.local_root(real_data) is not None for data_set in {id(d): d for d in task.tests.values()}.values()
        ):
            train = task.examples("train", task.source_language, real_data)
            tests = [task.examples("test", language, real_data) for language in task.available_languages(real_data)]
            sizes[task.name] = (len(train), len(tests), sum(map(len, tests)))

    assert sizes == {
        "xnli": (8000, 10, 9990),
        "paws": (4800, 1, 1000),
        "paws-x": (4320, 7, 5012),
        "sst2": (8000, 1, 910),
        "tweet_sentiment_multilingual": (900, 8, 3440),
        "afrisenti": (600, 6, 3000),
        "wikiann": (4500, 10, 5000),
        "masakhaner": (300, 5, 1250),
        "squad": (2452, 1, 247),
        "xquad": (2452, 6, 1320),
        "social_i_qa": (8000, 1, 500),
        "xcopa": (8000, 10, 2561),
    }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that says of every data set that it stands at one commit."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"sha": "c" * 40}).encode())

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield
    server.shutdown()
    server.server_close()


def test_verify_pins_what_reads_well_and_says_what_does_not(hub: None, tmp_path: Path) -> None:
    """The rows come from folders in the hub's form, through the same library; the commits from a server."""
    for name, label in (("good", 1), ("bad", 5)):
        for split in ("train", "validation"):
            write(tmp_path / name / f"{split}.jsonl", [{"idx": 0, "sentence": "x", "label": label}])
    declared = hub_data_sets()["sst2"]
    good, bad = (declared.model_copy(update={"hub": str(tmp_path / name)}) for name in ("good", "bad"))
    pins = tmp_path / "verified.json"

    found = list(verify([good, bad], pins))

    assert [one["commit"] for one in found] == ["c" * 40] * 2
    assert found[0]["faults"] == []
    assert "unknown label 5; expected 0 (negative), 1 (positive)" in found[1]["faults"][0]
    assert json.loads(pins.read_text()) == {good.hub: "c" * 40}


def test_verify_without_the_hub_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="the hub does not say which commit 'stanfordnlp/sst2' is at; check the connection"
    ):
        list(verify([hub_data_sets()["sst2"]], tmp_path / "verified.json"))

"""A user's own data: described in a file, looked over, submitted, run; what is wrong with them is said in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Adapeff, show, write_rows

DESCRIBED: dict[str, dict[str, Any]] = {
    "reviews": {
        "family": "sequence_classification",
        "columns": {"id": "nr", "text": "review", "label": "verdict"},
        "labels": ["bad", "good"],
        "languages": {"en": "english", "de": "german"},
    },
    "names": {"family": "token_classification", "columns": {"tokens": "words", "tags": "tags"}},
    "answers": {
        "family": "question_answering",
        "columns": {"question": "q", "context": "text", "answer_text": "a", "answer_start": "at"},
    },
    "choices": {
        "family": "multiple_choice",
        "columns": {"text": "text", "choices": "options", "label": "right"},
    },
}


def row(kind: str, at: int) -> dict[str, Any]:
    """A sound row of each kind."""
    letter = chr(97 + at % 26)
    rows: dict[str, dict[str, Any]] = {
        "reviews": {"nr": at, "review": f"the film was {'good' if at % 2 else 'bad'} {letter}", "verdict": at % 2},
        "names": {"words": ["the", letter, "was", "bad"], "tags": ["O", "B-PER" if at % 2 else "B-LOC", "O", "O"]},
        "answers": {"q": "was it ?", "text": f"the film was {letter}", "a": "film", "at": 4},
        "choices": {"text": f"film {letter}", "options": ["good", "bad", "not"][: 2 + at % 2], "right": at % 2},
    }
    return rows[kind]


def make_task(folder: Path, kind: str = "reviews", **changes: Any) -> Path:
    """A folder with a sound task in it."""
    described = {**DESCRIBED[kind], **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    for place in described.get("languages", {"und": "."}).values():
        for split, (first, last) in {"train": (0, 40), "validation": (40, 52), "test": (52, 78)}.items():
            write_rows(folder / place / f"{split}.jsonl", [row(kind, at) for at in range(first, last)])
    return folder


def lines(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the lines of a file."""
    file.write_text("".join(change(file.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8")


def put(file: str, line: int, **values: Any) -> Callable[[Path], None]:
    """Change some values of a row; None takes the column out."""

    def change(folder: Path) -> None:
        def changed(text: list[str]) -> list[str]:
            merged = {**json.loads(text[line]), **values}
            text[line] = json.dumps({key: value for key, value in merged.items() if value is not None}) + "\n"
            return text

        lines(folder / file, changed)

    return change


def to_csv(folder: Path, spoil: str) -> None:
    """The training file as CSV, with a line added."""
    file = folder / "english" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    with (folder / "english" / "train.csv").open("w", newline="") as made:
        writer = csv.DictWriter(made, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        made.write(spoil)


def squad_form(folder: Path, answers: dict[str, Any]) -> None:
    """The answers in SQuAD's form, those of the first training row as given."""
    described = {**DESCRIBED["answers"], "columns": {"question": "q", "context": "text", "answers": "answers"}}
    (folder / "task.yaml").write_text(yaml.safe_dump(described))
    put("train.jsonl", 0, answers=answers)(folder)
    for split, count in (("train", 40), ("validation", 12), ("test", 26)):
        for at in range(count):
            if (split, at) != ("train", 0):
                put(f"{split}.jsonl", at, answers={"text": ["film"], "answer_start": [4]})(folder)


def twice(folder: Path) -> None:
    """A CSV whose heading names a column twice."""
    to_csv(folder, "")
    lines(folder / "english/train.csv", lambda text: [text[0].replace("nr", "verdict"), *text[1:]])


def grouped(folder: Path) -> None:
    """A group column with a list in it, and nothing to select on but what is held out."""
    lines(folder / "task.yaml", lambda text: [*text, "group: where\n"])
    (folder / "english/validation.jsonl").unlink()
    put(TRAIN, 0, where=["a"])(folder)


@dataclass(frozen=True)
class Broken:
    """A way to break a sound folder, and what must be said of it."""

    name: str
    kind: str
    spoil: Callable[[Path], Any]
    says: str


TRAIN, GERMAN = "english/train.jsonl", "german/test.jsonl"
BROKEN = [
    Broken("missing column", "reviews", put(TRAIN, 2, review=None), "row 3: no column 'review'; found: nr, verdict"),
    Broken("empty split", "reviews", lambda f: lines(f / GERMAN, lambda _: []),
           "german/test.jsonl contains no examples"),
    Broken("missing file", "reviews", lambda f: (f / TRAIN).unlink(), "has no train data in 'en'"),
    Broken("label out of range", "reviews", put(TRAIN, 0, verdict=7),
           "row 1: unknown label 7; expected 0 (bad), 1 (good)"),
    Broken("unknown label of a test language", "reviews", put(GERMAN, 4, verdict="gut"),
           "german/test.jsonl, row 5: unknown label 'gut'; expected 0 (bad), 1 (good)"),
    Broken("tags shorter than tokens", "names", put("train.jsonl", 1, tags=["O", "O"]),
           "row 2: 4 tokens but 2 tags; expected one tag a token"),
    Broken("tag that is none", "names", put("train.jsonl", 1, tags=["O", "PER", "O", "O"]),
           "train.jsonl, row 2: 'PER' is not a tag; expected O, or B-, I-, E- or S- and a type"),
    Broken("tag that training does not know", "names", put("test.jsonl", 0, tags=["O", "B-ORG", "O", "O"]),
           "names/test.jsonl, row 1: unknown label 'B-ORG'; expected 0 (O), 1 (B-LOC), 2 (B-PER)"),
    Broken("span off by one", "answers", put("train.jsonl", 5, at=3),
           "row 6: the answer 'film' is not at character 3 of the context, which has ' fil' there; it is at 4"),
    Broken("answer that is not there", "answers", put("test.jsonl", 0, a="book"), "it is not in the context"),
    Broken("question without an answer", "answers", put("train.jsonl", 0, a=""), "row 1: the question has no answer"),
    Broken("choice out of range", "choices", put("train.jsonl", 0, right=2), "row 1: unknown label 2; expected 0 to 1"),
    Broken("one choice only", "choices", put("train.jsonl", 0, options=["good"]),
           "row 1: 1 choice(s), expected at least two"),
    Broken("mixed types", "reviews", put(TRAIN, 9, review=12), "row 10: 'review' is 12, expected text"),
    Broken("blank text", "reviews", put(TRAIN, 9, review="  "), "row 10: 'review' is empty, expected text"),
    Broken("duplicate ids", "reviews", put(TRAIN, 7, nr=3),
           "row 8: the id 3 appears in row 4 too; make the ids unique"),
    Broken("not UTF-8", "reviews", lambda f: (f / TRAIN).write_bytes("größer".encode("latin-1")), "is not UTF-8 text"),
    Broken("huge line", "reviews", lambda f: (f / TRAIN).write_text("[" + "1," * 6_000_000),
           "line 1: longer than 10,000,000 characters; expected one example"),
    Broken("not JSON", "reviews", lambda f: lines(f / TRAIN, lambda t: [*t, "{'a': 1}\n"]), "line 41: not JSON"),
    Broken("CSV with a field too many", "reviews", lambda f: to_csv(f, "99,good, bad,1\n"),
           "train.csv, line 42: 4 fields, but the first line names 3"),
    Broken("two files for a split", "reviews", lambda f: (f / "english/train.csv").write_text("a\n"),
           "contains train.csv and train.jsonl; keep only one of them"),
    Broken("not Parquet", "reviews", lambda f: (f / TRAIN).rename(f / "english/train.parquet"),
           "is not a Parquet file"),
    Broken("half a surrogate pair", "reviews", put(TRAIN, 3, review="a \ud800 b"),
           "row 4: 'review' is 'a \\ud800 b', expected text without half a surrogate pair"),
    Broken("answers that are no list", "answers",
           lambda f: squad_form(f, {"text": "film", "answer_start": [4, 5, 6, 7]}),
           "expected {text: [...], answer_start: [...]} of equal length"),
    Broken("blank answer", "answers", put("train.jsonl", 0, a=" ", at=3),
           "row 1: the answer is blank (' '), expected text from the context"),
    Broken("repeated column", "reviews", twice, "train.csv, line 1: the column 'verdict' appears twice"),
    Broken("group that is a list", "reviews", grouped, "row 1: the group 'where' is ['a'], expected text or a number"),
    Broken("folder elsewhere", "reviews",
           lambda f: lines(f / "task.yaml", lambda t: [x.replace("german", "/tmp") for x in t]),
           "the folder of 'de' is '/tmp', expected one below"),
    Broken("metric of another family", "reviews",
           lambda f: lines(f / "task.yaml", lambda t: [*t, "metric: squad_f1\n"]),
           "metric 'squad_f1' does not fit sequence_classification; these do: accuracy, "),
    Broken("unknown metric", "reviews", lambda f: lines(f / "task.yaml", lambda t: [*t, "metric: acuracy\n"]),
           "unknown metric 'acuracy'; did you mean 'accuracy'?"),
    Broken("number that values does not name", "reviews",
           lambda f: lines(f / "task.yaml", lambda t: [*t, "values: {'0': good}\n"]),
           "unknown label 1; expected '0'"),
    Broken("number of 5,000 digits", "reviews", lambda f: lines(f / TRAIN, lambda t: ['{"nr": ' + "1" * 5000 + "}\n"]),
           "line 1: not JSON (Exceeds the limit (4300 digits)"),
    Broken("repeated key", "reviews",
           lambda f: lines(f / TRAIN, lambda t: ['{"nr": 1, "review": "a", "verdict": 0, "verdict": 1}\n', *t]),
           "line 1: not JSON (the key 'verdict' appears twice)"),
    Broken("group column that is not there", "reviews",
           lambda f: lines(f / "task.yaml", lambda t: [*t, "group: topic\n"]), "row 1: no group column 'topic'"),
    Broken("misspelt folder", "reviews",
           lambda f: lines(f / "task.yaml", lambda t: [x.replace("german", "germn") for x in t]),
           "'reviews' has no test data in 'de'; expected"),
    Broken("misspelt column", "reviews",
           lambda f: lines(f / "task.yaml", lambda t: [x.replace("text:", "txt:") for x in t]),
           "columns names 'txt': unknown key; did you mean 'text'?"),
    Broken("misspelt key", "reviews", lambda f: lines(f / "task.yaml", lambda t: [*t, "colums: {}\n"]),
           "unknown key 'colums'; did you mean 'columns'?"),
    Broken("unknown family", "reviews",
           lambda f: lines(f / "task.yaml", lambda t: [x.replace("sequence_class", "sequense_class") for x in t]),
           "'family' is 'sequense_classification': unknown family; did you mean 'sequence_classification'?"),
    Broken("column not declared", "reviews",
           lambda f: lines(f / "task.yaml", lambda t: [x.replace("  label: verdict\n", "") for x in t]),
           "'reviews' declares no column for 'label'"),
]  # fmt: skip


@pytest.fixture
def swept(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep over the task in ./reviews, ./names, ..., whichever is asked for."""
    monkeypatch.setenv("ADAPEFF_STATE_DIR", str(tmp_path / "state"))
    file = tmp_path / "own.yaml"
    settings = {"epochs": 1, "max_length": 32, "latency_seconds": 0.05, "latency_batches": [1], "device": "cpu"}
    sweep = {"models": [str(tiny_model)], "tasks": ["./reviews"], "methods": ["full"], "settings": settings}
    file.write_text(yaml.safe_dump(sweep))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=[broken.name for broken in BROKEN])
def test_broken_data_are_refused_in_one_line(broken: Broken, adapeff: Adapeff, swept: Path, tmp_path: Path) -> None:
    folder = make_task(tmp_path / broken.kind, broken.kind)
    broken.spoil(folder)

    validated = adapeff("tasks", "validate", f"./{broken.kind}")
    submitted = adapeff("submit", swept, "--tasks", f"./{broken.kind}")

    assert (validated.returncode, submitted.returncode) == (1, 1)
    said = [line for line in (validated.stdout + validated.stderr).splitlines() if broken.says in line]
    assert said, validated.stdout + validated.stderr
    assert "Traceback" not in validated.stderr + submitted.stderr
    assert len(submitted.stderr.strip().splitlines()) == 1
    assert broken.says in submitted.stderr
    assert not json.loads(adapeff("status", "--json").stdout)["jobs"]


def test_sound_data_pass_and_what_may_mislead_is_named(adapeff: Adapeff, swept: Path, tmp_path: Path) -> None:
    folder = make_task(tmp_path / "reviews")
    lines(folder / GERMAN, lambda text: [*text, (folder / TRAIN).read_text().splitlines(keepends=True)[0]])
    put(TRAIN, 5, review="The  film was GOOD b", nr=1000, verdict=0)(folder)

    done = adapeff("tasks", "validate", "./reviews", "--json")

    assert done.returncode == 0, done.stderr
    found = {(part["split"], part["language"]): part for part in json.loads(done.stdout)}
    assert [part["examples"] for part in found.values()] == [40, 12, 26, 27]
    assert found["train", "en"]["labels"] == {"bad": 21, "good": 19}
    assert found["train", "en"]["length_max"] == 5
    assert found["train", "en"]["warnings"][0].startswith("14 examples repeat an earlier one (id 26")
    assert found["train", "en"]["warnings"][1] == "1 texts appear with different labels (id 27)"
    assert any("are also in train" in warning for warning in found["test", "de"]["warnings"])


def test_lengths_are_counted_in_a_models_tokens(
    adapeff: Adapeff, swept: Path, tmp_path: Path, tiny_model: Path
) -> None:
    make_task(tmp_path / "reviews")

    done = adapeff("tasks", "validate", "./reviews", "--model", tiny_model, "--max-length", "8", "--json")

    part = json.loads(done.stdout)[0]
    assert (part["length_unit"], part["length_max"]) == ("tokens", 7)  # [CLS] the film was good x [SEP]
    assert part["cut"] == 0
    shown = adapeff("tasks", "validate", "./reviews")
    assert "0 errors, " in shown.stdout
    assert "bad 50 %, good 50 %" in shown.stdout


@pytest.mark.parametrize("kind", sorted(DESCRIBED))
def test_own_task_of_each_family_runs(kind: str, adapeff: Adapeff, swept: Path, tmp_path: Path) -> None:
    make_task(tmp_path / kind, kind)

    done = adapeff("run", swept, "--tasks", f"./{kind}", "--json")

    assert done.returncode == 0, done.stderr
    view = show(adapeff, 1)
    metric = {"names": "entity_f1", "answers": "squad_f1"}.get(kind, "accuracy")
    scored = [m for m in view["measurements"] if m["name"] == metric and m.get("split") == "test"]
    assert {m["language"] for m in scored} == ({"en", "de"} if kind == "reviews" else {"und"})
    assert all(0 <= m["value"] <= 1 for m in scored)


def test_same_data_elsewhere_are_the_same_job(adapeff: Adapeff, swept: Path, tmp_path: Path) -> None:
    """Content counts, not the place; another declaration is another job."""
    make_task(tmp_path / "reviews")
    make_task(tmp_path / "moved", name="reviews")
    make_task(tmp_path / "merged", merge={"bad": "good", "good": "bad"})

    first = adapeff("submit", swept)
    again = adapeff("submit", swept, "--tasks", "./moved/task.yaml")
    other = adapeff("submit", swept, "--tasks", "./merged")

    assert "1 jobs (1 new)" in first.stdout
    assert "1 jobs (1 already submitted)" in again.stdout
    assert "1 jobs (1 new)" in other.stdout


def test_copied_folder_selects_on_the_same_examples(adapeff: Adapeff, swept: Path, tmp_path: Path) -> None:
    """Without a validation file a tenth of train is held out, whatever the folder is called."""
    from adapeff.service.plugins.catalog import get_task

    held_out = []
    for name in ("one", "two"):
        folder = make_task(tmp_path / name)
        (folder / "english/validation.jsonl").unlink()
        held_out.append([e.id for e in get_task(str(folder)).examples("validation", "en", None)])

    assert held_out[0] == held_out[1]
    assert len(held_out[0]) == 4


def test_another_test_language_trains_nothing_anew(tmp_path: Path) -> None:
    from adapeff.service.plugins.catalog import get_task

    both, one = make_task(tmp_path / "both"), make_task(tmp_path / "one", languages={"en": "english"})
    ours, theirs = (get_task(str(folder)).identity(["en"], None) for folder in (both, one))
    further = make_task(tmp_path / "further", further_metrics=["matthews_correlation"])

    assert ours == theirs
    measured = get_task(str(further)).identity(["en"], None)
    assert (measured.fingerprint == ours.fingerprint, measured.test_fingerprint == ours.test_fingerprint) == (
        True,
        False,
    )


def test_numbers_are_names_where_all_labels_are_numbers(tmp_path: Path) -> None:
    """One to five stars: 1 is the first star, not the second label; text and number mean the same."""
    from adapeff.service.plugins.catalog import get_task

    folder = make_task(tmp_path / "stars", labels=["1", "2", "3"])
    for split in ("train", "validation", "test"):
        rows = [{"nr": i, "review": "x", "verdict": [1, "2", 3][i]} for i in range(3)]
        write_rows(folder / f"english/{split}.jsonl", rows)
    task = get_task(str(folder))

    assert [task.labels[e.label] for e in task.examples("train", "en", None)] == ["1", "2", "3"]


def test_report_needs_the_description_no_longer(adapeff: Adapeff, swept: Path, tmp_path: Path) -> None:
    folder = make_task(tmp_path / "names", "names", licence="ours alone", non_commercial=True)
    assert adapeff("run", swept, "--tasks", "./names").returncode == 0
    (folder / "task.yaml").unlink()

    shown = adapeff("report", "--view", "full", "--format", "markdown").stdout

    assert "entity_f1 und" in shown
    assert "Data: ours alone. **Non-commercial use only.**" in shown


def test_other_forms_of_file_hold_the_same(adapeff: Adapeff, swept: Path, tmp_path: Path) -> None:
    """CSV with numbers as text, TSV with label names, Parquet."""
    import pyarrow
    import pyarrow.parquet

    folder = make_task(tmp_path / "reviews")
    to_csv(folder, "")
    rows = [json.loads(line) for line in (folder / GERMAN).read_text().splitlines()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "german" / "test.parquet")
    (folder / GERMAN).unlink()
    test = folder / "english" / "test.jsonl"
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    named = [f"{r['nr']}\t{r['review']}\t{['bad', 'good'][r['verdict']]}\n" for r in rows]
    test.with_suffix(".tsv").write_text("nr\treview\tverdict\n" + "".join(named))
    test.unlink()

    done = adapeff("tasks", "validate", "./reviews", "--json")

    assert done.returncode == 0, done.stderr + done.stdout
    labels = {(p["split"], p["language"]): p["labels"] for p in json.loads(done.stdout)}
    assert labels["train", "en"] == {"bad": 20, "good": 20}
    assert labels["test", "en"] == labels["test", "de"] == {"bad": 13, "good": 13}


def test_folder_without_a_description_says_what_to_write(adapeff: Adapeff, swept: Path, tmp_path: Path) -> None:
    (tmp_path / "reviews").mkdir()

    assert "contains no task.yaml; write one with at least family and columns" in adapeff("submit", swept).stderr
    assert "does not exist; name a task" in adapeff("submit", swept, "--tasks", "./nothing.yaml").stderr

"""Data files as people have them: what is unambiguous is read, the rest is said, and nothing is swallowed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.errors import AdapeffError, DataError, SpecError
from adapeff.service.plugins.catalog import get_task
from adapeff.worker.tasks.files import FileForm
from adapeff.worker.tasks.init import write as write_draft
from adapeff.worker.tasks.read_files import Notes, read_rows
from adapeff.worker.tasks.validation import check_task

TEXTS = [f"the film was {'good' if at % 2 else 'bad'} {at}" for at in range(40)]
ROWS = [{"text": text, "label": at % 2} for at, text in enumerate(TEXTS)]
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
TASK = "family: sequence_classification\ncolumns: {text: text, label: label}\nlabels: [bad, good]\n"


def make(folder: Path, files: dict[str, str | bytes], declared: str = TASK) -> Path:
    """A task folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(declared, encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def examples(folder: Path, split: Any = "train") -> Sequence[Any]:
    return get_task(str(folder)).examples(split, "und", None)


def lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_tsv_keeps_quotes_and_every_row(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text('text\tlabel\n"one\t1\ntwo\t0\nthree"\t1\n"four"\t0\n')
    notes = Notes()

    rows = [row.values for row in read_rows([file], FileForm(), notes)]

    assert [row["text"] for row in rows] == ['"one', "two", 'three"', '"four"']
    assert any("1 value(s) are in quotes" in note for note in notes.all())
    quoted = [row.values["text"] for row in read_rows([file], FileForm(quoting="double"))]
    assert quoted == ["one\t1\ntwo\t0\nthree", "four"]


def test_csv_says_where_a_quoted_value_goes_over_lines(tmp_path: Path) -> None:
    folder = make(tmp_path / "t", {"train.csv": CSV + '"one\ntwo",1\n', "test.csv": CSV})

    (train, *_) = check_task(get_task(str(folder)), None)

    assert train["examples"] == 37  # of 41 rows a tenth is held out
    assert "1 row(s) span several lines because of quotes (from line 42)" in train["warnings"]


READ: dict[str, Callable[[], dict[str, str | bytes]]] = {
    "empty line at the end of JSONL": lambda: {"train.jsonl": lines(ROWS) + "\n\n"},
    "empty line at the end of CSV": lambda: {"train.csv": CSV + "\n"},
    "semicolons": lambda: {"train.csv": CSV.replace(",", ";")},
    "gzip": lambda: {"train.csv.gz": gzip.compress(CSV.encode())},
    "gzip of JSONL": lambda: {"train.jsonl.gz": gzip.compress(lines(ROWS).encode())},
    "JSON array": lambda: {"train.json": json.dumps(ROWS)},
    "JSON array under a key": lambda: {"train.json": json.dumps({"version": 1, "data": ROWS})},
    "JSON lines called JSON": lambda: {"train.json": lines(ROWS)},
    "upper case ending": lambda: {"train.JSONL": lines(ROWS)},
    "UTF-16": lambda: {"train.csv": CSV.encode("utf-16")},
    "byte order mark": lambda: {"train.csv": CSV.encode("utf-8-sig")},
    "labels with decimals": lambda: {"train.csv": CSV.replace(",0\n", ",0.0\n").replace(",1\n", ",1.0\n")},
    "hub's parts": lambda: {
        "train-00000-of-00002.jsonl": lines(ROWS[:20]),
        "train-00001-of-00002.jsonl": lines(ROWS[20:]),
    },
}


@pytest.mark.parametrize("kind", list(READ))
def test_what_is_unambiguous_is_read(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / "t", {**READ[kind](), "dev.jsonl": lines(ROWS[:4]), "test.jsonl": lines(ROWS[:6])})

    found = examples(folder)

    assert [(example.text, example.label) for example in found] == [(row["text"], row["label"]) for row in ROWS]
    assert len(examples(folder, "validation")) == 4


def test_parquet_parts_of_the_hub_are_read_in_order(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    folder = make(tmp_path / "t", {"test.jsonl": lines(ROWS[:6]), "val.jsonl": lines(ROWS[:4])})
    for part in (0, 1):
        table = pyarrow.Table.from_pylist(ROWS[20 * part : 20 * part + 20])
        pyarrow.parquet.write_table(table, folder / f"train-0000{part}-of-00002.parquet")

    assert [example.text for example in examples(folder)] == TEXTS
    (folder / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"contains 1 of 2 parts of train-\?-of-00002"):
        examples(folder)


SAID: dict[str, tuple[dict[str, str | bytes], str, str, str]] = {
    "no heading": (
        {"train.csv": CSV.partition("\n")[2]},
        "no column 'text'; found: the film was bad 0, 0",
        "name the columns in task.yaml: `header: [text, label]`",
        "header: [text, label]\n",
    ),
    "other separator": (
        {"train.csv": CSV.replace(",", "|")},
        "no column 'text'; found: text|label",
        '`separator: "|"`',
        'separator: "|"\n',
    ),
    "Latin-1": (
        {"train.csv": CSV.replace("film", "début").encode("latin-1")},
        "is not UTF-8 text",
        "`encoding: latin-1`",
        "encoding: latin-1\n",
    ),
    "ignored label": (
        {"train.csv": CSV + "nothing,-1\n"},
        "unknown label '-1'",
        "`ignore_labels: [-1]`",
        "ignore_labels: [-1]\n",
    ),
    "true and false": (
        {"train.jsonl": lines([{**row, "label": bool(row["label"])} for row in ROWS])},
        "unknown label False",
        '`values: {"True": ..., "False": ...}`',
        'values: {"True": good, "False": bad}\n',
    ),
}


@pytest.mark.parametrize("kind", list(SAID))
def test_what_is_ambiguous_is_named_with_the_line_that_would_read_it(tmp_path: Path, kind: str) -> None:
    files, what, line, added = SAID[kind]
    more = {"dev.jsonl": lines(ROWS[:4]), "test.jsonl": lines(ROWS[:6])}
    spare = {name: content for name, content in more.items() if "header" not in added and "separator" not in added}
    folder = make(tmp_path / "t", {**files, **spare})

    with pytest.raises(DataError, match=r".") as refused:
        examples(folder)

    assert what in str(refused.value) and line in str(refused.value)
    (folder / "task.yaml").write_text(TASK + added)
    if kind == "true and false":
        for name in more:
            (folder / name).write_text(lines([{**row, "label": bool(row["label"])} for row in ROWS[:6]]))
    assert len(examples(folder)) in (36, 40)


@pytest.mark.parametrize("labels", ["[no, yes]", "['no', 'yes']"])
def test_no_and_yes_are_words(tmp_path: Path, labels: str) -> None:
    folder = make(tmp_path / "t", {"train.csv": CSV, "test.csv": CSV}, TASK.replace("[bad, good]", labels))

    assert get_task(str(folder)).labels == ("no", "yes")


def test_every_row_error_names_file_and_row_up_to_five(tmp_path: Path) -> None:
    bad = CSV.replace("bad 0,0", "bad 0,spam").replace("good 3,1", "good 3,eggs")
    folder = make(tmp_path / "t", {"train.csv": bad, "test.csv": CSV})

    with pytest.raises(DataError, match=r".") as refused:
        examples(folder)

    said = str(refused.value)
    assert said.startswith(f"{folder / 'train.csv'}, row 1 (line 2): unknown label 'spam'; expected 0 (bad), 1 (good)")
    assert "; row 4 (line 5): unknown label 'eggs'" in said
    assert "\n" not in said
    (folder / "train.csv").write_text("text,label\n" + "x,spam\n" * 99)
    with pytest.raises(DataError, match=r"row 5 .*; and more$"):
        examples(folder)


def test_link_out_of_the_data_is_not_read(tmp_path: Path) -> None:
    """What it leads to would be shown to whoever sees the job's error."""
    secret = tmp_path / "secret"
    secret.write_text("root:hush,x\n")
    folder = make(tmp_path / "t", {"test.csv": CSV})
    (folder / "train.csv").symlink_to(secret)

    with pytest.raises(DataError, match="is a link to a file outside") as refused:
        examples(folder)

    assert "hush" not in str(refused.value)
    (folder / "train.csv").unlink()
    (folder / "inside.data").write_text(CSV)
    (folder / "train.csv").symlink_to("inside.data")
    assert len(examples(folder)) == 36


def test_description_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush: 1\n")
    folder = make(tmp_path / "t", {"train.csv": CSV, "test.csv": CSV})
    (folder / "task.yaml").unlink()
    (folder / "task.yaml").symlink_to(secret)

    with pytest.raises(SpecError, match="is a link") as refused:
        get_task(str(folder))

    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("labels", ["[false, true]", '["False", "True"]'])
@pytest.mark.parametrize("file", ["train.jsonl", "train.csv"])
def test_boolean_labels_are_read_however_they_are_written(tmp_path: Path, labels: str, file: str) -> None:
    rows = [{"text": f"t {at}", "label": at % 2 == 1} for at in range(4)]
    content = (
        lines(rows) if file.endswith("jsonl") else "text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows)
    )
    declared = f"family: sequence_classification\ncolumns: {{text: text, label: label}}\nlabels: {labels}\n"
    others = dict.fromkeys(("validation.jsonl", "test.jsonl"), lines(rows))
    folder = make(tmp_path / "t", {file: content, **others}, declared)

    assert [example.label for example in examples(folder)] == [0, 1, 0, 1]


def test_numbers_are_names_where_a_label_is_a_number(tmp_path: Path) -> None:
    """Of labels 1, 2, 3+ the row 1 is 1, not the second of them."""
    rows = [{"text": f"t {at}", "label": label} for at, label in enumerate([1, 2, "3+"])]
    declared = "family: sequence_classification\ncolumns: {text: text, label: label}\nlabels: [1, 2, 3+]\n"
    folder = make(
        tmp_path / "t", dict.fromkeys(("train.jsonl", "validation.jsonl", "test.jsonl"), lines(rows)), declared
    )

    assert [example.label for example in examples(folder)] == [0, 1, 2]


def test_values_that_lead_to_no_label_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "t", {"train.csv": CSV}, TASK + 'values: {"True": yes, "False": no}\n')

    with pytest.raises(SpecError, match="values says 'True' is 'yes', which is not a label; expected 'bad', 'good'"):
        get_task(str(folder))


def test_one_file_is_split_by_label_and_always_alike(tmp_path: Path) -> None:
    rows = [{"text": f"t {at}", "label": int(at % 4 == 0)} for at in range(200)]
    folder = make(
        tmp_path / "t", {"all.jsonl": lines(rows)}, TASK + "file: all.jsonl\nsplit: {validation: 0.1, test: 0.2}\n"
    )
    splits = {split: examples(folder, split) for split in ("train", "validation", "test")}

    assert {split: len(found) for split, found in splits.items()} == {"train": 140, "validation": 20, "test": 40}
    assert {split: sum(e.label for e in found) for split, found in splits.items()} == {
        "train": 35,
        "validation": 5,
        "test": 10,
    }
    assert len({example.text for found in splits.values() for example in found}) == 200
    assert splits["test"] == examples(folder, "test")
    (report, *_) = check_task(get_task(str(folder)), None)
    assert any("one file is split: 10% validation, 20% test" in warning for warning in report["warnings"])


@pytest.mark.parametrize("file", ["data.csv", "train.csv"])
def test_the_only_file_of_a_folder_needs_no_name_to_be_split(tmp_path: Path, file: str) -> None:
    rows = "text,label\n" + "".join(f"good film {n},good\nbad film {n},bad\n" for n in range(50))
    declared = (
        "family: sequence_classification\ncolumns: {text: text, label: label}\nsplit: {validation: 0.1, test: 0.2}"
    )
    folder = make(tmp_path / "t", {file: rows}, declared)

    sizes = {split: len(examples(folder, split)) for split in ("train", "validation", "test")}

    assert sizes == {"train": 70, "validation": 10, "test": 20}


def test_which_of_two_files_to_split_is_asked(tmp_path: Path) -> None:
    rows = lines(ROWS)
    folder = make(tmp_path / "t", {"a.jsonl": rows, "b.jsonl": rows}, TASK + "split: {test: 0.2}\n")

    with pytest.raises(DataError, match=r"contains a\.jsonl, b\.jsonl; set the one to split in task\.yaml"):
        examples(folder)


def test_groups_stay_together_when_one_file_is_split(tmp_path: Path) -> None:
    rows = [{"text": f"t {at}", "label": at % 2, "who": at // 5} for at in range(200)]
    declared = TASK + "file: all.jsonl\nsplit: {validation: 0.1, test: 0.2}\ngroup: who\n"
    folder = make(tmp_path / "t", {"all.jsonl": lines(rows)}, declared)
    author = {row["text"]: row["who"] for row in rows}

    found = {split: {author[e.text] for e in examples(folder, split)} for split in ("train", "validation", "test")}

    assert not found["train"] & found["test"] and not found["train"] & found["validation"]
    assert sum(map(len, found.values())) == 40


def test_shares_that_are_too_small_are_refused(tmp_path: Path) -> None:
    declared = TASK + "file: all.csv\nsplit: {validation: 0.1, test: 0.2}\n"
    folder = make(tmp_path / "t", {"all.csv": "text,label\na,0\nb,1\n"}, declared)

    with pytest.raises(DataError, match="has 2 examples, too few to split into"):
        examples(folder, "validation")


CONLL = "-DOCSTART- -X- O O\n\nJohn NNP B-PER\nruns VBZ O\n\nIn IN O\nRome NNP B-LOC\n. . O\n"
TAGS = "family: token_classification\n"


def test_conll_files_are_sentences(tmp_path: Path) -> None:
    folder = make(tmp_path / "t", {f"{split}.conll": CONLL for split in ("train", "dev", "test")}, TAGS)

    assert [(e.tokens, len(e.tags)) for e in examples(folder)] == [(("John", "runs"), 2), (("In", "Rome", "."), 3)]
    assert get_task(str(folder)).labels == ("O", "B-LOC", "B-PER")
    declared = TAGS + "columns: {tokens: tokens, tags: '1'}\n"
    parts = make(tmp_path / "p", {f"{split}.conll": CONLL for split in ("train", "dev", "test")}, declared)
    task = get_task(str(parts))
    assert task.labels == (".", "IN", "NNP", "VBZ")
    assert (task.metric, task.further_metrics) == ("token_accuracy", ("token_macro_f1",))


def test_bilou_is_read_as_its_twin(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b", "c", "d"], "tags": ["B-X", "I-X", "L-X", "U-Y"]}, {"tokens": ["a"], "tags": ["O"]}]
    folder = make(tmp_path / "t", {f"{split}.jsonl": lines(rows) for split in ("train", "dev", "test")}, TAGS)
    task = get_task(str(folder))

    first = task.examples("train", "und", None)[0]

    assert [task.labels[tag] for tag in first.tags] == ["B-X", "I-X", "E-X", "S-Y"]
    (report, *_) = check_task(task, None)
    assert any("BILOU" in warning for warning in report["warnings"])


def test_values_are_mapped_before_they_are_looked_at(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["person", "none"]}]
    declared = TAGS + "columns: {tokens: tokens, tags: tags}\nvalues: {person: B-PER, none: O}\n"
    folder = make(tmp_path / "t", {f"{split}.jsonl": lines(rows) for split in ("train", "dev", "test")}, declared)
    assert get_task(str(folder)).labels == ("O", "B-PER")

    stars = [{"text": "x", "label": 1}, {"text": "y", "label": 2}]
    declared = "family: sequence_classification\ncolumns: {text: text, label: label}\nvalues: {1: bad, 2: good}\n"
    folder = make(tmp_path / "s", {f"{split}.jsonl": lines(stars) for split in ("train", "dev", "test")}, declared)
    assert [get_task(str(folder)).labels[e.label] for e in examples(folder)] == ["bad", "good"]


def test_ignored_tags_are_read_and_not_asked_for(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b", "c"], "tags": [0, -1, 1]}] * 3
    declared = TAGS + "columns: {tokens: tokens, tags: tags}\nlabels: [O, B-X]\nignore_labels: [-1]\n"
    folder = make(tmp_path / "t", {f"{split}.jsonl": lines(rows) for split in ("train", "dev", "test")}, declared)

    assert examples(folder)[0].tags == (0, -100, 1)


def test_rows_left_out_are_counted(tmp_path: Path) -> None:
    folder = make(tmp_path / "t", {"train.csv": CSV + "z,-1\n" * 3, "test.csv": CSV}, TASK + "ignore_labels: -1\n")

    (report, *_) = check_task(get_task(str(folder)), None)

    assert any("3 row(s) are left out" in warning for warning in report["warnings"])


def test_files_that_are_not_used_are_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "t", {"train.csv": CSV, "test.csv": CSV, "holdout.csv": CSV})

    (report, *_) = check_task(get_task(str(folder)), None)

    assert "not used: holdout.csv" in report["warnings"]
    two = make(tmp_path / "two", {"train.csv": CSV, "test.csv": CSV, "dev.csv": CSV, "validation.csv": CSV})
    with pytest.raises(DataError, match=r"contains dev\.csv and validation\.csv; keep only one"):
        examples(two)


NESTED = {
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": f"the film {at} was good",
                    "qas": [
                        {"id": f"{at}a", "question": "what was it?", "answers": [{"text": "good", "answer_start": 16}]},
                        {"id": f"{at}b", "question": "who?", "answers": [], "is_impossible": True},
                    ],
                }
                for at in range(10, 30)
            ],
        }
    ]
}
QUESTIONS = "family: question_answering\ncolumns: {id: id, question: question, context: context, answers: answers}\n"


def test_squads_nested_form_is_read(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train.json": json.dumps(NESTED), "test.json": json.dumps(NESTED)}
    folder = make(tmp_path / "t", files, QUESTIONS + "unanswerable: predict\n")
    task = get_task(str(folder))

    found = examples(folder, "test")

    assert len(found) == 40 and sum(not e.answers for e in found) == 20
    assert task.metric == "squad_f1" and "no_answer_accuracy" in task.further_metrics
    left_out = make(tmp_path / "o", files, QUESTIONS + "unanswerable: true\n")
    assert len(examples(left_out, "test")) == 20


def test_questions_are_held_out_by_context(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train.json": json.dumps(NESTED), "test.json": json.dumps(NESTED)}
    folder = make(tmp_path / "t", files, QUESTIONS + "unanswerable: predict\n")

    train, validation = ({e.context for e in examples(folder, split)} for split in ("train", "validation"))

    assert validation and not train & validation


def test_choices_with_names_are_read(tmp_path: Path) -> None:
    rows = [{"q": "x", "c": {"label": ["A", "B"], "text": ["one", "two"]}, "key": "B"}] * 4
    declared = "family: multiple_choice\ncolumns: {text: q, choices: c, label: key}\n"
    folder = make(tmp_path / "t", {f"{split}.jsonl": lines(rows) for split in ("train", "dev", "test")}, declared)

    assert examples(folder)[0].choices == ("one", "two") and examples(folder)[0].label == 1


@pytest.mark.parametrize("written", ["['a', 'b']", '["a", "b"]'])
def test_lists_written_into_a_table_are_read(tmp_path: Path, written: str) -> None:
    quoted = written.replace('"', '""')
    text = f"tokens,tags\n\"{quoted}\",\"['O', 'B-X']\"\n"
    declared = TAGS + "columns: {tokens: tokens, tags: tags}\nlabels: [O, B-X]\n"
    folder = make(tmp_path / "t", {f"{split}.csv": text for split in ("train", "dev", "test")}, declared)

    assert examples(folder)[0].tokens == ("a", "b")
    for split in ("train", "dev", "test"):
        (folder / f"{split}.csv").write_text("tokens,tags\n\"['a' 'b']\",\"['O' 'B-X']\"\n")
    with pytest.raises(DataError, match="expected a list such as"):
        examples(folder)


LEAKS = {
    "swapped": ({"text": "b", "text_pair": "a"}, "are also in train with their texts swapped"),
    "second text": ({"text": "new", "text_pair": "b"}, "share a text or context with train"),
    "first as second": ({"text": "new", "text_pair": "a"}, "share a text or context with train"),
}


@pytest.mark.parametrize("kind", list(LEAKS))
def test_leakage_looks_at_every_text_of_a_pair(tmp_path: Path, kind: str) -> None:
    test, said = LEAKS[kind]
    rows = [{"text": "a", "text_pair": "b", "label": 0}] + [
        {"text": f"x{at}", "text_pair": f"y{at}", "label": at % 2} for at in range(20)
    ]
    declared = TASK.replace("text: text,", "text: text, text_pair: text_pair,")
    tests = [{**test, "label": 0}, {"text": "z", "text_pair": "w", "label": 1}]
    folder = make(
        tmp_path / "t", {"train.jsonl": lines(rows), "dev.jsonl": lines(tests), "test.jsonl": lines(tests)}, declared
    )

    warnings = next(part["warnings"] for part in check_task(get_task(str(folder)), None) if part["split"] == "test")

    assert any(warning.startswith("1 examples ") and said in warning for warning in warnings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("languages: {english_of_the_united_kingdom_of_gb: .}\n", "is not a language code"),
        ('name: "a\\0b"\n', "control character"),
        ('languages: {"e\\0n": .}\n', "is not a language code"),
        ("file: data.csv\n", "nothing says how to split it"),
        ("file: ../all.csv\nsplit: {test: 0.2}\n", "expected (a file's name|the name of a file)"),
        ("separator: abc\n", "expected one character"),
        ("encoding: klingon\n", "expected an encoding"),
        ("x: " + "[" * 60 + "]" * 60 + "\n", "nested deeper than"),
    ],
)
def test_description_that_would_lead_astray_is_refused(tmp_path: Path, changes: str, said: str) -> None:
    folder = make(tmp_path / "t", {"train.csv": CSV, "test.csv": CSV}, TASK + changes)

    with pytest.raises(AdapeffError, match=said) as refused:
        get_task(str(folder))

    assert "\n" not in str(refused.value)


@given(st.lists(st.tuples(st.text(min_size=1), st.sampled_from("01")), min_size=1, max_size=8))
def test_tsv_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    """Whatever is in a value, but what ends it: tabs and line ends."""
    clean = [("x" + "".join(c for c in text if c.isprintable()), label) for text, label in rows]
    file = tmp_path_factory.mktemp("tsv") / "train.tsv"
    file.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in clean), encoding="utf-8")

    assert [tuple(row.values.values()) for row in read_rows([file])] == clean


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.csv", CSV, {"family": "sequence_classification", "labels": ["label_0", "label_1"], "file": "data.csv"}),
        ("train.jsonl", lines([{"review": f"r {i}", "stars": i % 5 + 1} for i in range(60)]),
         {"columns": {"text": "review", "label": "stars"}, "labels": ["1", "2", "3", "4", "5"]}),
        ("x.jsonl", lines([{"tokens": ["a"], "tags": ["B-X"]}, {"tokens": ["b"], "tags": ["O"]}]),
         {"family": "token_classification"}),
        ("x.json", json.dumps(NESTED).replace('"answers": [], "is_impossible": true',
                                              '"answers": [{"text": "good", "answer_start": 16}]'),
         {"family": "question_answering"}),
        ("x.csv", "premise,hypothesis,gold\n" + "".join(f"p {i},h {i},{'yes' if i % 2 else 'no'}\n" for i in range(30)),
         {"columns": {"text": "premise", "text_pair": "hypothesis", "label": "gold"}, "labels": ["no", "yes"]}),
    ],
    ids=["csv", "stars", "tags", "squad", "pairs"],
)  # fmt: skip
def test_draft_is_written_from_what_a_file_shows(tmp_path: Path, name: str, content: str, said: dict[str, Any]) -> None:
    (tmp_path / name).write_text(content)

    place, made = write_draft(tmp_path / name)

    assert {key: made[key] for key in said} == said
    assert get_task(str(place)).family == made["family"]
    with pytest.raises(SpecError, match="already exists"):
        write_draft(tmp_path / name)


TAGGED = "family: token_classification\n"
SQUAD_2 = """
family: question_answering
columns: {question: question, context: context, answers: answers}
unanswerable: predict
"""
THREE = ("train", "validation", "test")


@pytest.mark.parametrize(
    "tags", ['["B-X", "O"]', "['B-X', 'O']", "('B-X', 'O')", "B-X O"], ids=["json", "python", "tuple", "words"]
)
@pytest.mark.parametrize("declared", [TAGGED, TAGGED + "labels: [O, B-X]\n"], ids=["labels read", "labels declared"])
def test_lists_written_as_text_are_lists_wherever_they_are_read(tmp_path: Path, tags: str, declared: str) -> None:
    table = "tokens\ttags\n" + f"he went\t{tags}\n" * 3
    declared += "columns: {tokens: tokens, tags: tags}\n"
    folder = make(tmp_path / "t", {f"{split}.tsv": table for split in THREE}, declared)

    assert get_task(str(folder)).labels == ("O", "B-X")
    assert [example.tags for example in examples(folder)] == [(1, 0)] * 3


def test_tags_apart_by_commas_are_refused(tmp_path: Path) -> None:
    table = "tokens\ttags\nhe went off\tB-X,O,O\n"
    declared = TAGGED + "columns: {tokens: tokens, tags: tags}\n"
    folder = make(tmp_path / "t", {f"{split}.tsv": table for split in THREE}, declared)

    with pytest.raises(DataError, match=r"'tags' is 'B-X,O,O', expected words separated by spaces, or a list"):
        get_task(str(folder))


def test_conll_of_one_column_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "t", {f"{split}.conll": "EU,B-ORG\nsaid,O\n" for split in THREE}, TAGGED)

    with pytest.raises(DataError, match=r"line 1: one column \('EU,B-ORG'\), expected a token and its tag"):
        get_task(str(folder))

    (folder / "task.yaml").write_text(TAGGED + "separator: ','\n")
    assert [example.tokens for example in examples(folder)] == [("EU", "said")]


def test_comments_and_trailing_spaces_of_conll_are_no_tokens_and_no_tags(tmp_path: Path) -> None:
    text = "# newdoc\n# newpar id = p1\n# sent_id = 1\ndog\tNOUN \nruns\tVERB\n"
    folder = make(tmp_path / "t", {f"{split}.conll": text for split in THREE}, TAGGED)

    assert get_task(str(folder)).labels == ("NOUN", "VERB")
    assert examples(folder)[0].tokens == ("dog", "runs")


def nested(**asked: Any) -> str:
    question = {"id": "1", "question": "who?", **asked}
    return json.dumps({"data": [{"title": "t", "paragraphs": [{"context": "it was bob", "qas": [question]}]}]})


BOB = [{"text": "bob", "answer_start": 7}]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"answers": BOB, "is_impossible": False}, 1),
        ({"answers": [], "is_impossible": True}, 0),
        ({"is_impossible": True, "plausible_answers": BOB}, 0),
        ({}, "a part of it has no 'answers'"),
        ({"answers": BOB, "is_impossible": True}, "has an answer, but is_impossible says it has none"),
    ],
)
def test_question_has_no_answer_only_where_the_data_say_so(
    tmp_path: Path, asked: dict[str, Any], found: int | str
) -> None:
    folder = make(tmp_path / "t", {f"{split}.json": nested(**asked) for split in THREE}, SQUAD_2)

    if isinstance(found, str):
        with pytest.raises(DataError, match=found):
            examples(folder)
    else:
        assert len(examples(folder)[0].answers) == found


@pytest.mark.parametrize(
    "choices",
    [
        {"label": ["A", "B"], "text": ["one", "two"]},
        [{"label": "A", "text": "one"}, {"label": "B", "text": "two"}],
        {"A": "one", "B": "two"},
    ],
)
def test_choices_with_names_are_read_in_every_form(tmp_path: Path, choices: Any) -> None:
    declared = "family: multiple_choice\ncolumns: {text: q, choices: choices, label: key}\n"
    rows = lines([{"q": "which?", "choices": choices, "key": "B"}])
    folder = make(tmp_path / "t", {f"{split}.jsonl": rows for split in THREE}, declared)

    (example,) = examples(folder)

    assert (example.choices, example.label) == (("one", "two"), 1)


@pytest.mark.parametrize("label", ["1", "1.0", 1, 1.0], ids=repr)
def test_numbers_of_labels_may_be_texts(tmp_path: Path, label: Any) -> None:
    rows = lines([{"text": "t", "label": label}])
    folder = make(tmp_path / "t", {f"{split}.jsonl": rows for split in THREE}, TASK)

    assert examples(folder)[0].label == 1


def test_language_tested_on_its_validation_split_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "t", {}, TASK + "languages: {en: en, de: de}\n")
    for language, splits in {"en": THREE, "de": ("dev",)}.items():
        (folder / language).mkdir()
        for split in splits:
            (folder / language / f"{split}.jsonl").write_text(lines(ROWS))

    assert any("the validation split is the test in de" in said for said in get_task(str(folder)).remarks(None))


def test_share_for_the_test_alone_leaves_one_for_selection(tmp_path: Path) -> None:
    folder = make(tmp_path / "t", {"all.jsonl": lines(ROWS)}, TASK + "split: {test: 0.25}\n")

    assert {split: len(examples(folder, split)) for split in THREE} == {"train": 28, "validation": 2, "test": 10}


@pytest.mark.parametrize(
    ("labels", "drafted", "ignored"),
    [
        ([-1, 0, 1], ["-1", "0", "1"], None),
        ([0, 1, 2], ["label_0", "label_1", "label_2"], None),
        (["good", "bad", ""], ["bad", "good"], [""]),
        (["good", "bad", "nan"], ["bad", "good"], ["nan"]),
    ],
)
def test_draft_keeps_every_label_and_takes_nothing_for_one(
    tmp_path: Path, labels: list[Any], drafted: list[str], ignored: list[str] | None
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(lines([{"text": f"t {at}", "label": labels[at % 3]} for at in range(60)]))

    _, made = write_draft(file)

    assert (made["labels"], made.get("ignore_labels")) == (drafted, ignored)
    kept = examples(tmp_path, "train")
    assert {example.label for example in kept} == set(range(len(drafted)))


def test_draft_says_that_a_column_of_splits_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("text,label,split\n" + "".join(f"t {at},{'good' if at % 2 else 'bad'},train\n" for at in range(60)))

    place, _ = write_draft(file)

    assert "The column 'split' is not used" in place.read_text()

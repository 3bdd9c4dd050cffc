"""Write a task.yaml from what a data file shows: a first draft, for a person to look over.

Columns are told by their names where these are usual, else by what is in them: a label repeats, a text is long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from adapeff.service.errors import DataError, SpecError
from adapeff.worker.tasks.files import FileForm, Notes, Row, read_rows, split_of
from adapeff.worker.tasks.own import FILE_NAME, load_own_task
from adapeff.worker.tasks.rows import words

LOOKED_AT = 100_000
MAX_LABELS = 50
_ABSENT = ("", "nan", "none", "null", "n/a")
"""What stands in a label's column where there is no label."""
_PARTS = ("split", "fold", "set", "subset", "partition")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "label": (
        *("label", "labels", "class", "category", "target", "sentiment", "stars", "rating", "gold_label", "intent"),
        *("answerkey", "y"),
    ),
    "text": ("text", "sentence", "review", "premise", "sentence1", "question1", "content", "body", "tweet", "message"),
    "text_pair": ("text_pair", "hypothesis", "sentence2", "question2"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "pos_tags", "upos", "ner"),
    "question": ("question",),
    "context": ("context", "passage", "paragraph"),
    "answers": ("answers",),
    "answer_text": ("answer", "answer_text"),
    "answer_start": ("answer_start",),
    "choices": ("choices", "options", "endings"),
    "id": ("id", "idx", "guid", "uid"),
}


def draft(file: Path) -> dict[str, Any]:
    """What a task.yaml would say of a file.

    Raises:
        DataError: if it cannot be read, or holds nothing that a task could be made of.
    """
    rows = list(islice(read_rows([file], FileForm(), Notes()), LOOKED_AT))
    if not rows:
        raise DataError(f"{file} holds no rows; expected at least one")
    columns = list(rows[0].values)
    by_name = {
        role: next((column for column in columns if column.lower() in names), None) for role, names in _NAMES.items()
    }
    made = _structured(by_name, rows) or _classified(by_name, rows, columns, file)
    if by_name["id"] is not None and len({str(row.values.get(by_name["id"])) for row in rows}) == len(rows):
        made["columns"] = {"id": by_name["id"], **made["columns"]}
    made["unused"] = [column for column in columns if column not in str(made["columns"])]
    if split_of(file) is None:
        made |= {"file": file.name, "split": {"validation": 0.1, "test": 0.2}}
    return made


def _structured(by_name: Mapping[str, str | None], rows: Sequence[Row]) -> dict[str, Any] | None:
    """A task of another family than classification, where the names say so."""

    def named(*roles: str) -> dict[str, str]:
        return {role: str(by_name[role]) for role in roles if by_name[role] is not None}

    if by_name["tokens"] and by_name["tags"]:
        tags = {
            tag for row in rows for tag in _words(row.values[str(by_name["tags"])], str(by_name["tags"]), row.where)
        }
        numbers = all(str(tag).isdecimal() for tag in tags)
        labels = {"labels": [f"TAG-{n}" for n in range(max(map(int, tags)) + 1)]} if numbers else {}
        return {"family": "token_classification", "columns": named("tokens", "tags"), **labels}
    if by_name["question"] and by_name["context"]:
        columns = named("question", "context", "answers") if by_name["answers"] else named(
            "question", "context", "answer_text", "answer_start"
        )  # fmt: skip
        without = {"unanswerable": "predict"} if any(_has_no_answer(row, by_name) for row in rows) else {}
        return {"family": "question_answering", "columns": columns, **without}
    if by_name["choices"] and by_name["label"]:
        text = by_name["text"] or by_name["question"] or by_name["context"]
        columns = {"text": str(text), **named("choices", "label")}
        return {"family": "multiple_choice", "columns": columns}
    return None


def _words(value: Any, column: str, where: str) -> list[Any]:
    return value if isinstance(value, list) else words(str(value), column, where)


def _has_no_answer(row: Row, by_name: Mapping[str, str | None]) -> bool:
    value = row.values.get(str(by_name["answers"] or by_name["answer_text"]))
    found = value.get("text") if isinstance(value, Mapping) else value
    return found in (None, "", [])


def _classified(
    by_name: Mapping[str, str | None], rows: Sequence[Row], columns: Sequence[str], file: Path
) -> dict[str, Any]:
    values = {column: [row.values.get(column) for row in rows] for column in columns}
    few = [c for c in columns if 1 < len({str(v) for v in values[c]}) <= min(MAX_LABELS, max(2, len(rows) // 2))]
    label = by_name["label"] or min(few, key=lambda column: len({str(v) for v in values[column]}), default=None)
    texts = [c for c in columns if c != label and all(isinstance(v, str) for v in values[c])]
    longest = max(texts, key=lambda column: sum(len(str(v)) for v in values[column]), default=None)
    text = by_name["text"] or longest
    if label is None or text is None or text == label:
        raise DataError(
            f"{file} shows no text with a label: its columns are {', '.join(columns[:12])}; write {FILE_NAME} by hand "
            "(see docs/tasks.md)"
        )
    pair = {"text_pair": by_name["text_pair"]} if by_name["text_pair"] else {}
    given = [value for value in values[label] if str(value).strip().lower() not in _ABSENT]
    found = sorted({str(value).strip() for value in given}, key=lambda name: (len(name), name))
    absent = {str(value) for value in values[label] if str(value).strip().lower() in _ABSENT and value is not None}
    return {
        "family": "sequence_classification",
        "columns": {"text": text, **pair, "label": label},
        **_labels(found, {type(value) for value in given}),
        **({"ignore_labels": sorted(absent)} if absent else {}),
        **({"unlabelled": True} if None in values[label] else {}),
    }


def _labels(found: Sequence[str], types: set[type]) -> dict[str, Any]:
    if types == {bool}:
        return {"labels": ["no", "yes"], "values": {"False": "no", "True": "yes"}}
    if not all(re.fullmatch(r"-?\d+(\.0*)?", name) for name in found):
        return {"labels": list(found)}
    whole = sorted({int(float(name)) for name in found})
    if whole == list(range(len(whole))):
        return {"labels": [f"label_{number}" for number in whole]}
    return {"labels": [str(number) for number in whole]}


def write(file: Path) -> tuple[Path, dict[str, Any]]:
    """Write the draft beside the file, if it can be read back; gives where it is, and what it says.

    Raises:
        SpecError: if there is a task.yaml already, or the draft does not do.
        DataError: as `draft`.
    """
    if not file.is_file():
        raise DataError(f"there is no file {file}; name a data file, such as reviews.csv")
    place = file.parent / FILE_NAME
    if place.exists():
        raise SpecError(f"{place} is there already; move it away, or write another by hand")
    made = draft(file)
    head = (
        f"# A draft by `adapeff tasks init` from the first rows of {file.name}: look it over.\n"
        "# Labels that the data count from 0 stand in that order; give them names. All keys: docs/tasks.md.\n"
    )
    if parts := [column for column in made.pop("unused") if column.lower() in _PARTS]:
        head += f"# The column '{parts[0]}' is not used: to keep its parts, write each into a file of its own.\n"
    place.write_text(head + yaml.safe_dump(made, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        load_own_task(str(place))
    except (SpecError, DataError):
        place.unlink()
        raise
    return place, made

"""Read rows from data files: JSON, CSV, TSV, Parquet, CoNLL. Each fault is one line that says where it is.

What is unambiguous is read as it is (a byte order mark, .gz, semicolons, an empty line at the end); the declaration
says the rest: `quoting`, `separator`, `header`, `encoding`, `form`.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from adapeff.service.errors import DataError, first_line
from adapeff.worker.tasks.files import FileForm, FormName, form_of

MAX_CHARACTERS = 10_000_000
"""A longer line is not an example, but a whole file of JSON on one line, or binary data."""
csv.field_size_limit(MAX_CHARACTERS)
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon"}


class Row(NamedTuple):
    """A row of a file, and its place in the file."""

    values: Mapping[str, Any]
    where: str


@dataclass
class Notes:
    """What users should know about how a file was read."""

    texts: dict[str, None] = field(default_factory=dict)
    in_quotes: int = 0
    over_lines: list[int] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Note something, once."""
        self.texts[text] = None

    def all(self) -> list[str]:
        """Every note."""
        found = list(self.texts)
        if self.over_lines:
            some = ", ".join(map(str, self.over_lines[:3])) + (", ..." if len(self.over_lines) > 3 else "")
            found.append(f"{len(self.over_lines)} row(s) span several lines because of quotes (from line {some})")
        if self.in_quotes:
            found.append(
                f"{self.in_quotes} value(s) are in quotes, which are kept; if the quotes only enclose the "
                "value, set `quoting: double`"
            )
        return found


def read_rows(files: Sequence[Path], form: FileForm | None = None, notes: Notes | None = None) -> Iterator[Row]:
    """The rows of a split's files, in order.

    Args:
        form: how they are read.
        notes: receives what users should know about them.

    Raises:
        DataError: naming the file and the line of what cannot be read.
    """
    form, notes = form or FileForm(), notes or Notes()
    for file in files:
        try:
            yield from _READERS[form_of(file, form)](file, form, notes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{file} is not a complete gzip file ({error}); compress it again") from error
        except OSError as error:
            raise DataError(
                f"cannot read {file}: {error.strerror or error}; check that it exists and is readable"
            ) from error
        except UnicodeDecodeError as error:
            if form.encoding is not None:
                raise DataError(f"{file} is not {form.encoding} text (byte {error.start})") from error
            raise DataError(
                f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8, or set its encoding in task.yaml, "
                "such as `encoding: latin-1`"
            ) from error


@contextmanager
def _text(file: Path, form: FileForm, notes: Notes) -> Iterator[IO[str]]:
    is_compressed = file.name.lower().endswith(".gz")
    with cast("IO[bytes]", gzip.open(file, "rb")) if is_compressed else file.open("rb") as raw:
        start = raw.read(3)
        raw.seek(0)
        found = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
        if found == "utf-16" and form.encoding is None:
            notes.add(f"{file.name} is UTF-16 text")
        yield TextIOWrapper(raw, encoding=form.encoding or found, newline="")


def _json_lines(file: Path, form: FileForm, notes: Notes) -> Iterator[Row]:
    with _text(file, form, notes) as text:
        empty = number = 0
        while line := text.readline(MAX_CHARACTERS + 1):
            number += 1
            where = f"{file}, line {number}"
            if len(line) > MAX_CHARACTERS:
                raise DataError(
                    f"{where}: longer than {MAX_CHARACTERS:,} characters; expected one example, a JSON object, a line"
                )
            if not line.strip():
                empty = empty or number
                continue
            if empty:
                raise DataError(f"{file}, line {empty}: empty; expected a JSON object a line, remove the empty line")
            yield Row(_json_object(line, where), f"row {number}")


def _json_object(line: str, where: str) -> dict[str, Any]:
    row = _parsed(line, where, "one JSON object a line")
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _parsed(text: str, where: str, expected: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        what = getattr(error, "msg", None) or str(error).partition(";")[0]
        raise DataError(f"{where}: not JSON ({what}); expected {expected}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' appears twice")
    return made


def _json(file: Path, form: FileForm, notes: Notes) -> Iterator[Row]:
    """A list of objects, alone or under a key; SQuAD's nested form; or JSON lines."""
    with _text(file, form, notes) as text:
        content = text.read()
    try:
        whole = json.loads(content, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # several values, one after the other
            yield from _json_lines(file, form, notes)
            return
        raise DataError(f"{file}, line {error.lineno}: not JSON ({error.msg}); expected a list of objects") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON ({str(error).partition(';')[0]}); expected a list of objects") from error
    rows = whole
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 else [whole]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: expected a list of JSON objects, found {type(whole).__name__}")
    if rows and all("paragraphs" in row for row in rows):
        notes.add(f"{file.name} is in SQuAD's nested form")
        rows = list(_flattened(rows, file))
    for number, row in enumerate(rows, start=1):
        yield Row(row, f"row {number}")


def _flattened(articles: Sequence[Mapping[str, Any]], file: Path) -> Iterator[dict[str, Any]]:
    """A row per question of articles with paragraphs, as the hub's SQuAD has them."""
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = [] if asked.get("is_impossible") is True and "answers" not in asked else asked["answers"]
                    yield {
                        "id": asked.get("id", ""),
                        "title": article.get("title", ""),
                        "context": paragraph["context"],
                        "question": asked["question"],
                        "answers": {
                            "text": [answer["text"] for answer in answers],
                            "answer_start": [answer["answer_start"] for answer in answers],
                        },
                        **({"is_impossible": True} if asked.get("is_impossible") is True else {}),
                    }
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} is in SQuAD's nested form, but a part of it has no {error}") from error


def _separated(file: Path, form: FileForm, notes: Notes) -> Iterator[Row]:
    with _text(file, form, notes) as text:
        start = text.readline(MAX_CHARACTERS)
        text.seek(0)
        separator = form.separator or _separator(file, start, form, notes)
        name = _SEPARATORS.get(separator, repr(separator))
        quoted = form.quoting == "double" or (form.quoting is None and separator != "\t")
        rows = csv.reader(
            text, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
        )
        try:
            yield from _named_rows(file, form, notes, rows, name, quoted=quoted)
        except csv.Error as error:
            raise DataError(
                f"{file}, line {rows.line_num}: {error}; expected values separated by {name}s, each quote closed"
            ) from error


def _separator(file: Path, start: str, form: FileForm, notes: Notes) -> str:
    """The character between values: the one the ending implies, or the one the first line has instead."""
    usual = "\t" if form_of(file, form) == "tsv" else ","
    if usual in start:
        return usual
    for other in _SEPARATORS:
        if other in start:
            notes.add(f"{file.name} is separated by {_SEPARATORS[other]}s")
            return other
    return usual


def _named_rows(file: Path, form: FileForm, notes: Notes, rows: Any, name: str, *, quoted: bool) -> Iterator[Row]:
    headings = list(form.header) if form.header is not None else next(rows, None)
    if headings is None:
        return
    if twice := [heading for heading in dict.fromkeys(headings) if headings.count(heading) > 1]:
        raise DataError(f"{file}, line 1: the column '{twice[0]}' appears twice; give each column its own name")
    empty, end = 0, rows.line_num
    for number, values in enumerate(rows, start=1):
        first, end = end + 1, rows.line_num
        if not values:
            empty = empty or first
            continue
        if empty:
            raise DataError(f"{file}, line {empty}: empty; remove the empty line")
        if len(values) != len(headings):
            names = "`header` names" if form.header is not None else "the first line names"
            fix = f"put fields that contain a {name} in quotes" if quoted else f"values must not contain a {name}"
            raise DataError(f"{file}, line {end}: {len(values)} fields, but {names} {len(headings)}; {fix}")
        if end > first:
            notes.over_lines.append(first)
        if not quoted:
            notes.in_quotes += sum(len(value) > 1 and value[0] == value[-1] == '"' for value in values)
        yield Row(dict(zip(headings, values, strict=True)), f"row {number} (line {first})")


def _parquet(file: Path, form: FileForm, notes: Notes) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{file} is Parquet, which needs pyarrow; run pip install 'adapeff[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            number = 0
            for batch in opened.iter_batches(1000):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(row, f"row {number}")
    except pyarrow.ArrowException as error:
        raise DataError(f"{file} is not a Parquet file ({first_line(error)})") from error


_COMMENT = re.compile(r"#\s*(?:[\w.:-]+\s*=|(?:newdoc|newpar|id)\b)")
_UNIVERSAL = 10
"""Columns of CoNLL-U, whose second is the token and whose fourth is its part of speech (universaldependencies.org)."""


def _conll(file: Path, form: FileForm, notes: Notes) -> Iterator[Row]:
    """One token per line, columns separated by tabs or spaces, an empty line after each sentence.

    The columns are `tokens` (the first) and `tags` (the last), and all of them by number from 0.
    """
    sentence: list[list[str]] = []
    count = first = 0
    with _text(file, form, notes) as text:
        number = 0
        while line := text.readline(MAX_CHARACTERS):
            number += 1
            line = line.strip("\r\n")
            separator = form.separator or ("\t" if "\t" in line else None)
            values = [value.strip() for value in line.split(separator)]
            if not line.strip():
                if sentence:
                    count += 1
                    yield Row(_columns(sentence), f"row {count} (line {first})")
                sentence = []
            elif _COMMENT.match(line) or values[0] == "-DOCSTART-" or _is_no_token(values):
                continue
            elif len(values) < 2:
                raise DataError(
                    f"{file}, line {number}: one column ({line!r:.60}), expected a token and its tag, separated by a "
                    "tab or spaces; if another character separates them, set it in task.yaml, such as `separator: ','`"
                )
            elif sentence and len(values) != len(sentence[0]):
                raise DataError(
                    f"{file}, line {number}: {len(values)} columns, but the sentence before it has {len(sentence[0])}; "
                    "expected a token a line and an empty line after each sentence"
                )
            else:
                first = first if sentence else number
                sentence.append(values)
        if sentence:
            yield Row(_columns(sentence), f"row {count + 1} (line {first})")


def _is_no_token(values: Sequence[str]) -> bool:
    """CoNLL-U's lines for words of several tokens (1-2) and for those left out (1.1)."""
    return len(values) == _UNIVERSAL and re.fullmatch(r"\d+[-.]\d+", values[0]) is not None


def _columns(sentence: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    columns = [list(column) for column in zip(*sentence, strict=True)]
    tokens, tags = (1, 3) if len(columns) == _UNIVERSAL else (0, -1)
    return {**{str(at): column for at, column in enumerate(columns)}, "tokens": columns[tokens], "tags": columns[tags]}


_READERS: Mapping[FormName, Callable[[Path, FileForm, Notes], Iterator[Row]]] = {
    "jsonl": _json_lines,
    "json": _json,
    "csv": _separated,
    "tsv": _separated,
    "parquet": _parquet,
    "conll": _conll,
}

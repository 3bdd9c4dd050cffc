"""Read rows from files people keep data in: JSON, CSV, TSV, Parquet, CoNLL. Each fault is one line that says where.

What is unambiguous is read as it lies there (a byte order mark, .gz, semicolons, an empty line at the end); the rest is
said by the declaration: `quoting`, `separator`, `header`, `encoding`, `form`.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from pydantic import field_validator

from adapeff.service.errors import DataError, first_line
from adapeff.service.plugins.contracts import Frozen, Split

MAX_CHARACTERS = 10_000_000
"""A line that is longer is no example: a whole file of JSON on one line, or binary data."""
csv.field_size_limit(MAX_CHARACTERS)
FormName = Literal["jsonl", "json", "csv", "tsv", "parquet", "conll"]
ENDINGS: Mapping[str, FormName] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    **dict.fromkeys((".conll", ".conllu", ".iob", ".iob2", ".bio", ".txt"), "conll"),
}
"""File ending, in any case and before .gz -> the form of what is in it."""
TEXT_ONLY = ("csv", "tsv")
"""Forms whose every value is text: numbers and lists are written out there."""
SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]{8,})?")
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon"}


class FileForm(Frozen):
    """How files are to be read where that is not as usual."""

    form: FormName | None = None
    """What is in the files, whatever they end in."""
    separator: str | None = None
    """Between the values of a line, in place of what the ending says."""
    quoting: Literal["double", "none"] | None = None
    """Whether values may stand in double quotes (RFC 4180); None: in .csv they may, in .tsv a quote is a character."""
    header: tuple[str, ...] | None = None
    """Names of the columns of files whose first line is no heading."""
    encoding: str | None = None
    """Of text files; None: UTF-8, or UTF-16 with a byte order mark."""

    @field_validator("separator")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and len(value) != 1:
            raise ValueError("expected one character, such as ';' or '|'")
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        try:
            "".encode(value or "utf-8")
        except LookupError as error:
            raise ValueError("expected an encoding that Python knows, such as latin-1 or cp1252") from error
        return value


class Row(NamedTuple):
    """A row of a file, and where it stands there."""

    values: Mapping[str, Any]
    where: str


@dataclass
class Notes:
    """What a person should know of how a file was read."""

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
            found.append(f"{len(self.over_lines)} row(s) go over several lines, by quotes (from line {some})")
        if self.in_quotes:
            found.append(
                f"{self.in_quotes} value(s) stand in quotes, which are kept as they are; if they only enclose the "
                "value, say `quoting: double`"
            )
        return found


def find_files(folder: Path, split: Split, *, root: Path) -> tuple[Path, ...] | None:
    """The files of a split, by the usual names: one, or all parts of one as the hub names them; None if there is none.

    Args:
        root: what the files must lie in, links followed.

    Raises:
        DataError: if there are several, parts are missing, or one leads out of `root`.
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        stem, form = _stem_and_form(file)
        part = _PART.fullmatch(stem)
        name = part["stem"] if part else stem
        if form is not None and name.lower() in SPLIT_NAMES[split] and file.is_file():
            found.setdefault(f"{name}-?-of-{part['count']}{file.suffix}" if part else file.name, []).append(file)
    if len(found) > 1:
        raise DataError(f"{folder} holds {' and '.join(found)}; leave one of them there")
    for name, files in found.items():
        count = int(name.partition("-?-of-")[2][:5] or 1)
        if len(files) != count:
            raise DataError(f"{folder} holds {len(files)} of {count} parts of {name}; put the others there")
        for file in files:
            _check_place(file, root)
        return tuple(files)
    return None


def _stem_and_form(file: Path) -> tuple[str, FormName | None]:
    plain = Path(file.name[:-3]) if file.name.lower().endswith(".gz") else Path(file.name)
    return plain.stem, ENDINGS.get(plain.suffix.lower())


def form_of(file: Path, form: FileForm) -> FormName:
    """What is in a file."""
    return form.form or _stem_and_form(file)[1] or "jsonl"


def split_of(file: Path) -> Split | None:
    """Which split a file is by its name."""
    stem, _ = _stem_and_form(file)
    part = _PART.fullmatch(stem)
    name = (part["stem"] if part else stem).lower()
    return next((split for split, names in SPLIT_NAMES.items() if name in names), None)


def find_whole(folder: Path, name: str | None, *, root: Path) -> Path | None:
    """The one file that holds everything: by its name, or the only data file in a folder; None if there is none.

    Raises:
        DataError: if there are several, or it leads out of `root`.
    """
    files = [file for file in sorted(folder.iterdir()) if file.is_file()] if folder.is_dir() else []
    found = [file for file in files if (file.name == name if name else _stem_and_form(file)[1])]
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise DataError(f"{folder} holds {names}; say in task.yaml which one to split, such as file: {found[0].name}")
    for file in found:
        _check_place(file, root)
    return found[0] if found else None


def other_files(folder: Path) -> list[str]:
    """The names of data files in a folder that are no split's."""
    every = {name for names in SPLIT_NAMES.values() for name in names}
    found = []
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        stem, form = _stem_and_form(file)
        part = _PART.fullmatch(stem)
        if form is not None and file.is_file() and (part["stem"] if part else stem).lower() not in every:
            found.append(file.name)
    return found


def _check_place(file: Path, root: Path) -> None:
    """Refuse what is no plain file of the data: its rows would be shown to whoever may see a job's errors."""
    if not file.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{file} is a link to a file outside of {root}; put the file itself there")
    if not stat.S_ISREG(file.stat().st_mode):
        raise DataError(f"{file} is no plain file; put the data themselves there")


def read_rows(files: Sequence[Path], form: FileForm | None = None, notes: Notes | None = None) -> Iterator[Row]:
    """The rows of a split's files, in order.

    Args:
        form: how they are to be read.
        notes: gets what a person should know of them.

    Raises:
        DataError: naming the file and the line of what cannot be read.
    """
    form, notes = form or FileForm(), notes or Notes()
    for file in files:
        try:
            yield from _READERS[form_of(file, form)](file, form, notes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{file} is no whole gzip file ({error}); compress it again") from error
        except OSError as error:
            raise DataError(
                f"cannot read {file}: {error.strerror or error}; check that it is there and readable"
            ) from error
        except UnicodeDecodeError as error:
            if form.encoding is not None:
                raise DataError(f"{file} is not {form.encoding} text (byte {error.start})") from error
            raise DataError(
                f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8, or say what it is in task.yaml, "
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
                raise DataError(f"{file}, line {empty}: empty; expected a JSON object a line, take the empty line out")
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
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' stands twice")
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
    """What stands between values: what the ending says, or what the first line has instead."""
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
        raise DataError(f"{file}, line 1: the column '{twice[0]}' stands twice; give each a name of its own")
    empty, end = 0, rows.line_num
    for number, values in enumerate(rows, start=1):
        first, end = end + 1, rows.line_num
        if not values:
            empty = empty or first
            continue
        if empty:
            raise DataError(f"{file}, line {empty}: empty; take the empty line out")
        if len(values) != len(headings):
            names = "`header` names" if form.header is not None else "the first line names"
            fix = f"put fields that hold a {name} into quotes" if quoted else f"a value may hold no {name}"
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
        raise DataError(f"{file} is no Parquet file ({first_line(error)})") from error


_COMMENT = re.compile(r"#\s*(?:[\w.:-]+\s*=|(?:newdoc|newpar|id)\b)")
_UNIVERSAL = 10
"""Columns of CoNLL-U, whose second is the token and whose fourth is its part of speech (universaldependencies.org)."""


def _conll(file: Path, form: FileForm, notes: Notes) -> Iterator[Row]:
    """A token a line, its columns apart by tabs or spaces, an empty line after each sentence.

    The columns are `tokens` (the first) and `tags` (the last), and all of them by number from 0.
    """
    sentence: list[list[str]] = []
    count = first = 0
    with _text(file, form, notes) as text:
        number = 0
        while line := text.readline(MAX_CHARACTERS):
            number += 1
            line = line.strip("\r\n")
            apart = form.separator or ("\t" if "\t" in line else None)
            values = [value.strip() for value in line.split(apart)]
            if not line.strip():
                if sentence:
                    count += 1
                    yield Row(_columns(sentence), f"row {count} (line {first})")
                sentence = []
            elif _COMMENT.match(line) or values[0] == "-DOCSTART-" or _is_no_token(values):
                continue
            elif len(values) < 2:
                raise DataError(
                    f"{file}, line {number}: one column ({line!r:.60}), expected a token and its tag apart by a tab or "
                    "spaces; if something else stands between them, say it in task.yaml, such as `separator: ','`"
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

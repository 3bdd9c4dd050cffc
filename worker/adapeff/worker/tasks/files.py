"""Find the files people keep data in: which file is which split, and what is in it.

The usual names and endings are enough; a declaration says the rest: `form`, `separator`, `quoting`, `header`,
`encoding`.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from adapeff.service.errors import DataError
from adapeff.service.plugins.contracts import Frozen, Split

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
"""File ending, in any case and before .gz -> the form of its content."""
TEXT_ONLY = ("csv", "tsv")
"""Forms in which every value is text: numbers and lists are written out."""
SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]{8,})?")


class FileForm(Frozen):
    """How files are read, where that differs from the usual."""

    form: FormName | None = None
    """The content of the files, regardless of their extension."""
    separator: str | None = None
    """The character between the values of a line, if not the one the ending implies."""
    quoting: Literal["double", "none"] | None = None
    """Whether values may be in double quotes (RFC 4180); None: in .csv they may, in .tsv a quote is a character."""
    header: tuple[str, ...] | None = None
    """Names of the columns of files without a heading."""
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


def find_files(folder: Path, split: Split, *, root: Path) -> tuple[Path, ...] | None:
    """The files of a split, by the usual names: one, or all parts of one as the hub names them; None if there are none.

    Args:
        root: the folder that must contain the files, links followed.

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
        raise DataError(f"{folder} contains {' and '.join(found)}; keep only one of them")
    for name, files in found.items():
        count = int(name.partition("-?-of-")[2][:5] or 1)
        if len(files) != count:
            raise DataError(f"{folder} contains {len(files)} of {count} parts of {name}; add the missing ones")
        for file in files:
            _check_place(file, root)
        return tuple(files)
    return None


def _stem_and_form(file: Path) -> tuple[str, FormName | None]:
    plain = Path(file.name[:-3]) if file.name.lower().endswith(".gz") else Path(file.name)
    return plain.stem, ENDINGS.get(plain.suffix.lower())


def form_of(file: Path, form: FileForm) -> FormName:
    """The form of a file's content."""
    return form.form or _stem_and_form(file)[1] or "jsonl"


def split_of(file: Path) -> Split | None:
    """The split that a file's name denotes."""
    stem, _ = _stem_and_form(file)
    part = _PART.fullmatch(stem)
    name = (part["stem"] if part else stem).lower()
    return next((split for split, names in SPLIT_NAMES.items() if name in names), None)


def find_whole(folder: Path, name: str | None, *, root: Path) -> Path | None:
    """The one file with all the data: by its name, or the only data file in a folder; None if there is none.

    Raises:
        DataError: if there are several, or it leads out of `root`.
    """
    files = [file for file in sorted(folder.iterdir()) if file.is_file()] if folder.is_dir() else []
    found = [file for file in files if (file.name == name if name else _stem_and_form(file)[1])]
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise DataError(f"{folder} contains {names}; set the one to split in task.yaml, such as file: {found[0].name}")
    for file in found:
        _check_place(file, root)
    return found[0] if found else None


def other_files(folder: Path) -> list[str]:
    """The names of data files in a folder that belong to no split."""
    every = {name for names in SPLIT_NAMES.values() for name in names}
    found = []
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        stem, form = _stem_and_form(file)
        part = _PART.fullmatch(stem)
        if form is not None and file.is_file() and (part["stem"] if part else stem).lower() not in every:
            found.append(file.name)
    return found


def _check_place(file: Path, root: Path) -> None:
    """Refuse anything but a plain file of the data: its rows would be shown to whoever may see a job's errors."""
    if not file.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{file} is a link to a file outside of {root}; put the file itself there")
    if not stat.S_ISREG(file.stat().st_mode):
        raise DataError(f"{file} is not a regular file; replace it with the data file itself")

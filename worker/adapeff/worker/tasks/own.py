"""A user's own task: a YAML file that describes the data files next to it.

    family: ...
    columns: {text: review, label: stars}
    labels: [bad, good]
    languages: {en: english, de: german}     # language: folder with train, validation and test files

Files are JSON lines, JSON, CSV, TSV, Parquet or CoNLL, compressed or not. One file with all the data is split: `file:
all.csv`, `split: {validation: 0.1, test: 0.2}`. Without `languages` the files are next to the YAML. Without `labels`
those of the training file are used, in alphabetical order (O first). In a sweep the task is named by the path of the
file, or of a folder with a `task.yaml` in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from adapeff.service.errors import DataError, SpecError, first_line, first_problem, suggest
from adapeff.service.paths import expanded
from adapeff.service.plugins.catalog import metrics
from adapeff.service.strict_yaml import StrictLoader, scalars
from adapeff.worker.families.base import get_family
from adapeff.worker.families.rows import Columns, RowForm
from adapeff.worker.families.values import found_columns, whole_number, words
from adapeff.worker.tasks.data_sets import SPLIT_EXAMPLE, DataSet
from adapeff.worker.tasks.declared import DeclaredTask
from adapeff.worker.tasks.files import TEXT_ONLY, FileForm, find_files, find_whole, form_of, other_files
from adapeff.worker.tasks.read_files import Row, read_rows

FILE_NAME = "task.yaml"


class OwnTask(RowForm, FileForm):
    """What a task file may say."""

    columns: Columns = Columns()
    """By default those that the family finds in every file, such as `tokens` and `tags` of CoNLL files."""
    name: str | None = None
    title: str | None = None
    languages: dict[str, str] = Field(default={"und": "."}, min_length=1)
    source_language: str | None = None
    """Language of training and selection; by default the first one."""
    merge: dict[str, str] = {}
    group: str | None = None
    file: str | None = None
    """One file with all the data, to be split; by default the only data file there."""
    split: dict[Literal["validation", "test"], Annotated[float, Field(gt=0, lt=1)]] = {}
    """The shares of it that serve as validation and test, drawn by label."""
    metric: str | None = None
    further_metrics: tuple[str, ...] | None = None
    max_length: int | None = Field(default=None, ge=8)
    licence: str = "the user's own data"
    non_commercial: bool = False
    notes: str = ""

    @field_validator("languages")
    @classmethod
    def _codes(cls, value: dict[str, str]) -> dict[str, str]:
        for code in value:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", code):
                raise ValueError(
                    f"'{code[:40]}' is not a language code; expected up to 32 letters, digits, - and _, such as zh-Hans"
                )
        return value

    @field_validator("name", "title", "licence", "notes")
    @classmethod
    def _printable(cls, value: str | None) -> str | None:
        if value is not None and (control := re.search(r"[\x00-\x08\x0b-\x1f\x7f]", value)):
            raise ValueError(f"it contains the control character {control[0]!r}; remove it")
        return value

    @field_validator("split")
    @classmethod
    def _selection_has_a_share(cls, value: dict[Any, float]) -> dict[Any, float]:
        """A tenth of what is left by the test, where no share is named."""
        return {"validation": (1 - value["test"]) / 10, **value} if list(value) == ["test"] else value

    @model_validator(mode="after")
    def _values_are_labels(self) -> Self:
        for text, label in self.values.items() if self.labels else ():
            if isinstance(label, str) and label not in self.labels:
                known = ", ".join(map(repr, self.labels))
                raise ValueError(f"values says '{text}' is '{label}', which is not a label; expected {known}")
        return self

    @model_validator(mode="after")
    def _whole_file_is_split(self) -> Self:
        if self.split and "test" not in self.split:
            raise ValueError("split names no share for test; expected such as {validation: 0.1, test: 0.2}")
        if sum(self.split.values()) >= 1:
            raise ValueError(f"the shares of split add up to {sum(self.split.values()):g}; nothing is left to train on")
        if self.file is not None and not self.split:
            raise ValueError(f"file is '{self.file}', but nothing says how to split it; add split: {SPLIT_EXAMPLE}")
        if self.file is not None and Path(self.file).name != self.file:
            raise ValueError(
                f"file is '{self.file}', expected the name of a file next to task.yaml or in a language's folder"
            )
        return self


def load_own_task(written: str) -> DeclaredTask:
    """The task that a file describes.

    Raises:
        SpecError: if the file cannot be read or is malformed.
        DataError: if labels are to be read from the data and these cannot be read.
    """
    path = expanded(written).absolute()
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise SpecError(
                f"task folder '{written}' contains no {FILE_NAME}; write one with at least family and columns"
            )
        path = path / FILE_NAME
    if path.is_symlink():  # a message may quote a description, and this could be any file of the worker's
        raise SpecError(f"task file {path} is a link; put the file itself there, or name the one it leads to")
    path = path.resolve()
    if not path.is_file():
        raise SpecError(f"task file '{written}' does not exist; name a task ('adapeff tasks ls'), or a file or folder")
    root = path.parent
    declared = _read(path)
    source = declared.source_language or next(iter(declared.languages))
    if source not in declared.languages:
        known = ", ".join(declared.languages)
        raise SpecError(f"{path}: source_language is '{source}', expected one of languages: {known}")
    for language, folder in declared.languages.items():
        if not (root / folder).resolve().is_relative_to(root) or Path(folder).is_absolute():
            raise SpecError(f"{path}: the folder of '{language}' is '{folder}', expected one below {root}")
    family = get_family(declared.family)
    if declared.columns == Columns() and family.default_columns:
        declared = declared.model_copy(update={"columns": Columns(**family.default_columns)})
    if not declared.labels and family.has_labels:
        declared = declared.model_copy(update={"labels": _labels_of(declared, root, source)})
    if implied := family.implied_merge(declared.labels):
        declared = declared.model_copy(update={"merge": {**implied, **declared.merge}})
    name = declared.name or (root.name if path.name == FILE_NAME else path.stem)
    metric, further = family.default_metrics(_task_labels(declared), family.options(declared))
    fitting = [known for known, found in metrics().items() if declared.family in found.families]
    for asked in (declared.metric or metric, *(declared.further_metrics or ())):
        if asked not in metrics():
            raise SpecError(f"{path}: unknown metric '{asked}'; {suggest(asked, fitting)}")
        if asked not in fitting:
            raise SpecError(f"{path}: metric '{asked}' does not fit {declared.family}; these do: {', '.join(fitting)}")
    try:
        data = DataSet(
            name=name,
            root=root,
            languages=declared.languages,
            group=declared.group,
            shares=declared.split,
            whole=declared.file,
            licence=declared.licence,
            non_commercial=declared.non_commercial,
            notes=declared.notes,
            **{field: getattr(declared, field) for field in (*FileForm.model_fields, *RowForm.model_fields)},
        )
        return DeclaredTask(
            name=name,
            title=declared.title or name,
            family=declared.family,
            labels=_task_labels(declared),
            metric=declared.metric or metric,
            further_metrics=further if declared.further_metrics is None else declared.further_metrics,
            max_length=declared.max_length or family.default_max_length,
            source_language=source,
            languages=tuple(declared.languages),
            licence=declared.licence,
            non_commercial=declared.non_commercial,
            notes=declared.notes,
            train=data,
            tests=dict.fromkeys(declared.languages, data),
            merge=declared.merge,
        )
    except ValidationError as error:
        raise SpecError(f"{path}: {first_problem(error)}") from error


def _read(path: Path) -> OwnTask:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8-sig"), StrictLoader)
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise SpecError(f"{path}{where} is not YAML: {getattr(error, 'problem', None) or error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(raw, dict):
        raise SpecError(f"{path} is not a mapping; expected keys such as family and columns")
    for key in raw:
        if key not in OwnTask.model_fields:
            raise SpecError(f"{path}: unknown key '{key}'; {suggest(str(key), OwnTask.model_fields)}")
    try:
        return OwnTask.model_validate(scalars(raw))
    except ValidationError as error:
        raise SpecError(f"{path}: {first_problem(error)}") from error


def _task_labels(declared: OwnTask) -> tuple[str, ...]:
    return tuple(dict.fromkeys(declared.merge.get(label, label) for label in declared.labels))


def _labels_of(declared: OwnTask, root: Path, source: str) -> tuple[str, ...]:
    """The labels in the training file."""
    folder = root / declared.languages[source]
    if declared.split:
        whole = find_whole(folder, declared.file, root=root)
        files: tuple[Path, ...] = () if whole is None else (whole,)
    else:
        files = find_files(folder, "train", root=root) or ()
    if not files:
        others = other_files(folder)
        there = f"; there are: {', '.join(others[:5])}" if others else ""
        raise DataError(
            f"there is no training file {folder}/train.jsonl (or .csv, .tsv, .parquet, .json, .conll) to read labels "
            f"from{there}; one file of everything is split with `split: {SPLIT_EXAMPLE}` in task.yaml"
        )
    family = get_family(declared.family)
    (column,) = declared.columns.columns_of(family.target_column) or ("None",)
    ignored = {str(label) for label in declared.ignore_labels}
    text_only = form_of(files[0], declared) in TEXT_ONLY
    found: set[str] = set()
    for row, where in read_rows(files, declared):
        if column not in row:
            raise DataError(f"{files[0]}, {where}: no column '{column}'; {found_columns(row)}")
        for label in _listed(row[column], column, where) if family.lists_labels else [row[column]]:
            if str(label) in ignored or (label is None and declared.unlabelled):
                continue
            mapped = declared.values.get(str(label), label)
            if not isinstance(mapped, str):
                raise DataError(
                    f"{files[0]}, {where}: the label {label!r} is not text; declare `labels:`, in the numbers' order"
                )
            if not family.lists_labels:
                mapped = whole_number(mapped.strip()) if text_only else mapped.strip()
                if text_only and not mapped:
                    raise DataError(f"{files[0]}, {where}: '{column}' is empty, expected a label")
            found.add(mapped)
    implied = family.implied_merge(found)
    faults = family.label_faults(implied.get(label, label) for label in found)
    if bad := {label: faults[read_as] for label in found if (read_as := implied.get(label, label)) in faults}:
        _refuse(bad, files[0], read_rows(files, declared), column, declared)
    return tuple(sorted(found, key=lambda label: (label != "O", label)))


def _listed(value: Any, column: str, where: str) -> list[Any]:
    return value if isinstance(value, list) else [None] if value is None else words(str(value), column, where)


def _refuse(bad: Mapping[str, str], file: Path, rows: Iterable[Row], column: str, declared: OwnTask) -> None:
    """Refuse a label that the family cannot use, naming its row."""
    for row, where in rows:
        for label in _listed(row[column], column, where):
            if fault := bad.get(str(declared.values.get(str(label), label))):
                raise DataError(f"{file}, {where}: {fault}")

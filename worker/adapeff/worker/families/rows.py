"""How the rows of a data set are declared and read, strictly: what is not as declared is an error that names the row.

Nothing is guessed. A label unknown to the declaration would silently become another class otherwise, as every label
except "Positive" became negative in the study's sentiment scripts. What a row means is up to the family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, field_validator, model_validator

from adapeff.service.errors import DataError, suggest
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Frozen
from adapeff.worker.families.base import get_family
from adapeff.worker.families.values import (
    as_text,
    found_columns,
    is_text,
    is_written_list,
    shown,
    truth,
    whole_number,
    words,
)


def _known_family(name: str) -> str:
    if name not in catalog.families():
        raise ValueError(f"unknown family; {suggest(name, catalog.families())}")
    return name


FamilyName = Annotated[str, AfterValidator(_known_family)]


class Columns(Frozen):
    """Role -> column of the data. Families of other packages may have roles of their own."""

    model_config = ConfigDict(extra="allow")

    id: str | None = None
    """Names the example in stored predictions; the row's number if not given."""
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    tokens: str | None = None
    tags: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None
    """A column in SQuAD's form, {text: [...], answer_start: [...]}."""
    answer_text: str | None = None
    answer_start: str | None = None
    choices: str | tuple[str, ...] | None = None
    """One column with a list, or a column per choice; a missing (null) choice is left out."""

    def columns_of(self, role: str) -> tuple[str, ...]:
        """The columns of a role."""
        column = getattr(self, role, None)
        return (column,) if isinstance(column, str) else tuple(column or ())


class RowForm(Frozen):
    """How the rows of a data set are read."""

    family: FamilyName
    columns: Columns
    labels: tuple[str, ...] = ()
    """Names in the order of the data's integers."""
    values: Mapping[str, str | int] = {}
    """Text in the label column -> label name (classification), or number of the choice from 0 (multiple choice)."""
    questions: Mapping[str, str] = {}
    """Content of the question column of a multiple choice set -> the question asked: cause -> What was the cause?"""
    unanswerable: bool | Literal["predict"] = False
    """Some questions have no answer: with true they are left out, since SQuAD 1.1's scores do not cover them; with
    `predict`, no answer is an answer like others, as in SQuAD 2.0."""
    unlabelled: bool = False
    """Some rows have a null label: they are left out."""
    ignore_labels: tuple[str | int, ...] = ()
    """Labels that mean there is none, such as -1: their rows are left out; of tags, only the tag."""

    @field_validator("values", mode="before")
    @classmethod
    def _keys_are_texts(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {str(key): as_text(item) for key, item in value.items()}

    @field_validator("labels", mode="before")
    @classmethod
    def _truths_and_numbers_are_texts(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [str(as_text(item)) if isinstance(item, bool | int) else item for item in value]

    @field_validator("ignore_labels", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int) else value

    @model_validator(mode="after")
    def _roles_are_known(self) -> Self:
        """Unknown roles are those that neither the built-in families nor this one has."""
        needed = get_family(self.family).needed_columns(self.columns)
        for role in self.columns.model_extra or {}:
            if role not in needed:
                raise ValueError(
                    f"columns names '{role}': unknown key; {suggest(role, {*Columns.model_fields, *needed})}"
                )
        return self

    def needed_columns(self) -> dict[str, tuple[str, ...]]:
        """The roles the family needs, and the optional ones that are declared, each with its columns."""
        given = {
            role: (column,) if isinstance(column, str) else tuple(column or ())
            for role, column in get_family(self.family).needed_columns(self.columns).items()
        }
        for extra in ("text_pair", "question", "id"):
            if (column := getattr(self.columns, extra)) is not None:
                given[extra] = (column,)
        return given


class RowReader:
    """Turns the rows of one file into examples whose labels are indices into a task's labels."""

    def __init__(
        self, form: RowForm, labels: Sequence[str], merge: Mapping[str, str], *, origin: str, text_only: bool
    ) -> None:
        """Prepare to read.

        Args:
            labels: the task's; those of the data set may be in another order.
            merge: labels of the data set -> labels of the task, such as B-MISC -> O.
            origin: names the file in messages.
            text_only: whether all values of the file are text, with numbers and lists written out.
        """
        self.form = form
        self.columns = form.columns
        self.text_only = text_only
        self.left_out = 0
        """Rows without an answer or label that the declaration allows for."""
        self._family = get_family(form.family)
        self._index = {label: index for index, label in enumerate(labels)}
        self._merge = merge
        self._origin = origin
        self._seen: dict[str, str] = {}
        self._ignored = {str(label) for label in form.ignore_labels}
        self._needed = [column for columns in form.needed_columns().values() for column in columns]

    def read(self, row: Mapping[str, Any], number: int, place: str = "") -> Any:
        """The example in the `number`-th row; None for a row that the declaration says to leave out.

        Args:
            place: where the row is, in words.

        Raises:
            DataError: naming the row, what is wrong and what was expected.
        """
        place = place or f"row {number}"
        where = f"{self._origin}, {place}"
        for column in self._needed:
            if column not in row:
                raise DataError(f"{where}: no column '{column}'; {found_columns(row)}{self._hint(row)}")
        name = self._name(row, number, place, where)
        label = row[self.columns.label] if self.columns.label is not None else 0
        if (self.form.unlabelled and label is None) or (self._ignored and self.is_ignored(label)):
            self.left_out += 1
            return None
        example = self._family.read_row(self, row, name, where)
        self.left_out += example is None
        return example

    def is_ignored(self, label: Any) -> bool:
        """Whether a label is declared to mean that there is none."""
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        return isinstance(label, str | int) and (
            str(label) in self._ignored or (self.text_only and whole_number(str(label)) in self._ignored)
        )

    def _hint(self, row: Mapping[str, Any]) -> str:
        """The line of a declaration that would read the file, judging by its first line."""
        if not self.text_only:
            return ""
        names = list(map(str, row))
        if len(names) == 1 and (other := next((mark for mark in ";|:\t" if mark in names[0]), None)):
            return f"; if its values are separated by {other!r}, set it in task.yaml: `separator: {json.dumps(other)}`"
        if not set(self._needed) & set(names):
            wanted = [*self._needed, *(f"other_{at}" for at in range(len(names) - len(self._needed)))][: len(names)]
            return (
                f"; if the first line is not a heading, name the columns in task.yaml: `header: [{', '.join(wanted)}]`"
            )
        return ""

    def _name(self, row: Mapping[str, Any], number: int, place: str, where: str) -> str:
        column = self.columns.id
        if column is None:
            return str(number)
        name = row[column]
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            raise DataError(f"{where}: the id '{column}' is {name!r}, expected text or a number")
        if str(name) in self._seen:
            raise DataError(
                f"{where}: the id {name!r} appears in {self._seen[str(name)]} too; "
                "make the ids unique, or declare no id column"
            )
        self._seen[str(name)] = place
        return str(name)

    def text(self, row: Mapping[str, Any], column: str | None, where: str) -> str:
        """The text in a column.

        Raises:
            DataError: if there is none.
        """
        text: str = row[str(column)]
        if not is_text(text):
            what = "text without half a surrogate pair" if isinstance(text, str) else "text"
            raise DataError(f"{where}: '{column}' is {shown(text)}, expected {what}")
        if not text.strip():
            raise DataError(f"{where}: '{column}' is empty, expected text")
        return text

    def pair(self, row: Mapping[str, Any], where: str) -> tuple[str, str | None]:
        """The text, and the second text if there is a column for it."""
        second = self.text(row, self.columns.text_pair, where) if self.columns.text_pair else None
        return self.text(row, self.columns.text, where), second

    def label(self, value: Any, where: str) -> int:
        """The index of a label, which the data may give by name, number or declared value.

        Raises:
            DataError: if it is unknown.
        """
        labels, values = self.form.labels, self.form.values
        given = value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if values:  # what is not among them is unknown
            value = self.by_value(value)
        elif isinstance(value, str) and value not in labels:
            value = value.strip()
            whole = whole_number(value)
            value = int(whole) if whole.isdecimal() else truth(value, labels)
        elif isinstance(value, bool):
            value = truth(value, labels)
        if isinstance(value, int) and not isinstance(value, bool):
            if any(label.isdecimal() for label in labels):  # the numbers are names, as in 1, 2, 3+
                value = str(value)
            elif 0 <= value < len(labels):
                value = labels[value]
        label = self._merge.get(value, value) if isinstance(value, str) else value
        if not isinstance(label, str) or label not in self._index or (value not in labels):
            texts = ", ".join(map(repr, self.form.values))
            known = texts or ", ".join(f"{index} ({label})" for index, label in enumerate(labels))
            hint = ""
            if isinstance(given, bool):
                hint = '; map true and false in task.yaml: `values: {"True": ..., "False": ...}`'
            elif given in (-1, "-1", None, "") and "label" in str(self.columns):
                hint = "; if it means no label, set `ignore_labels: [-1]`" if given in (-1, "-1") else ""
            raise DataError(f"{where}: unknown label {shown(given)}; expected {known}{hint}")
        return self._index[label]

    def by_value(self, value: Any) -> Any:
        """What `values` maps a label to; a label's own name if it is not among the texts; else None."""
        if not isinstance(value, str | int):
            return None
        texts = {str(value), str(value).lower()} if isinstance(value, bool) else {str(value)}
        if self.text_only:
            texts.add(whole_number(str(value)))
        for text in texts:
            if text in self.form.values:
                return self.form.values[text]
        return value if isinstance(value, str) and value in self.form.labels else None

    def listed(self, value: Any, column: str | None, where: str) -> list[Any]:
        """The list in a column, which may be written out as text.

        Raises:
            DataError: if it is not a list.
        """
        if isinstance(value, str) and (self.text_only or is_written_list(value)):
            return words(value, column, where)
        if not isinstance(value, list):
            raise DataError(f"{where}: '{column}' is {shown(value)}, expected a list")
        return value

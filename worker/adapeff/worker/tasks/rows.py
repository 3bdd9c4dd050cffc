"""Rows of a data set to examples of a family, strictly: what is not as declared is an error that names the row.

Nothing is guessed. A label that the declaration does not know would silently become another class otherwise, as every
label but "Positive" became negative in the study's sentiment scripts.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import field_validator

from adapeff.service.errors import DataError
from adapeff.service.plugins.contracts import (
    IGNORED_TAG,
    Answer,
    ChoiceExample,
    Example,
    FamilyName,
    Frozen,
    QuestionExample,
    TaggedExample,
)
from adapeff.worker.tasks.files import FileForm

OUTSIDE = "O"
PREFIXES = "BIES"
BILOU_TWINS = {"L": "E", "U": "S"}


class Columns(Frozen):
    """Which column of the data holds what."""

    id: str | None = None
    """Names the example in stored predictions; the row's number where none is given."""
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
    """One column that holds a list, or a column per choice; an absent (null) choice is left out."""


class RowForm(FileForm):
    """How the rows of a data set are to be read."""

    family: FamilyName
    columns: Columns
    labels: tuple[str, ...] = ()
    """Names in the order of the data's integers."""
    values: Mapping[str, str | int] = {}
    """Text in the label column -> label name (classification), or number of the choice from 0 (multiple choice)."""
    questions: Mapping[str, str] = {}
    """What the question column of a multiple choice set holds -> the question asked: cause -> What was the cause?"""
    unanswerable: bool | Literal["predict"] = False
    """The data hold questions without an answer: true: they are left out, since SQuAD 1.1's scores know none;
    `predict`: that there is none is an answer like others, as in SQuAD 2.0."""
    unlabelled: bool = False
    """The data hold rows whose label is null: they are left out."""
    ignore_labels: tuple[str | int, ...] = ()
    """Labels that mean there is none, such as -1: their rows are left out, of tags only the tag."""

    @field_validator("values", mode="before")
    @classmethod
    def _keys_are_texts(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {str(key): _as_text(item) for key, item in value.items()}

    @field_validator("labels", mode="before")
    @classmethod
    def _truths_and_numbers_are_texts(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [str(_as_text(item)) if isinstance(item, bool | int) else item for item in value]

    @field_validator("ignore_labels", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int) else value

    def needed(self) -> dict[str, tuple[str, ...]]:
        """What the family needs -> the columns that hold it."""
        columns = self.columns
        of_family: dict[str, dict[str, Any]] = {
            "sequence_classification": {"text": columns.text, "label": columns.label},
            "token_classification": {"tokens": columns.tokens, "tags": columns.tags},
            "question_answering": {
                "question": columns.question,
                "context": columns.context,
                **(
                    {"answers": columns.answers}
                    if columns.answer_text is None
                    else {"answer_text": columns.answer_text, "answer_start": columns.answer_start}
                ),
            },
            "multiple_choice": {"text": columns.text, "choices": columns.choices, "label": columns.label},
        }
        given = {
            need: (column,) if isinstance(column, str) else tuple(column or ())
            for need, column in of_family[self.family].items()
        }
        for extra in ("text_pair", "question", "id"):
            if (column := getattr(columns, extra)) is not None:
                given[extra] = (column,)
        return given


class RowReader:
    """Turns the rows of one file into examples whose labels are indices into a task's labels."""

    def __init__(
        self, form: RowForm, labels: Sequence[str], merge: Mapping[str, str], *, origin: str, text_only: bool
    ) -> None:
        """Prepare to read.

        Args:
            labels: the task's; those of the data set may come in another order.
            merge: labels of the data set -> labels of the task, such as B-MISC -> O.
            origin: names the file in messages.
            text_only: the file's form knows only text, so that numbers and lists are written out in it.
        """
        self._form = form
        self._columns = form.columns
        self._index = {label: index for index, label in enumerate(labels)}
        self._merge = merge
        self._origin = origin
        self._text_only = text_only
        self._seen: dict[str, str] = {}
        self._ignored = {str(label) for label in form.ignore_labels}
        self.left_out = 0
        """Rows without an answer or label, which are known to be there."""
        self._needed = [column for columns in form.needed().values() for column in columns]

    def read(self, row: Mapping[str, Any], number: int, place: str = "") -> Any:
        """The example in the `number`-th row; None for one without an answer, where the data are known to hold such.

        Args:
            place: where the row stands, in words.

        Raises:
            DataError: naming the row, what is wrong and what was expected.
        """
        place = place or f"row {number}"
        where = f"{self._origin}, {place}"
        for column in self._needed:
            if column not in row:
                raise DataError(f"{where}: no column '{column}'; {found_columns(row)}{self._hint(row)}")
        name = self._name(row, number, place, where)
        label = row[self._columns.label] if self._columns.label is not None else 0
        if (self._form.unlabelled and label is None) or (self._ignored and self._is_ignored(label)):
            self.left_out += 1
            return None
        makers: dict[str, Callable[..., Any]] = {
            "sequence_classification": self._classified,
            "token_classification": self._tagged,
            "question_answering": self._question,
            "multiple_choice": self._choice,
        }
        example = makers[self._form.family](row, name, where)
        self.left_out += example is None
        return example

    def _is_ignored(self, label: Any) -> bool:
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        return isinstance(label, str | int) and (
            str(label) in self._ignored or (self._text_only and whole_number(str(label)) in self._ignored)
        )

    def _hint(self, row: Mapping[str, Any]) -> str:
        """The line of a declaration that would read the file, as far as its first line tells."""
        if not self._text_only:
            return ""
        names = list(map(str, row))
        if len(names) == 1 and (other := next((mark for mark in ";|:\t" if mark in names[0]), None)):
            return f"; if its values are separated by {other!r}, say so in task.yaml: `separator: {json.dumps(other)}`"
        if not set(self._needed) & set(names):
            wanted = [*self._needed, *(f"other_{at}" for at in range(len(names) - len(self._needed)))][: len(names)]
            return f"; if the first line is no heading, name the columns in task.yaml: `header: [{', '.join(wanted)}]`"
        return ""

    def _name(self, row: Mapping[str, Any], number: int, place: str, where: str) -> str:
        column = self._columns.id
        if column is None:
            return str(number)
        name = row[column]
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            raise DataError(f"{where}: the id '{column}' is {name!r}, expected text or a number")
        if str(name) in self._seen:
            raise DataError(
                f"{where}: the id {name!r} stands in {self._seen[str(name)]} too; "
                "make ids differ, or declare no id column"
            )
        self._seen[str(name)] = place
        return str(name)

    def _text(self, row: Mapping[str, Any], column: str | None, where: str) -> str:
        text: str = row[str(column)]
        if not _is_text(text):
            what = "text without half a surrogate pair" if isinstance(text, str) else "text"
            raise DataError(f"{where}: '{column}' is {_shown(text)}, expected {what}")
        if not text.strip():
            raise DataError(f"{where}: '{column}' is empty, expected text")
        return text

    def _classified(self, row: Mapping[str, Any], name: str, where: str) -> Example:
        columns = self._columns
        pair = self._text(row, columns.text_pair, where) if columns.text_pair else None
        label = self._label(row[str(columns.label)], where)
        return Example(name, self._text(row, columns.text, where), pair, label)

    def _label(self, value: Any, where: str) -> int:
        labels, values = self._form.labels, self._form.values
        given = value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if values:  # what is not among them is unknown
            value = self._by_value(value)
        elif isinstance(value, str) and value not in labels:
            value = value.strip()
            whole = whole_number(value)
            value = int(whole) if whole.isdecimal() else _truth(value, labels)
        elif isinstance(value, bool):
            value = _truth(value, labels)
        if isinstance(value, int) and not isinstance(value, bool):
            if any(label.isdecimal() for label in labels):  # the numbers are names, as in 1, 2, 3+
                value = str(value)
            elif 0 <= value < len(labels):
                value = labels[value]
        label = self._merge.get(value, value) if isinstance(value, str) else value
        if not isinstance(label, str) or label not in self._index or (value not in labels):
            texts = ", ".join(map(repr, self._form.values))
            known = texts or ", ".join(f"{index} ({label})" for index, label in enumerate(labels))
            hint = ""
            if isinstance(given, bool):
                hint = '; map true and false in task.yaml: `values: {"True": ..., "False": ...}`'
            elif given in (-1, "-1", None, "") and "label" in str(self._columns):
                hint = "; if it means that there is none, say `ignore_labels: [-1]`" if given in (-1, "-1") else ""
            raise DataError(f"{where}: unknown label {_shown(given)}; expected {known}{hint}")
        return self._index[label]

    def _by_value(self, value: Any) -> Any:
        """What `values` says of a label; its own name where that is none of the texts but a label; else None."""
        if not isinstance(value, str | int):
            return None
        texts = {str(value), str(value).lower()} if isinstance(value, bool) else {str(value)}
        if self._text_only:
            texts.add(whole_number(str(value)))
        for text in texts:
            if text in self._form.values:
                return self._form.values[text]
        return value if isinstance(value, str) and value in self._form.labels else None

    def _tagged(self, row: Mapping[str, Any], name: str, where: str) -> TaggedExample:
        tokens = self._list(row[str(self._columns.tokens)], self._columns.tokens, where)
        tags = self._list(row[str(self._columns.tags)], self._columns.tags, where)
        if len(tokens) != len(tags):
            raise DataError(f"{where}: {len(tokens)} tokens but {len(tags)} tags; expected one tag a token")
        if not tokens:
            raise DataError(f"{where}: no tokens; expected at least one")
        for token in tokens:
            if not _is_text(token):
                raise DataError(f"{where}: the token {_shown(token)} is no text")
        found = tuple(IGNORED_TAG if self._is_ignored(tag) else self._label(tag, where) for tag in tags)
        return TaggedExample(name, tuple(tokens), found)

    def _list(self, value: Any, column: str | None, where: str) -> list[Any]:
        if isinstance(value, str) and (self._text_only or value.lstrip().startswith(_LISTS)):
            return words(value, column, where)
        if not isinstance(value, list):
            raise DataError(f"{where}: '{column}' is {_shown(value)}, expected a list")
        return value

    def _question(self, row: Mapping[str, Any], name: str, where: str) -> QuestionExample | None:
        question = self._text(row, self._columns.question, where)
        context = self._text(row, self._columns.context, where)
        answers = [answer for answer in self._answers(row, where) if answer[0] not in ("", None)]
        if answers and str(row.get("is_impossible", "")).lower() in ("true", "1"):
            raise DataError(f"{where}: the question has an answer, but is_impossible says it has none; correct one")
        if not answers:
            if self._form.unanswerable == "predict":
                return QuestionExample(name, question, context, ())
            if self._form.unanswerable:
                return None
            raise DataError(
                f"{where}: the question has no answer, and SQuAD 1.1's scores know none; "
                "leave it out, or declare unanswerable: true (left out) or predict (SQuAD 2.0)"
            )
        return QuestionExample(name, question, context, tuple(self._span(context, *one, where) for one in answers))

    def _answers(self, row: Mapping[str, Any], where: str) -> list[tuple[Any, Any]]:
        columns = self._columns
        if columns.answer_text is not None:
            return [(row[columns.answer_text], row[str(columns.answer_start)])]
        value = row[str(columns.answers)]
        if value is None or value == []:
            return []
        if isinstance(value, list) and all(isinstance(one, Mapping) and "text" in one for one in value):
            return [(one["text"], one.get("answer_start")) for one in value]
        texts, starts = (value.get("text"), value.get("answer_start")) if isinstance(value, Mapping) else (None, None)
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(
                f"{where}: '{columns.answers}' is {_shown(value)}, "
                "expected {text: [...], answer_start: [...]} of equal length"
            )
        return list(zip(texts, starts, strict=True))

    def _span(self, context: str, text: Any, start: Any, where: str) -> Answer:
        if self._text_only and isinstance(start, str) and start.isdecimal():
            start = int(start)
        if isinstance(start, float) and start.is_integer():
            start = int(start)
        if isinstance(text, str) and not text.strip():
            raise DataError(f"{where}: the answer is blank ({text!r}), expected text that stands in the context")
        if not _is_text(text) or not isinstance(start, int) or isinstance(start, bool):
            raise DataError(f"{where}: the answer is {_shown(text)} at {_shown(start)}, expected text at a number")
        found = context[start : start + len(text)] if start >= 0 else ""
        if found != text:
            nearest = min(_places(context, text), key=lambda at: abs(at - start), default=None)
            hint = "it is not in the context" if nearest is None else f"it stands at {nearest}"
            raise DataError(
                f"{where}: the answer {_shown(text)} is not at character {start} of the context, "
                f"where {_shown(found)} stands; {hint}"
            )
        return Answer(text, start)

    def _choice(self, row: Mapping[str, Any], name: str, where: str) -> ChoiceExample:
        columns = self._columns
        names: list[str] = []
        if isinstance(columns.choices, str):
            given, names = self._given_choices(row[columns.choices], columns.choices, where)
        else:
            absent = (None, "") if self._text_only else (None,)
            given = [row[column] for column in columns.choices or () if row[column] not in absent]
        for choice in given:
            if not _is_text(choice) or not choice.strip():
                raise DataError(f"{where}: the choice {_shown(choice)} is no text")
        if len(given) < 2:
            raise DataError(f"{where}: {len(given)} choice(s), expected at least two")
        asked = self._text(row, columns.question, where) if columns.question else ""
        if self._form.questions:
            if asked not in self._form.questions:
                known = ", ".join(map(repr, self._form.questions))
                raise DataError(f"{where}: unknown question {_shown(asked)}; expected {known}")
            asked = self._form.questions[asked]
        choices = tuple(f"{asked} {choice}" if asked else choice for choice in given)
        label = self._place(row[str(columns.label)], len(given), names, where)
        return ChoiceExample(name, self._text(row, columns.text, where), choices, label)

    def _given_choices(self, value: Any, column: str, where: str) -> tuple[list[Any], list[str]]:
        """The choices, and their names where the data name them, as {label: [A, B], text: [...]}."""
        if self._text_only:
            if not str(value).lstrip().startswith("["):
                raise DataError(
                    f'{where}: \'{column}\' is {_shown(value)}, expected a list such as ["a", "b"]; or name a column '
                    "for each choice"
                )
            return words(str(value), column, where), []
        if isinstance(value, Mapping) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
            names = [str(name) for name in value["label"]]
            if len(names) != len(value["text"]) or len(set(names)) != len(names):
                raise DataError(f"{where}: '{column}' names its choices {names}, expected a name for each, none twice")
            return value["text"], names
        if isinstance(value, Mapping) and value and all(_is_text(choice) for choice in value.values()):
            return list(value.values()), [str(name) for name in value]
        given = self._list(value, column, where)
        if given and all(isinstance(one, Mapping) and {"label", "text"} <= one.keys() for one in given):
            names = [str(one["label"]) for one in given]
            if len(set(names)) != len(names):
                raise DataError(f"{where}: '{column}' names its choices {names}, expected a name for each, none twice")
            return [one["text"] for one in given], names
        return given, []

    def _place(self, value: Any, choices: int, names: Sequence[str], where: str) -> int:
        place = value
        if isinstance(value, float) and value.is_integer():
            place = int(value)
        if self._form.values:
            place = self._by_value(value)
        elif str(value) in names:
            place = names.index(str(value))
        elif isinstance(place, str) and whole_number(place).isdecimal():
            place = int(whole_number(place))
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < choices:
            texts = ", ".join(map(repr, self._form.values))
            known = texts or ", ".join(names) or f"0 to {choices - 1}"
            raise DataError(f"{where}: unknown label {_shown(value)}; expected {known}")
        return place


_LISTS = ("[", "(")


def words(value: str, column: str | None, where: str) -> list[Any]:
    """A list that was written out into a text: as JSON or Python writes it, or as words apart by spaces.

    Raises:
        DataError: if it is neither.
    """
    if not (value.lstrip().startswith(_LISTS) and value.rstrip().endswith(("]", ")"))):
        found = value.split()
        if len(found) == 1 and len(re.findall(r"[^\W\d][,|](?=[^\W\d])", value)) > 1:
            raise DataError(
                f"{where}: '{column}' is {_shown(value)}, expected words apart by spaces, or a list such as "
                '["a", "b"]'
            )
        return found
    for read in (json.loads, ast.literal_eval):
        try:
            read_as = read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(read_as, list | tuple) and not _ADJACENT.search(value):
            return list(read_as)
    if value.split() != [value.strip()] and not re.search(r"['\",]", value):
        return value.split()  # brackets that are tokens, as in ( who )
    raise DataError(
        f'{where}: \'{column}\' is {_shown(value)}, expected a list such as ["a", "b"], with commas, or words '
        "apart by spaces"
    )


_ADJACENT = re.compile(r"""['"]\s+['"]""")
"""Two texts without a comma between, as numpy writes lists: Python would join them."""


def _as_text(value: Any) -> Any:
    """YAML's true and false as they are written."""
    return str(value).lower() if isinstance(value, bool) else value


def _truth(value: str | bool, labels: Sequence[str]) -> Any:
    """The label that true or false is, however each is written: True, true, TRUE."""
    written = str(value).lower()
    if written not in ("true", "false"):
        return value
    return next((label for label in labels if label.lower() == written), value)


def whole_number(text: str) -> str:
    """A number written with decimals that are none (2.0, as a table with gaps is saved), without them."""
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0*", text) else text


def found_columns(row: Iterable[Any]) -> str:
    """The columns that are there, each cut short: a first line that is no heading may be anything."""
    names = [_shown(str(name))[1:-1] if len(str(name)) > 40 else str(name) for name in row]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"found: {', '.join(names[:12]) or 'none'}{more}"


def is_plain(labels: Iterable[str]) -> bool:
    """Whether tags are no chunks: none has a prefix such as B-, as parts of speech have none."""
    return not any(re.match(r"[BIESLU]-", label) for label in labels)


def bilou_twins(labels: Iterable[str]) -> dict[str, str]:
    """BILOU's last and unit tags -> those of BIOES that mean the same; nothing where the tags are of another kind."""
    every = list(labels)
    if any(label.startswith(("E-", "S-")) for label in every):
        return {}
    return {label: f"{BILOU_TWINS[label[0]]}{label[1:]}" for label in every if label.startswith(("L-", "U-"))}


def tag_fault(label: str) -> str | None:
    """What is wrong with a tag's name, if anything."""
    prefix, hyphen, kind = label.partition("-")
    if label == OUTSIDE or (prefix in PREFIXES and len(prefix) == 1 and hyphen and kind.split() == [kind]):
        return None
    return f"'{label}' is no tag; expected O, or B-, I-, E- or S- and a type without spaces, such as B-PER"


def _places(context: str, text: str) -> list[int]:
    found: list[int] = []
    at = context.find(text)
    while at >= 0 and len(found) < 1000:
        found.append(at)
        at = context.find(text, at + 1)
    return found


def _is_text(value: Any) -> bool:
    """Whether it is text that a tokenizer can take: half a surrogate pair, which JSON can write, is none."""
    return isinstance(value, str) and (
        value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

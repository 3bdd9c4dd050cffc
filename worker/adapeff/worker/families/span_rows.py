"""Questions with their answers in a context, as rows of data files have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from adapeff.service.errors import DataError
from adapeff.worker.families.values import is_text, shown

if TYPE_CHECKING:
    from adapeff.worker.families.rows import RowReader


class Answer(NamedTuple):
    """An answer in a context: `context[start:].startswith(text)`."""

    text: str
    start: int


class QuestionExample(NamedTuple):
    """A question about a context; training learns the first answer, and any of them is correct.

    No answers mean that there is none, where a task asks for that.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]


def read_question(reader: RowReader, row: Mapping[str, Any], name: str, where: str) -> QuestionExample | None:
    """The example in a row; None if it has no answer and such rows are left out."""
    question = reader.text(row, reader.columns.question, where)
    context = reader.text(row, reader.columns.context, where)
    answers = [answer for answer in _answers(reader, row, where) if answer[0] not in ("", None)]
    if answers and str(row.get("is_impossible", "")).lower() in ("true", "1"):
        raise DataError(f"{where}: the question has an answer, but is_impossible says it has none; correct one")
    if not answers:
        if reader.form.unanswerable == "predict":
            return QuestionExample(name, question, context, ())
        if reader.form.unanswerable:
            return None
        raise DataError(
            f"{where}: the question has no answer, which SQuAD 1.1's scores do not cover; "
            "leave it out, or declare unanswerable: true (left out) or predict (SQuAD 2.0)"
        )
    return QuestionExample(name, question, context, tuple(_span(reader, context, *one, where) for one in answers))


def _answers(reader: RowReader, row: Mapping[str, Any], where: str) -> list[tuple[Any, Any]]:
    columns = reader.columns
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
            f"{where}: '{columns.answers}' is {shown(value)}, "
            "expected {text: [...], answer_start: [...]} of equal length"
        )
    return list(zip(texts, starts, strict=True))


def _span(reader: RowReader, context: str, text: Any, start: Any, where: str) -> Answer:
    if reader.text_only and isinstance(start, str) and start.isdecimal():
        start = int(start)
    if isinstance(start, float) and start.is_integer():
        start = int(start)
    if isinstance(text, str) and not text.strip():
        raise DataError(f"{where}: the answer is blank ({text!r}), expected text from the context")
    if not is_text(text) or not isinstance(start, int) or isinstance(start, bool):
        raise DataError(f"{where}: the answer is {shown(text)} at {shown(start)}, expected text at a number")
    found = context[start : start + len(text)] if start >= 0 else ""
    if found != text:
        nearest = min(_places(context, text), key=lambda at: abs(at - start), default=None)
        hint = "it is not in the context" if nearest is None else f"it is at {nearest}"
        raise DataError(
            f"{where}: the answer {shown(text)} is not at character {start} of the context, "
            f"which has {shown(found)} there; {hint}"
        )
    return Answer(text, start)


def has_no_answer(value: Any) -> bool:
    """Whether a column of answers marks a question without an answer."""
    found = value.get("text") if isinstance(value, Mapping) else value
    return found in (None, "", [])


def _places(context: str, text: str) -> list[int]:
    found: list[int] = []
    at = context.find(text)
    while at >= 0 and len(found) < 1000:
        found.append(at)
        at = context.find(text, at + 1)
    return found

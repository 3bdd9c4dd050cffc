"""Multiple choice: a score for each choice of an example, however many there are."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adapeff.service.errors import DataError
from adapeff.worker.families.base import Family, Metrics
from adapeff.worker.families.sequences import most_common
from adapeff.worker.families.values import is_text, shown, whole_number, words

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapeff.worker.families.drafts import Table
    from adapeff.worker.families.encoding import Batch, Encoded
    from adapeff.worker.families.rows import Columns, RowReader


class ChoiceExample(NamedTuple):
    """A text with any number of choices; `label` is the index of the correct one."""

    id: str
    text: str
    choices: tuple[str, ...]
    label: int


class MultipleChoice(Family):
    """One row per choice, paired with the text; the rows of an example compete in one softmax."""

    name = "multiple_choice"
    summary = "one of any number of choices"
    pipeline_tag = "multiple-choice"
    example = ChoiceExample

    @classmethod
    def needed_columns(cls, columns: Columns) -> dict[str, str | tuple[str, ...] | None]:
        """A text, its choices, and the number or name of the correct one."""
        return {"text": columns.text, "choices": columns.choices, "label": columns.label}

    @classmethod
    def read_row(cls, reader: RowReader, row: Mapping[str, Any], name: str, where: str) -> ChoiceExample:
        """Each choice with the question before it, if there is one."""
        columns = reader.columns
        names: list[str] = []
        if isinstance(columns.choices, str):
            given, names = _given_choices(reader, row[columns.choices], columns.choices, where)
        else:
            absent = (None, "") if reader.text_only else (None,)
            given = [row[column] for column in columns.choices or () if row[column] not in absent]
        for choice in given:
            if not is_text(choice) or not choice.strip():
                raise DataError(f"{where}: the choice {shown(choice)} is not text")
        if len(given) < 2:
            raise DataError(f"{where}: {len(given)} choice(s), expected at least two")
        asked = _question(reader, row, where)
        choices = tuple(f"{asked} {choice}" if asked else choice for choice in given)
        label = _place(reader, row[str(columns.label)], len(given), names, where)
        return ChoiceExample(name, reader.text(row, columns.text, where), choices, label)

    @classmethod
    def default_metrics(cls, labels: Sequence[str], options: Mapping[str, Any]) -> Metrics:
        """Accuracy alone: the places of choices are not classes."""
        return "accuracy", ()

    @classmethod
    def dealt_by(cls, example: ChoiceExample) -> Hashable:
        """The place of the correct choice."""
        return example.label

    @classmethod
    def counted(cls, labels: Sequence[str], example: ChoiceExample) -> list[str]:
        """The place of the correct choice."""
        return [f"choice {example.label + 1} of {len(example.choices)}"]

    @classmethod
    def draft(cls, table: Table) -> dict[str, Any] | None:
        """Columns named after choices and a label."""
        by_role = table.by_role
        if not by_role["choices"] or not by_role["label"]:
            return None
        text = by_role["text"] or by_role["question"] or by_role["context"]
        return {"columns": {"text": str(text), **table.named("choices", "label")}}

    def encode_part(self, examples: Sequence[ChoiceExample], tokenizer: Any) -> Encoded:
        """Pairs of text and choice, cut to `max_length`."""
        from adapeff.worker.families.encoding import Rows, paddings

        texts = [example.text for example in examples for _ in example.choices]
        choices = [choice for example in examples for choice in example.choices]
        columns = tokenizer(texts, choices, truncation=True, max_length=self.max_length)
        rows = Rows(paddings(columns, tokenizer))
        rows.inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        labels = [example.label for example in examples]
        return rows.encoded({"label": labels}, row_counts=[len(example.choices) for example in examples])

    def make_head(self, hidden_size: int) -> nn.Module:
        """Dense + tanh and linear on the first token, one score."""
        from adapeff.worker.families.heads import ClassificationHead

        return ClassificationHead(hidden_size, 1, self.head_dropout)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy over the choices of each item; logits are rows x 1."""
        from torch.nn import functional

        return functional.cross_entropy(_by_item(logits, batch), batch.targets["label"])

    def read(self, logits: Tensor, batch: Batch) -> list[Any]:
        """(choice, its probability) of each item."""
        best = _by_item(logits, batch).softmax(dim=-1).max(dim=-1)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def gold(self, example: ChoiceExample) -> int:
        """The correct choice's index."""
        return example.label

    def trivial_answers(self, examples: Sequence[ChoiceExample]) -> Iterator[list[Any]]:
        """The place where the correct choice is most often."""
        yield most_common([example.label for example in examples])

    def stratum(self, example: ChoiceExample) -> Hashable:
        """The place of the correct choice."""
        return example.label


def _by_item(logits: Tensor, batch: Batch) -> Tensor:
    """Scores, items x most choices; places without a choice are minus infinity."""
    from torch.nn.utils.rnn import pad_sequence

    if len(set(batch.row_counts)) == 1:
        return logits.view(batch.items, -1)
    logits_by_item = logits[:, 0].split(batch.row_counts)
    return pad_sequence(list(logits_by_item), batch_first=True, padding_value=float("-inf"))


def _question(reader: RowReader, row: Mapping[str, Any], where: str) -> str:
    """The question of a row as it is asked; '' if there is no column for it."""
    asked = reader.text(row, reader.columns.question, where) if reader.columns.question else ""
    if not reader.form.questions:
        return asked
    if asked not in reader.form.questions:
        known = ", ".join(map(repr, reader.form.questions))
        raise DataError(f"{where}: unknown question {shown(asked)}; expected {known}")
    return reader.form.questions[asked]


def _given_choices(reader: RowReader, value: Any, column: str, where: str) -> tuple[list[Any], list[str]]:
    """The choices, and their names where the data name them, as {label: [A, B], text: [...]}."""
    if reader.text_only:
        if not str(value).lstrip().startswith("["):
            raise DataError(
                f'{where}: \'{column}\' is {shown(value)}, expected a list such as ["a", "b"]; or name a column '
                "for each choice"
            )
        return words(str(value), column, where), []
    if isinstance(value, Mapping) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
        names = [str(name) for name in value["label"]]
        if len(names) != len(value["text"]) or len(set(names)) != len(names):
            raise DataError(f"{where}: '{column}' names its choices {names}, expected a name for each, none twice")
        return value["text"], names
    if isinstance(value, Mapping) and value and all(is_text(choice) for choice in value.values()):
        return list(value.values()), [str(name) for name in value]
    given = reader.listed(value, column, where)
    if given and all(isinstance(one, Mapping) and {"label", "text"} <= one.keys() for one in given):
        names = [str(one["label"]) for one in given]
        if len(set(names)) != len(names):
            raise DataError(f"{where}: '{column}' names its choices {names}, expected a name for each, none twice")
        return [one["text"] for one in given], names
    return given, []


def _place(reader: RowReader, value: Any, choices: int, names: Sequence[str], where: str) -> int:
    place = value
    if isinstance(value, float) and value.is_integer():
        place = int(value)
    if reader.form.values:
        place = reader.by_value(value)
    elif str(value) in names:
        place = names.index(str(value))
    elif isinstance(place, str) and whole_number(place).isdecimal():
        place = int(whole_number(place))
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < choices:
        texts = ", ".join(map(repr, reader.form.values))
        known = texts or ", ".join(names) or f"0 to {choices - 1}"
        raise DataError(f"{where}: unknown label {shown(value)}; expected {known}")
    return place

"""Regression: one text or a pair, one number, such as how similar two sentences are (STS-B: Cer et al. 2017)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adapeff.service.errors import DataError
from adapeff.worker.families.base import Family, Metrics
from adapeff.worker.families.sequences import encode_texts
from adapeff.worker.families.values import shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapeff.worker.families.drafts import Table
    from adapeff.worker.families.encoding import Batch, Encoded
    from adapeff.worker.families.rows import Columns, RowReader

MAX_VALUE = 1e18
"""The squares of much larger numbers overflow in 32 bits."""
BINS = 5


class ScoredExample(NamedTuple):
    """A text or a pair, and the number to be predicted."""

    id: str
    text: str
    text_pair: str | None
    value: float


class Regression(Family):
    """One linear output on the first token, trained with mean squared error; targets are used as they are."""

    name = "regression"
    summary = "a number for a text or a pair"
    pipeline_tag = "text-classification"
    example = ScoredExample
    target = "value"

    @classmethod
    def needed_columns(cls, columns: Columns) -> dict[str, str | tuple[str, ...] | None]:
        """A text and a number."""
        return {"text": columns.text, "label": columns.label}

    @classmethod
    def read_row(cls, reader: RowReader, row: Mapping[str, Any], name: str, where: str) -> ScoredExample:
        """Texts and a finite number, which may be written as text."""
        text, pair = reader.pair(row, where)
        return ScoredExample(name, text, pair, _number(row[str(reader.columns.label)], reader.columns.label, where))

    @classmethod
    def default_metrics(cls, labels: Sequence[str], options: Mapping[str, Any]) -> Metrics:
        """Pearson's and Spearman's correlation, as GLUE reports for STS-B, and the mean squared error."""
        return "pearson", ("spearman", "mse")

    @classmethod
    def target_counts(cls, labels: Sequence[str], examples: Sequence[ScoredExample]) -> dict[str, int]:
        """How many targets are in each fifth of their range."""
        values = [example.value for example in examples]
        low, width = min(values), (max(values) - min(values)) / BINS
        if not width:
            return {f"{low:g}": len(values)}
        counts = [0] * BINS
        for value in values:
            counts[min(BINS - 1, int((value - low) / width))] += 1
        return {f"{low + at * width:g} to {low + (at + 1) * width:g}": count for at, count in enumerate(counts)}

    @classmethod
    def warnings(
        cls, labels: Sequence[str], examples: Sequence[ScoredExample], earlier: Mapping[str, Sequence[ScoredExample]]
    ) -> Iterator[str]:
        """Targets that are all the same, or outside the range of training."""
        values = [example.value for example in examples]
        if len(set(values)) == 1:
            yield f"every value is {values[0]:g}, so that no correlation is defined"
        if train := earlier.get("train"):
            known = [example.value for example in train]
            outside = sum(not min(known) <= value <= max(known) for value in values)
            if outside:
                yield f"{outside} values are outside the range of training ({min(known):g} to {max(known):g})"

    @classmethod
    def draft(cls, table: Table) -> dict[str, Any] | None:
        """A text next to a column of numbers, not all of them whole."""
        column = table.by_role["score"] or table.by_role["label"]
        texts = table.text_columns(column)
        if column is None or texts is None:
            return None
        numbers = [_as_number(value) for value in table.present(column)]
        if all(number is None or number.is_integer() for number in numbers) or None in numbers:
            return None
        return {"columns": {**texts, "label": column}, **table.absent(column)}

    def encode_part(self, examples: Sequence[ScoredExample], tokenizer: Any) -> Encoded:
        """Texts or pairs, cut to `max_length`."""
        rows = encode_texts(examples, tokenizer, self.max_length)
        return rows.encoded({"value": [float(example.value) for example in examples]})

    def make_head(self, hidden_size: int) -> nn.Module:
        """Dense + tanh and linear on the first token, one number."""
        from adapeff.worker.families.heads import ClassificationHead

        return ClassificationHead(hidden_size, 1, self.head_dropout)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean squared error; logits are items x 1."""
        from torch.nn import functional

        return functional.mse_loss(logits[:, 0], batch.targets["value"])

    def read(self, logits: Tensor, batch: Batch) -> list[Any]:
        """(value, value) of each item: a number comes without a confidence, so it is given in its place."""
        values = logits[:, 0].tolist()
        return list(zip(values, values, strict=True))

    @classmethod
    def agree(cls, answer: float, other: float) -> bool:
        """Equal up to rounding in 16 bits."""
        return math.isclose(answer, other, rel_tol=1e-2, abs_tol=1e-3)

    def gold(self, example: ScoredExample) -> float:
        """The number."""
        return example.value

    def trivial_answers(self, examples: Sequence[ScoredExample]) -> Iterator[list[Any]]:
        """The mean and the median of all targets."""
        values = [example.value for example in examples]
        for constant in (math.fsum(values) / len(values), statistics.median(values)):
            yield [constant] * len(values)


def _as_number(value: Any) -> float | None:
    """The finite number that a value is, or that a text says."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _number(value: Any, column: str | None, where: str) -> float:
    number = _as_number(value)
    if number is None or abs(number) > MAX_VALUE:
        raise DataError(f"{where}: '{column}' is {shown(value)}, expected a finite number; correct it or leave it out")
    return number

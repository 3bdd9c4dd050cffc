"""Multiple choice: a score for each choice of an example, however many it has."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapeff.service.plugins.contracts import ChoiceExample
from adapeff.worker.families.base import Batch, Encoded, Family, Rows, paddings
from adapeff.worker.families.heads import ClassificationHead
from adapeff.worker.families.sequences import most_common


class MultipleChoice(Family):
    """One row per choice, the text paired with it; the rows of an example compete in one softmax."""

    name = "multiple_choice"

    def encode_part(self, examples: Sequence[ChoiceExample], tokenizer: Any) -> Encoded:
        """Pairs of text and choice, cut to `max_length`."""
        texts = [example.text for example in examples for _ in example.choices]
        choices = [choice for example in examples for choice in example.choices]
        columns = tokenizer(texts, choices, truncation=True, max_length=self.max_length)
        rows = Rows(paddings(columns, tokenizer))
        rows.inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        labels = [example.label for example in examples]
        return rows.encoded({"label": labels}, row_counts=[len(example.choices) for example in examples])

    def make_head(self, hidden_size: int) -> nn.Module:
        """Dense + tanh and linear on the first token, one score."""
        return ClassificationHead(hidden_size, 1, self.head_dropout)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy over the choices of each item; logits are rows x 1."""
        return functional.cross_entropy(_by_item(logits, batch), batch.targets["label"])

    def read(self, logits: Tensor, batch: Batch) -> list[Any]:
        """(choice, its probability) of each item."""
        best = _by_item(logits, batch).softmax(dim=-1).max(dim=-1)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def gold(self, example: ChoiceExample) -> int:
        """The right choice's index."""
        return example.label

    def trivial_answers(self, examples: Sequence[ChoiceExample]) -> Iterator[list[Any]]:
        """The place where the right choice stands most often."""
        yield most_common([example.label for example in examples])

    def stratum(self, example: ChoiceExample) -> Hashable:
        """The place of the right choice."""
        return example.label


def _by_item(logits: Tensor, batch: Batch) -> Tensor:
    """Scores, items x most choices; places without a choice hold minus infinity."""
    if len(set(batch.row_counts)) == 1:
        return logits.view(batch.items, -1)
    apart = logits[:, 0].split(batch.row_counts)
    return torch.nn.utils.rnn.pad_sequence(apart, batch_first=True, padding_value=float("-inf"))

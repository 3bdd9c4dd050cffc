"""Sequence classification: one text or a pair, one label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from adapeff.service.plugins.contracts import Example
from adapeff.worker.families.base import Batch, Encoded, Family, Rows, paddings
from adapeff.worker.families.heads import ClassificationHead


class SequenceClassification(Family):
    """Inference, paraphrase, sentiment: the label of the first token's logits."""

    name = "sequence_classification"

    def encode_part(self, examples: Sequence[Example], tokenizer: Any) -> Encoded:
        """Texts or pairs, cut to `max_length`."""
        texts = [example.text for example in examples]
        pairs = [example.text_pair for example in examples] if examples[0].text_pair is not None else None
        columns = tokenizer(texts, pairs, truncation=True, max_length=self.max_length)
        rows = Rows(paddings(columns, tokenizer))
        rows.inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return rows.encoded({"label": [example.label for example in examples]})

    def make_head(self, hidden_size: int) -> nn.Module:
        """Dense + tanh and linear on the first token."""
        return ClassificationHead(hidden_size, len(self.labels), self.head_dropout)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of logits, items x labels."""
        return functional.cross_entropy(logits, batch.targets["label"])

    def read(self, logits: Tensor, batch: Batch) -> list[Any]:
        """(label, its probability) of each item."""
        best = logits.softmax(dim=-1).max(dim=-1)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def gold(self, example: Example) -> int:
        """The label's index."""
        return example.label

    def trivial_answers(self, examples: Sequence[Example]) -> Iterator[list[Any]]:
        """The most common label."""
        yield most_common([example.label for example in examples])

    def stratum(self, example: Example) -> Hashable:
        """The label."""
        return example.label


def most_common(labels: Sequence[int]) -> list[Any]:
    """The most common label, as often as there are labels."""
    return [Counter(labels).most_common(1)[0][0]] * len(labels)

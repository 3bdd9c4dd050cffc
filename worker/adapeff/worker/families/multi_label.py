"""Multi-label classification: one text or a pair, any number of labels, such as emotions (Demszky et al. 2020).

Each label has a probability of its own. Those at or above a threshold are the answer. The threshold is the same for all
labels: 0.5, unless another one of 0.05, 0.1, ..., 0.95 has a better micro F1 on the validation data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adapeff.service.specs.job import Training
from adapeff.worker.families.base import Family, Metrics
from adapeff.worker.families.drafts import Table, is_absent, label_names
from adapeff.worker.families.sequences import encode_texts
from adapeff.worker.families.values import is_written_list, words
from adapeff.worker.metrics.multi_label import LabelScores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapeff.worker.families.encoding import Batch, Encoded
    from adapeff.worker.families.rows import Columns, RowReader

THRESHOLDS = sorted((step / 20 for step in range(1, 20)), key=lambda threshold: abs(threshold - 0.5))


class MultiLabelExample(NamedTuple):
    """A text or a pair; `labels` are indices into the task's labels, in ascending order, none repeated."""

    id: str
    text: str
    text_pair: str | None
    labels: tuple[int, ...]


class MultiLabelClassification(Family):
    """A logit for each label, trained with binary cross entropy."""

    name = "multi_label_classification"
    summary = "any number of labels for a text or a pair"
    pipeline_tag = "text-classification"
    example = MultiLabelExample
    target = "labels"
    has_labels = True
    lists_labels = True

    @classmethod
    def needed_columns(cls, columns: Columns) -> dict[str, str | tuple[str, ...] | None]:
        """A text and a list of labels."""
        return {"text": columns.text, "label": columns.label}

    @classmethod
    def read_row(cls, reader: RowReader, row: Mapping[str, Any], name: str, where: str) -> MultiLabelExample:
        """A list of labels, which may be empty; ignored ones are left out."""
        text, pair = reader.pair(row, where)
        listed = reader.listed(row[str(reader.columns.label)], reader.columns.label, where)
        labels = {reader.label(label, where) for label in listed if not reader.is_ignored(label)}
        return MultiLabelExample(name, text, pair, tuple(sorted(labels)))

    @classmethod
    def default_metrics(cls, labels: Sequence[str], options: Mapping[str, Any]) -> Metrics:
        """Micro F1, macro F1 and mean average precision."""
        return "micro_f1", ("multi_label_macro_f1", "mean_average_precision")

    @classmethod
    def dealt_by(cls, example: MultiLabelExample) -> Hashable:
        """All the labels together."""
        return example.labels

    @classmethod
    def counted(cls, labels: Sequence[str], example: MultiLabelExample) -> list[str]:
        """The labels."""
        return [labels[label] for label in example.labels] or ["(none)"]

    @classmethod
    def warnings(
        cls,
        labels: Sequence[str],
        examples: Sequence[MultiLabelExample],
        earlier: Mapping[str, Sequence[MultiLabelExample]],
    ) -> Iterator[str]:
        """Labels that training never sees, or that every example has."""
        counts = Counter(label for example in examples for label in example.labels)
        if train := earlier.get("train"):
            unseen = set(counts) - {label for example in train for label in example.labels}
            if unseen:
                yield f"training never sees: {', '.join(labels[label] for label in sorted(unseen))}"
        absent = [label for at, label in enumerate(labels) if not counts[at]]
        if not earlier and absent:
            yield f"no example is: {', '.join(absent)}"
        everywhere = [labels[label] for label, count in sorted(counts.items()) if count == len(examples)]
        if everywhere:
            yield f"every example is: {', '.join(everywhere)}"

    @classmethod
    def draft(cls, table: Table) -> dict[str, Any] | None:
        """A text next to a column of lists."""
        column = table.by_role["label"]
        texts = table.text_columns(column)
        if column is None or texts is None:
            return None
        given = [value for value in table.values(column) if not is_absent(value)]
        if not given or not all(isinstance(v, list) or (isinstance(v, str) and is_written_list(v)) for v in given):
            return None
        lists = [value if isinstance(value, list) else words(value, column, column) for value in given]
        found = {str(label) for labels in lists for label in labels}
        names = label_names(sorted(found, key=lambda name: (len(name), name)))
        return {"columns": {**texts, "label": column}, "labels": names, **table.absent(column)}

    def __init__(self, labels: Sequence[str], training: Training) -> None:
        super().__init__(labels, training)
        self.threshold = 0.5

    @property
    def chooses(self) -> bool:
        """The threshold."""
        return True

    def encode_part(self, examples: Sequence[MultiLabelExample], tokenizer: Any) -> Encoded:
        """Texts or pairs, cut to `max_length`; targets are 1 for each label that an example has, else 0."""
        rows = encode_texts(examples, tokenizer, self.max_length)
        return rows.encoded({"labels": [[int(at in e.labels) for at in range(len(self.labels))] for e in examples]})

    def make_head(self, hidden_size: int) -> nn.Module:
        """Dense + tanh and linear on the first token, a logit for each label."""
        from adapeff.worker.families.heads import ClassificationHead

        return ClassificationHead(hidden_size, len(self.labels), self.head_dropout)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Binary cross entropy, averaged over items and labels; logits are items x labels."""
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(logits, batch.targets["labels"].float())

    def read(self, logits: Tensor, batch: Batch) -> list[Any]:
        """The probability of each label, of each item."""
        return list(logits.sigmoid().tolist())

    def answers(
        self, examples: Sequence[MultiLabelExample], data: Encoded, readings: Sequence[Any]
    ) -> list[tuple[Any, float]]:
        """The labels at or above the threshold with the probabilities of all, and the least sure one's certainty."""
        return [
            (_answer(scores, self.threshold), min(max(score, 1 - score) for score in scores)) for scores in readings
        ]

    def choose(self, examples: Sequence[MultiLabelExample], data: Encoded, readings: Sequence[Any]) -> dict[str, float]:
        """Set the threshold with the best micro F1."""
        import numpy

        scores = numpy.asarray(readings)
        is_gold = numpy.array([[at in example.labels for at in range(len(self.labels))] for example in examples])

        def micro_f1(threshold: float) -> float:
            is_predicted = scores >= threshold
            labels = is_gold.sum() + is_predicted.sum()
            return float(2 * (is_gold & is_predicted).sum() / labels) if labels else 0.0

        self.threshold = max(THRESHOLDS, key=micro_f1)
        return {"label_threshold": self.threshold}

    @classmethod
    def agree(cls, answer: LabelScores, other: LabelScores) -> bool:
        """Whether the labels are the same."""
        return answer.labels == other.labels

    def gold(self, example: MultiLabelExample) -> tuple[int, ...]:
        """The labels' indices."""
        return example.labels

    def trivial_answers(self, examples: Sequence[MultiLabelExample]) -> Iterator[list[Any]]:
        """No labels, and the most frequent one, two, three, ... labels, each scored by its share of the examples."""
        counts = Counter(label for example in examples for label in example.labels)
        shares = tuple(counts[label] / len(examples) for label in range(len(self.labels)))
        ranked = [label for label, _ in counts.most_common()]
        for size in range(len(ranked) + 1):
            yield [LabelScores(tuple(sorted(ranked[:size])), shares)] * len(examples)

    def stratum(self, example: MultiLabelExample) -> Hashable:
        """All the labels together."""
        return example.labels


def _answer(scores: Sequence[float], threshold: float) -> LabelScores:
    chosen = tuple(label for label, score in enumerate(scores) if score >= threshold)
    return LabelScores(chosen, tuple(scores))

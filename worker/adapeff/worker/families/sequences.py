"""Sequence classification: one text or a pair, one label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adapeff.worker.families.base import Family, Metrics
from adapeff.worker.families.drafts import Table, label_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapeff.worker.families.encoding import Batch, Encoded, Rows
    from adapeff.worker.families.rows import Columns, RowReader


class Example(NamedTuple):
    """A text or a pair; `label` is an index into the task's labels."""

    id: str
    text: str
    text_pair: str | None
    label: int


class SequenceClassification(Family):
    """Inference, paraphrase, sentiment: the label is read from the first token."""

    name = "sequence_classification"
    summary = "a label for a text or a pair"
    pipeline_tag = "text-classification"
    example = Example
    has_labels = True
    drafted_last = True

    @classmethod
    def needed_columns(cls, columns: Columns) -> dict[str, str | tuple[str, ...] | None]:
        """A text and a label."""
        return {"text": columns.text, "label": columns.label}

    @classmethod
    def read_row(cls, reader: RowReader, row: Mapping[str, Any], name: str, where: str) -> Example:
        """Texts and label as declared."""
        text, pair = reader.pair(row, where)
        return Example(name, text, pair, reader.label(row[str(reader.columns.label)], where))

    @classmethod
    def default_metrics(cls, labels: Sequence[str], options: Mapping[str, Any]) -> Metrics:
        """Accuracy, as most benchmarks report."""
        return "accuracy", ("macro_f1",)

    @classmethod
    def dealt_by(cls, example: Example) -> Hashable:
        """The label."""
        return example.label

    @classmethod
    def counted(cls, labels: Sequence[str], example: Example) -> list[str]:
        """The label."""
        return [labels[example.label]]

    @classmethod
    def warnings(
        cls, labels: Sequence[str], examples: Sequence[Example], earlier: Mapping[str, Sequence[Example]]
    ) -> Iterator[str]:
        """Labels that training never sees, and a split of one label."""
        seen = {example.label for example in examples}
        if (train := earlier.get("train")) and (unseen := seen - {example.label for example in train}):
            yield f"training never sees: {', '.join(labels[label] for label in sorted(unseen))}"
        absent = [label for at, label in enumerate(labels) if at not in seen]
        if not earlier and absent:
            yield f"no example is: {', '.join(absent)}"
        if len(seen) == 1:
            yield f"every label is '{labels[next(iter(seen))]}'"

    @classmethod
    def draft(cls, table: Table) -> dict[str, Any] | None:
        """A text next to a column with few values."""
        label = table.label_column()
        texts = table.text_columns(label)
        if label is None or texts is None:
            return None
        given = table.present(label)
        found = sorted({str(value).strip() for value in given}, key=lambda name: (len(name), name))
        booleans = {"labels": ["no", "yes"], "values": {"False": "no", "True": "yes"}}
        named = booleans if {type(value) for value in given} == {bool} else {"labels": label_names(found)}
        return {"columns": {**texts, "label": label}, **named, **table.absent(label)}

    def encode_part(self, examples: Sequence[Example], tokenizer: Any) -> Encoded:
        """Texts or pairs, cut to `max_length`."""
        rows = encode_texts(examples, tokenizer, self.max_length)
        return rows.encoded({"label": [example.label for example in examples]})

    def make_head(self, hidden_size: int) -> nn.Module:
        """Dense + tanh and linear on the first token."""
        from adapeff.worker.families.heads import ClassificationHead

        return ClassificationHead(hidden_size, len(self.labels), self.head_dropout)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of logits, items x labels."""
        from torch.nn import functional

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


def encode_texts(examples: Sequence[Any], tokenizer: Any, max_length: int) -> Rows:
    """The rows of examples with `text` and `text_pair`, cut to `max_length`."""
    from adapeff.worker.families.encoding import Rows, paddings

    texts = [example.text for example in examples]
    pairs = [example.text_pair for example in examples] if examples[0].text_pair is not None else None
    columns = tokenizer(texts, pairs, truncation=True, max_length=max_length)
    rows = Rows(paddings(columns, tokenizer))
    rows.inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return rows


def most_common(labels: Sequence[int]) -> list[Any]:
    """The most common label, once for each example."""
    return [Counter(labels).most_common(1)[0][0]] * len(labels)

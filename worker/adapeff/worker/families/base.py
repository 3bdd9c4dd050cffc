"""What a family is, and tokenised data as it sees them.

A *row* is one sequence the encoder reads. An *item* is what training draws: one row, or the rows of all choices of an
example, or one window of a long context. Everything of a split lies in flat arrays, which may be memory-mapped files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapeff.service.specs.job import Training

PART = 10_000
OF_EXAMPLE = "example"
"""The item target that says which example a window is of."""
IGNORED = -100
"""What targets are padded with: cross entropy leaves it out."""


@dataclass(frozen=True)
class Encoded:
    """The tokenised items of a split.

    Attributes:
        inputs: model input -> its values for all tokens of all rows, one row after the other.
        row_starts: rows + 1 offsets into `inputs` and `token_targets`.
        item_starts: items + 1 offsets into the rows.
        token_targets: what is known of each token; padded with -100.
        item_targets: what is known of each item.
        padding: model input -> the value it is padded with.
    """

    inputs: Mapping[str, Tensor]
    row_starts: Tensor
    item_starts: Tensor
    token_targets: Mapping[str, Tensor]
    item_targets: Mapping[str, Tensor]
    padding: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.item_starts) - 1

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of the longest row of each item."""
        rows = self.row_starts.diff()
        if len(rows) == len(self):
            return list(rows.tolist())
        starts = self.item_starts.tolist()
        return [int(rows[a:b].max()) for a, b in pairwise(starts)]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row of all."""
        return max(self.lengths, default=0)

    @cached_property
    def row_counts(self) -> list[int]:
        """Rows of each item."""
        return list(self.item_starts.diff().tolist())

    @property
    def tokens(self) -> int:
        """Real tokens of all rows."""
        return int(self.row_starts[-1])


@dataclass(frozen=True)
class Batch:
    """Some items on a device.

    Attributes:
        inputs: of shape rows x length.
        targets: of tokens, rows x length, and of items, items x ...
        row_counts: rows of each item.
    """

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    row_counts: list[int]
    row_lengths: list[int]
    """Tokens of each row without padding."""

    @property
    def items(self) -> int:
        """How many items there are."""
        return len(self.row_counts)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        if device.type == "cpu":
            return self

        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key: value.pin_memory().to(device, non_blocking=True) for key, value in tensors.items()}

        return Batch(moved(self.inputs), moved(self.targets), self.row_counts, self.row_lengths)


@dataclass
class Rows:
    """Collects tokenised rows and their targets, then lays them out flat."""

    padding: dict[str, int]
    inputs: list[dict[str, list[int]]] = field(default_factory=list)
    token_targets: dict[str, list[list[int]]] = field(default_factory=dict)

    def encoded(self, item_targets: Mapping[str, Sequence[Any]], *, row_counts: Sequence[int] | None = None) -> Encoded:
        """The flat arrays; each row is an item of its own unless `row_counts` says how many rows each has."""
        lengths = [len(row["input_ids"]) for row in self.inputs]
        counts = [1] * len(lengths) if row_counts is None else row_counts
        return Encoded(
            inputs={
                key: torch.tensor(list(chain.from_iterable(row[key] for row in self.inputs)), dtype=torch.int32)
                for key in self.padding
            },
            row_starts=_offsets(lengths),
            item_starts=_offsets(counts),
            token_targets={
                key: torch.tensor([value for row in rows for value in row], dtype=torch.int32)
                for key, rows in self.token_targets.items()
            },
            item_targets={key: torch.tensor(values, dtype=torch.int32) for key, values in item_targets.items()},
            padding=self.padding,
        )


def _offsets(counts: Sequence[int]) -> Tensor:
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def joined(parts: Sequence[Encoded], part: int) -> Encoded:
    """Parts of a split, each of `part` examples but the last, as one."""

    def ends_to_end(starts: Sequence[Tensor]) -> Tensor:
        return _offsets(torch.cat([some.diff() for some in starts]).tolist())

    def together(group: str, key: str) -> Tensor:
        tensors = [getattr(some, group)[key] for some in parts]
        if key == OF_EXAMPLE:
            tensors = [tensor + at * part for at, tensor in enumerate(tensors)]
        return torch.cat(tensors)

    first = parts[0]
    return Encoded(
        inputs={key: together("inputs", key) for key in first.inputs},
        row_starts=ends_to_end([some.row_starts for some in parts]),
        item_starts=ends_to_end([some.item_starts for some in parts]),
        token_targets={key: together("token_targets", key) for key in first.token_targets},
        item_targets={key: together("item_targets", key) for key in first.item_targets},
        padding=first.padding,
    )


def collate(data: Encoded, indices: Sequence[int], *, multiple: int = 1) -> Batch:
    """Pad some items to the longest row among them.

    Args:
        multiple: pad on to a multiple of that many tokens, but not beyond the longest row of all.
    """
    chosen = torch.tensor(indices)
    counts = [data.row_counts[index] for index in indices]
    firsts = data.item_starts[chosen].tolist()
    rows = torch.tensor([first + at for first, count in zip(firsts, counts, strict=True) for at in range(count)])
    starts, ends = data.row_starts[rows], data.row_starts[rows + 1]
    longest = max(data.lengths[index] for index in indices)
    longest = max(longest, min(-(-longest // multiple) * multiple, data.longest))
    positions = starts[:, None] + torch.arange(longest)
    real = positions < ends[:, None]
    positions = torch.where(real, positions, starts[:, None])

    def padded(flat: Tensor, value: int) -> Tensor:
        return flat[positions].long().masked_fill_(~real, value)

    targets = {key: padded(flat, IGNORED) for key, flat in data.token_targets.items()}
    targets |= {key: values[chosen].long() for key, values in data.item_targets.items()}
    inputs = {key: padded(data.inputs[key], value) for key, value in data.padding.items()}
    return Batch(inputs, targets, counts, (ends - starts).tolist())


def paddings(keys: Iterable[str], tokenizer: Any) -> dict[str, int]:
    """What each input of a tokenizer is padded with."""
    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id  # masked, so that any token will do
    known = {"input_ids": pad, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
    return {key: known.get(key, 0) for key in keys}


class Family(ABC):
    """One object per job: training, validation and test data all go through it."""

    name: ClassVar[str]
    tokenizer_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, labels: Sequence[str], training: Training) -> None:
        self.labels = tuple(labels)
        self.max_length = training.max_length
        self.head_dropout = training.head_dropout

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What shapes `encode`, beside the examples and the tokenizer."""
        return {"family": self.name, "labels": self.labels, "max_length": self.max_length}

    def encode(self, examples: Sequence[Any], tokenizer: Any, *, part: int = PART) -> Encoded:
        """Tokenise examples; part by part, since Python's lists take ten times the room of the arrays they become."""
        parts = [self.encode_part(examples[at : at + part], tokenizer) for at in range(0, max(1, len(examples)), part)]
        return parts[0] if len(parts) == 1 else joined(parts, part)

    @abstractmethod
    def encode_part(self, examples: Sequence[Any], tokenizer: Any) -> Encoded:
        """Tokenise some examples, keeping all the inputs the tokenizer returns (segment ids too)."""

    @abstractmethod
    def make_head(self, hidden_size: int) -> nn.Module:
        """The head, the same for every method: takes hidden states, rows x length x hidden."""

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean cross entropy of a batch."""

    @abstractmethod
    def read(self, logits: Tensor, batch: Batch) -> list[Any]:
        """What the logits say of each item."""

    def answers(self, examples: Sequence[Any], data: Encoded, readings: Sequence[Any]) -> list[tuple[Any, float]]:
        """The answer to each example, and how sure the model is of it (0..1), from the readings of all items.

        As read, where an item is an example and a reading an answer.
        """
        return list(readings)

    def choose(self, examples: Sequence[Any], data: Encoded, readings: Sequence[Any]) -> dict[str, float]:
        """Set what is chosen by validation data, from the readings of all items; gives what it is, by name."""
        return {}

    @abstractmethod
    def gold(self, example: Any) -> Any:
        """The right answer, in the form metrics take."""

    @abstractmethod
    def trivial_answers(self, examples: Sequence[Any]) -> Iterator[list[Any]]:
        """Answers that need no model: the best of them is the baseline a score is held against."""

    def stratum(self, example: Any) -> Hashable:
        """What subsets of the training data must hold in the same shares as the whole."""
        return None

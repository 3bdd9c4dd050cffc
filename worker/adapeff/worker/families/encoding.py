"""Tokenised data: the items of a split in flat arrays, and batches of them.

A *row* is one sequence the encoder reads. An *item* is what training draws: one row, or the rows of all choices of an
example, or one window of a long context. All values of a split are in flat arrays, which may be memory-mapped files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor

OF_EXAMPLE = "example"
"""The item target that names the example a window belongs to."""
IGNORED = -100
"""The value that pads targets; cross entropy ignores it."""


@dataclass(frozen=True)
class Encoded:
    """The tokenised items of a split.

    Attributes:
        inputs: model input -> its values for all tokens of all rows, one row after the other.
        row_starts: rows + 1 offsets into `inputs` and `token_targets`.
        item_starts: items + 1 offsets into the rows.
        token_targets: the targets of each token; padded with -100.
        item_targets: the targets of each item.
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

    def without_items(self) -> Encoded:
        """The same inputs of no items at all."""
        return Encoded(
            inputs={name: tensor[:0] for name, tensor in self.inputs.items()},
            row_starts=self.row_starts[:1],
            item_starts=self.item_starts[:1],
            token_targets={name: tensor[:0] for name, tensor in self.token_targets.items()},
            item_targets={name: tensor[:0] for name, tensor in self.item_targets.items()},
            padding=self.padding,
        )

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
    member: int = 0
    """The task of a mixture that it is of."""

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

        return Batch(moved(self.inputs), moved(self.targets), self.row_counts, self.row_lengths, self.member)


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
            item_targets={key: _item_target(values) for key, values in item_targets.items()},
            padding=self.padding,
        )


def _item_target(values: Sequence[Any]) -> Tensor:
    """Whole numbers as int32, decimal ones as float32."""
    is_decimal = any(isinstance(value, float) for value in values)
    return torch.tensor(values, dtype=torch.float32 if is_decimal else torch.int32)


def _offsets(counts: Sequence[int]) -> Tensor:
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def join_parts(parts: Sequence[Encoded], part: int) -> Encoded:
    """Join the parts of a split, each of `part` examples except the last."""

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
    for key, values in data.item_targets.items():
        targets[key] = values[chosen] if values.is_floating_point() else values[chosen].long()
    inputs = {key: padded(data.inputs[key], value) for key, value in data.padding.items()}
    return Batch(inputs, targets, counts, (ends - starts).tolist())


def paddings(keys: Iterable[str], tokenizer: Any) -> dict[str, int]:
    """What each input of a tokenizer is padded with."""
    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id  # masked, so that any token will do
    known = {"input_ids": pad, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
    return {key: known.get(key, 0) for key in keys}

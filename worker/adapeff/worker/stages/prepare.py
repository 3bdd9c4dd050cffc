"""Prepare: examples to token ids, and token ids to batches that waste little on padding."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adapeff.service.plugins import Example

_POOL = 50
"""Batches that are sorted by length together: long enough to save padding, short enough to keep the order random."""


@dataclass(frozen=True)
class Encoded:
    """Tokenised examples: per example one list per model input, the label and the id."""

    inputs: list[dict[str, list[int]]]
    labels: list[int]
    ids: list[str]
    padding: dict[str, int]
    """Model input -> the value it is padded with."""

    def __len__(self) -> int:
        return len(self.inputs)

    def length(self, index: int) -> int:
        """Tokens of one example."""
        return len(self.inputs[index]["input_ids"])


@dataclass(frozen=True)
class Batch:
    """One batch on a device: inputs of shape batch x length, labels of shape batch."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    real_tokens: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        if device.type == "cpu":
            return self
        moved = {key: value.pin_memory().to(device, non_blocking=True) for key, value in self.inputs.items()}
        return Batch(moved, self.labels.pin_memory().to(device, non_blocking=True), self.real_tokens)


def encode(examples: Sequence[Example], tokenizer: Any, *, max_length: int) -> Encoded:
    """Tokenise texts or pairs, keeping all the inputs the tokenizer returns (segment ids too)."""
    texts = [example.text for example in examples]
    pairs = [example.text_pair for example in examples] if examples and examples[0].text_pair is not None else None
    columns = tokenizer(texts, pairs, truncation=True, max_length=max_length)
    keys = list(columns.keys())
    pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
    return Encoded(
        inputs=[dict(zip(keys, row, strict=True)) for row in zip(*(columns[key] for key in keys), strict=True)],
        labels=[example.label for example in examples],
        ids=[example.id for example in examples],
        padding={key: pads.get(key, 0) for key in keys},
    )


def subset(examples: Sequence[Example], size: int | None) -> list[Example]:
    """The first `size` of one fixed shuffle, so that smaller subsets lie in larger ones; all of them for None."""
    if size is None or size >= len(examples):
        return list(examples)
    order = list(range(len(examples)))
    random.Random("train_size").shuffle(order)
    return [examples[index] for index in sorted(order[:size])]


def collate(data: Encoded, indices: Sequence[int]) -> Batch:
    """Pad some examples to the longest among them."""
    longest = max(data.length(index) for index in indices)
    inputs = {
        key: torch.tensor([(row := data.inputs[i][key]) + [pad] * (longest - len(row)) for i in indices])
        for key, pad in data.padding.items()
    }
    real = sum(data.length(index) for index in indices)
    return Batch(inputs, torch.tensor([data.labels[index] for index in indices]), real)


def epoch_order(data: Encoded, *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch as example indices: every example once, in an order that the seed alone decides.

    The examples are shuffled, sorted by length within pools of 50 batches, cut into batches, and the batches shuffled.
    """
    draw = random.Random(f"{seed} {epoch}")
    order = list(range(len(data)))
    draw.shuffle(order)
    batches: list[list[int]] = []
    pool = batch_size * _POOL
    for start in range(0, len(order), pool):
        chosen = sorted(order[start : start + pool], key=data.length)
        batches += [chosen[at : at + batch_size] for at in range(0, len(chosen), batch_size)]
    draw.shuffle(batches)
    return batches


def training_batches(data: Encoded, *, batch_size: int, seed: int) -> Iterator[Batch]:
    """Batches without end, epoch after epoch."""
    epoch = 0
    while True:
        for indices in epoch_order(data, batch_size=batch_size, seed=seed, epoch=epoch):
            yield collate(data, indices)
        epoch += 1


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Batches in an epoch: ceil(examples / batch size)."""
    return -(-examples // batch_size)

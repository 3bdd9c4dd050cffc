"""What training produced."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

from adapeff.worker.devices.step_clocks import StepSeconds
from adapeff.worker.families.encoding import Batch


class Validation(NamedTuple):
    """A score on the validation split, with the samples and compute time spent to reach it."""

    step: int
    score: float
    samples: int
    compute_s: float


def compute_seconds(steps: Iterable[StepSeconds]) -> float:
    """Sum the total seconds of the given steps."""
    return math.fsum(step.total for step in steps)


@dataclass
class TrainResult:
    """What training produced: losses and seconds of each step, validation scores, shapes."""

    steps: int
    losses: list[float] = field(default_factory=list)
    steps_taken: list[StepSeconds] = field(default_factory=list)
    validation: list[Validation] = field(default_factory=list)
    best_step: int = 0
    best_score: float = math.nan
    samples: int = 0
    shapes: list[tuple[int, int]] = field(default_factory=list)
    """Rows x tokens of the batch of each step, padding included."""
    members: list[int] = field(default_factory=list)
    """The task of each step, of those of a mixture."""
    items: list[int] = field(default_factory=list)
    """Samples of each step."""
    row_lengths: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of rows by their task and their number of tokens without padding."""
    optimizer_bytes: int = 0

    def facts(self) -> dict[str, Any]:
        """All of it as JSON values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**values, "row_lengths": [[*where, rows] for where, rows in self.row_lengths.items()]}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """The result whose `facts` these are."""
        parsed = {
            "steps_taken": [StepSeconds(*step) for step in facts["steps_taken"]],
            "validation": [Validation(*at) for at in facts["validation"]],
            "shapes": [(rows, length) for rows, length in facts["shapes"]],
            "row_lengths": Counter({(member, length): rows for member, length, rows in facts["row_lengths"]}),
        }
        return cls(**{**facts, **parsed})

    def take(self, batch: Batch) -> None:
        """Count a batch that was trained on."""
        rows, length = batch.inputs["input_ids"].shape
        self.samples += batch.items
        self.shapes.append((rows, length))
        self.members.append(batch.member)
        self.items.append(batch.items)
        self.row_lengths.update((batch.member, row) for row in batch.row_lengths)

    @property
    def real_tokens(self) -> int:
        """Tokens without padding."""
        return sum(length * rows for (_, length), rows in self.row_lengths.items())

    @property
    def processed_tokens(self) -> int:
        """Tokens with padding."""
        return sum(rows * length for rows, length in self.shapes)

"""A mixture: one model trained on several tasks, a cell on the task axis like any single task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, field_validator, model_validator

from adapeff.service.errors import DataError, suggest
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import DataIdentity, Split, Task
from adapeff.service.plugins.plugin_reference import parse_plugin, split_list
from adapeff.service.specs.fingerprints import joint_identity
from adapeff.service.specs.job import AtMost, Count

ALL = "all"
"""The language under which figures of the whole mixture stand."""


class Mixture(Task):
    """Several tasks that one model is trained on, with a head each; batches are of one task.

    `sampling` says how often each task's batches come. A task's size is the number of its batches in one pass:
    `proportional` to the size, `equal`, or `temperature`, proportional to size^(1 / temperature). `cap` is the most
    examples that a task counts (Raffel et al. 2020, "T5", section 3.5.2); `weights` replaces all of it.
    """

    parameters: ClassVar[frozenset[str]] = frozenset(
        {"tasks", "sampling", "temperature", "cap", "weights", "loss_weights", "train_sizes", "select"}
    )

    name: str = "mixture"
    title: str = "several tasks with one model: mixture[tasks=[sst2,xnli]]"
    family: str = ""
    metric: str = "mean_score"
    source_language: str = ALL
    languages: tuple[str, ...] = (ALL,)
    licence: str = "those of its tasks"
    tasks: tuple[str, ...] = ()
    sampling: Literal["proportional", "equal", "temperature"] = "proportional"
    temperature: PositiveFloat = 1.0
    cap: int | None = Field(default=None, gt=0)
    weights: dict[str, PositiveFloat] = {}
    """Task -> its share of the steps, up to a common factor."""
    loss_weights: dict[str, PositiveFloat] = {}
    """Task -> the factor of its loss; 1 for tasks that are not named."""
    train_sizes: dict[str, Count | AtMost | Literal["all"]] = {}
    """Task -> its number of training examples; the sweep's `train_size` for tasks that are not named."""
    select: Literal["mean", "worst"] = "mean"
    """The validation score by which the best state is kept: the mean of the tasks' scores or the lowest."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return split_list(value) if isinstance(value, str) else value

    @field_validator("weights", "loss_weights", "train_sizes", mode="before")
    @classmethod
    def _parameters_in_order(cls, value: Any) -> Any:
        return (
            {str(parse_plugin(str(task))): each for task, each in value.items()} if isinstance(value, dict) else value
        )

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        names = [str(parse_plugin(task)) for task in self.members()]
        if len(set(names)) != len(names):
            raise ValueError("a task appears twice; list each once")
        for field in ("weights", "loss_weights", "train_sizes"):
            for name in getattr(self, field):
                if name not in names:
                    raise ValueError(f"{field} names '{name}', which is not among its tasks; {suggest(name, names)}")
        if self.weights and len(self.weights) < len(names):
            raise ValueError(f"weights lacks {', '.join(sorted(set(names) - self.weights.keys()))}; give each task one")
        if self.sampling != "temperature" and self.temperature != 1.0:
            raise ValueError(
                f"temperature is {self.temperature:g}, but sampling is {self.sampling}; add sampling=temperature"
            )
        return self

    @model_validator(mode="after")
    def _scores_can_be_averaged(self) -> Self:
        for name, task in self._tasks().items():
            if task.members():
                raise ValueError(f"'{name}' is a mixture itself; list its tasks")
            if not catalog.get_metric(task.metric).higher_is_better:
                raise ValueError(f"'{name}' is scored by {task.metric}, which is better lower, so scores have no mean")
        return self

    def _tasks(self) -> dict[str, Task]:
        references = [parse_plugin(task) for task in self.members()]
        return {str(each): catalog.get_task(each.name, each.parameters) for each in references}

    def members(self) -> tuple[str, ...]:
        """Its tasks."""
        return self.tasks

    def identity(self, languages: Sequence[str], data_root: Path | None) -> DataIdentity:
        """The data of all its tasks, in all available languages."""
        return joint_identity(
            [task.identity(task.available_languages(data_root), data_root) for task in self._tasks().values()]
        )

    def examples(self, split: Split, language: str, data_root: Path | None) -> Sequence[Any]:
        """A mixture has no examples of its own.

        Raises:
            DataError: always.
        """
        raise DataError(f"{self.name} has no data of its own; name one of its tasks: {', '.join(self.tasks)}")

    def shares(self, batches: Sequence[int], examples: Sequence[int]) -> list[float]:
        """The share of the steps of each task.

        Args:
            batches: of each task in one pass.
            examples: of each task.
        """
        if self.weights:
            sizes = [self.weights[name] for name in self._tasks()]
        elif self.sampling == "equal":
            sizes = [float(size > 0) for size in batches]
        else:
            capped = [
                size * min(1.0, (self.cap or count) / max(1, count))
                for size, count in zip(batches, examples, strict=True)
            ]
            sizes = [size ** (1 / self.temperature) for size in capped]
        return [size / sum(sizes) for size in sizes]

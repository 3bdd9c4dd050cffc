"""An extension: a trained model learns further tasks, with a share of the old tasks' data or none."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import field_validator

from adapeff.service.plugins.plugin_reference import split_list
from adapeff.worker.tasks.mixture import Mixture


class Extension(Mixture):
    """A mixture that goes on from the weights of a job: its tasks are those of the job, and the new ones.

    Replayed examples of the old tasks keep the model from forgetting them (rehearsal; Robins 1995, "Catastrophic
    forgetting, rehearsal and pseudorehearsal"; the study's section on extending multi-task models).
    """

    parameters: ClassVar[frozenset[str]] = frozenset(
        {"base", "add", "replay", "old_heads", "tasks", "sampling", "temperature", "cap", "train_sizes", "select"}
    )

    name: str = "extension"
    title: str = "a trained model that learns another task: extension[base=12,add=[wnut],replay=0.05]"
    base: str = ""
    """The job whose trained weights it starts from."""
    add: tuple[str, ...] = ()
    """The new tasks."""
    replay: float | Literal["sized"] = 0.0
    """The share of each old task's training examples to train on as well, at least one example; `sized`: as many
    examples of each as the new tasks have together."""
    old_heads: Literal["trained", "frozen"] = "trained"
    """Whether the heads of the old tasks go on learning."""

    @field_validator("add", mode="before")
    @classmethod
    def _one_new_task_is_a_list(cls, value: Any) -> Any:
        return split_list(value) if isinstance(value, str) else value

    @field_validator("base", mode="before")
    @classmethod
    def _ids_are_numbers(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("replay")
    @classmethod
    def _is_a_share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 <= value <= 1:
            raise ValueError(f"{value:g} is no share; give one from 0 to 1, or sized")
        return value

    def members(self) -> tuple[str, ...]:
        """All its tasks, the new ones last; only those until its base is known."""
        return self.tasks or self.add

    def replayed(self, examples: int, new: int) -> int:
        """The number of examples of an old task to train on.

        Args:
            examples: of the old task.
            new: of the new tasks together.
        """
        if isinstance(self.replay, str):
            return min(examples, new)
        return min(examples, max(1, round(self.replay * examples))) if self.replay else 0

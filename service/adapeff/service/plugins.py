"""What a method, a task, a suite and a metric are: the light side of each plug-in.

Nothing here imports torch: a laptop that only submits validates every parameter with these classes. The heavy side
(`Method.attach`) imports what it needs when the runner calls it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor, nn

Split = Literal["train", "validation", "test"]


class Frozen(BaseModel):
    """A value that is validated once, at the edge, and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Method(Frozen, ABC):
    """A way of adapting a model. The fields of a subclass are its hyper-parameters, its docstring names the paper."""

    default_learning_rate: ClassVar[float]
    learning_rate_source: ClassVar[str]
    paper: ClassVar[str]

    @abstractmethod
    def attach(self, encoder: nn.Module) -> nn.Module:
        """Adapt a loaded encoder: afterwards `requires_grad` is true for exactly what the method trains.

        Args:
            encoder: a transformers encoder whose forward gives `last_hidden_state`, batch x length x hidden.

        Returns:
            The module to call in the encoder's place (it may be the same one), with the same outputs.

        Raises:
            ModelError: if the method cannot be applied to this architecture.
        """

    def learning_rate(self) -> tuple[float, str]:
        """The learning rate published for the method with these parameters, and where."""
        return self.default_learning_rate, self.learning_rate_source

    def source_names(self) -> tuple[str, ...]:
        """What it builds on: finished jobs (by id or job hash) or folders of adapters."""
        return ()

    def check_source(self, method: Method) -> None:
        """Refuse a source that was trained by a method it cannot build on.

        Raises:
            ValueError: saying what would do.
        """

    def penalty(self, adapted: nn.Module) -> Callable[[], Tensor] | None:
        """A term that training adds to the loss, if the method has one."""
        return None

    def variants(self, adapted: nn.Module) -> Iterator[tuple[dict[str, Any], nn.Module]]:
        """Other ways to serve what was trained, such as merged weights: a name for each, and the module to call.

        The next one is asked for when the last one is done with; afterwards `adapted` must be as it was.
        """
        return iter(())


class Example(NamedTuple):
    """One example of a sequence classification task; `label` is an index into the task's label names."""

    id: str
    text: str
    text_pair: str | None
    label: int


class DataIdentity(Frozen):
    """Which data a job means: content fingerprints (SHA-256) for local and generated data, a revision for the hub's.

    `fingerprint` covers what training and selection read, `test_fingerprint` the test files, so that another test set
    changes no `train_hash`.
    """

    source: Literal["folder", "hub", "generated"]
    fingerprint: str | None = None
    test_fingerprint: str | None = None
    revision: str | None = None


class Task(Frozen, ABC):
    """A benchmark task: data, labels and metric. Fields listed in `parameters` may be set by a user."""

    parameters: ClassVar[frozenset[str]] = frozenset()

    name: str
    title: str
    family: Literal["sequence_classification"] = "sequence_classification"
    labels: tuple[str, ...]
    metric: str = "accuracy"
    source_language: str
    languages: tuple[str, ...]
    licence: str
    non_commercial: bool = False
    notes: str = ""

    @abstractmethod
    def identity(self, languages: Sequence[str], data_root: Path | None) -> DataIdentity:
        """Identify the training data and the test data of `languages`, without reading more than needed.

        Raises:
            DataError: if local data are missing or unreadable.
        """

    @abstractmethod
    def examples(self, split: Split, language: str, data_root: Path | None) -> list[Example]:
        """Read one split in a fixed order; training and selection read the source language's alone.

        Raises:
            DataError: if it cannot be read, or a row is not as declared.
        """

    def available_languages(self, data_root: Path | None) -> tuple[str, ...]:
        """The test languages whose data are at hand (all of them where the hub is asked)."""
        return self.languages

    def resolved_revision(self, data_root: Path | None) -> str | None:
        """The hub revision the data come from; None for local and generated data, which fingerprints identify."""
        return None

    def hub_source(self) -> tuple[str, str | None] | None:
        """The hub's data set and the revision asked for, if that is where the data may come from."""
        return None

    def ceiling(self) -> float | None:
        """The best score anyone can expect on the test split where that is known (generated data), else None."""
        return None


@dataclass(frozen=True)
class Suite:
    """A named set of tasks, each a task string such as `xnli` or `offline_nli[difficulty=0.5]`."""

    name: str
    description: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """A pure function of gold and predicted labels; scores lie in 0..1."""

    name: str
    description: str
    higher_is_better: bool
    compute: Callable[[Sequence[int], Sequence[int]], float]


Registry = Mapping[str, Any]

"""The contracts of plug-ins: methods, tasks, families, suites and metrics.

This module does not import torch, so that a laptop that only submits can validate every parameter with these classes.
`Method.attach` imports torch when the runner calls it.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

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
    adds_modules: ClassVar[bool] = True
    """Whether it adds modules to the model, as adapters do, rather than training parts of the model itself."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Take a hook by its former name: `penalty` is now called `auxiliary_loss`."""
        if "penalty" in cls.__dict__ and "auxiliary_loss" not in cls.__dict__:
            text = f"{cls.__name__} defines penalty(), which is now called auxiliary_loss(); rename it"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            cls.auxiliary_loss = cls.__dict__["penalty"]  # type: ignore[method-assign]

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
        """The sources it builds on: finished jobs (by id or job hash) or folders of adapters."""
        return ()

    def check_source(self, method: Method) -> None:
        """Refuse a source that was trained by a method it cannot build on.

        Raises:
            ValueError: with the kinds of source that would work.
        """

    def auxiliary_loss(self, adapted: nn.Module) -> Callable[[], Tensor] | None:
        """A term to add to the training loss, or None."""
        return None

    def on_step(self, adapted: nn.Module, steps: int) -> Callable[[int], None] | None:
        """A callback that training calls after each optimizer step, before gradients are cleared, with the step from 1.

        Called once, before the first step, so that the method can set up everything that depends on the budget.

        Args:
            steps: the total number of steps.

        Raises:
            ModelError: if the method cannot be trained in that number of steps.
        """
        return None

    def settles_at(self, steps: int) -> int:
        """The first of `steps` steps whose state may be kept as the best; until then the method changes its form."""
        return 1

    def training_state(self, adapted: nn.Module) -> dict[str, Any]:
        """What changes during training besides trainable tensors: tensors and JSON values by name, for a checkpoint."""
        return {}

    def restore_training_state(self, adapted: nn.Module, state: Mapping[str, Any]) -> None:
        """Go back to a `training_state`; `on_step` has been called for the same number of steps."""

    def step_kinds(self, adapted: nn.Module) -> Iterator[None]:
        """Set `adapted` to each kind of step that training draws from, all equally likely.

        There is one kind, unless the method randomly selects active parts; afterwards `adapted` selects randomly again.
        """
        yield

    def variants(self, adapted: nn.Module) -> Iterator[tuple[dict[str, Any], nn.Module]]:
        """Other forms of the trained model for inference, such as merged weights: name and module to call for each.

        The caller finishes with one before it requests the next; afterwards `adapted` must be unchanged.
        """
        return iter(())


class FamilyPlugin(Protocol):
    """The part of a task family that the service uses; `adapeff.worker.families.base.Family` is the whole contract."""

    name: ClassVar[str]
    summary: ClassVar[str]
    pipeline_tag: ClassVar[str]


class DataIdentity(Frozen):
    """The data of a job: content fingerprints (SHA-256) of local and generated data, a revision of the hub's.

    `fingerprint` covers the data for training and selection, `test_fingerprint` the test files, so that a different
    test set does not change the `train_hash`.
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
    family: str
    """The name of the family, which defines the examples, head, loss and answers; '' for a mixture of tasks."""
    labels: tuple[str, ...] = ()
    """Class or tag names; empty where the answer is a span, a choice or a number."""
    metric: str = "accuracy"
    """The metric used for selection and as the report's headline."""
    further_metrics: tuple[str, ...] = ()
    """Other metrics measured on the test data."""
    max_length: int | None = None
    """The length for this task's texts; a sweep's `max_length` takes precedence."""
    source_language: str
    languages: tuple[str, ...]
    licence: str
    non_commercial: bool = False
    notes: str = ""

    def members(self) -> tuple[str, ...]:
        """The tasks that a mixture consists of, as task strings; empty for a single task."""
        return ()

    def family_options(self) -> Mapping[str, Any]:
        """Options of the task's family, such as `may_have_no_answer` of question answering."""
        return {}

    @abstractmethod
    def identity(self, languages: Sequence[str], data_root: Path | None) -> DataIdentity:
        """Identify the training data and the test data of `languages`, without reading more than needed.

        Raises:
            DataError: if local data are missing or unreadable.
        """

    @abstractmethod
    def examples(self, split: Split, language: str, data_root: Path | None) -> Sequence[Any]:
        """Read the examples of one split in a fixed order; training and selection only read the source language.

        Raises:
            DataError: if it cannot be read, or a row does not match the declaration.
        """

    def available_languages(self, data_root: Path | None) -> tuple[str, ...]:
        """The test languages whose data are available (all of them if they come from the hub)."""
        return self.languages

    def resolved_revisions(self, data_root: Path | None) -> dict[str, str]:
        """Hub id -> commit of the data, training data first; empty for local data, which have fingerprints."""
        return {}

    def file_notes(self, split: Split, language: str, data_root: Path | None) -> tuple[str, ...]:
        """Notes for users on the files of a split, such as how they were read and which rows were skipped."""
        return ()

    def untested(self, data_root: Path | None) -> tuple[str, ...]:
        """Why some languages of the task are not tested on these data."""
        return ()

    def remarks(self, data_root: Path | None) -> tuple[str, ...]:
        """Notes for users on how these data are used."""
        return ()

    def hub_sources(self) -> tuple[tuple[str, str | None], ...]:
        """The hub data sets the data may come from, with the requested revisions, training data first."""
        return ()

    def record(self) -> dict[str, Any]:
        """The whole task as JSON types, with the fields users may set under `parameters`."""
        values = self.model_dump(mode="json")
        parameters = {name: values.pop(name) for name in sorted(self.parameters)}
        return {**values, "parameters": parameters}

    def ceiling(self) -> float | None:
        """The score ceiling: the best expected score on the test split, if known (generated data)."""
        return None


@dataclass(frozen=True)
class Suite:
    """A named set of tasks, each a task string such as `xnli` or `offline_nli[difficulty=0.5]`."""

    name: str
    description: str
    tasks: tuple[str, ...]


Counts = list[tuple[float, ...]]
"""Numbers of each example, all tuples of one length."""


@dataclass(frozen=True)
class Metric:
    """A score of predicted answers against gold ones.

    Most scores are a function of sums: `counts` gives numbers for each example, and `score` turns their sums into the
    score, so that any sample of the examples can be scored without another pass (bootstrap). A metric that is not
    a function of sums, such as a rank correlation, defines `of_answers` instead, which is recomputed for every sample.

    The type of gold and predicted answers depends on the family: label indices, tag names, texts, numbers.
    """

    name: str
    description: str
    higher_is_better: bool
    counts: Callable[[Sequence[Any], Sequence[Any]], Counts] | None
    """The numbers of each example."""
    score: Callable[[Sequence[float]], float] | None
    """The score from the sums of the counts."""
    families: tuple[str, ...]
    """The families whose answers it can score."""
    unit: Literal["%", ""] = "%"
    """How a score is shown: `%` for a share between 0 and 1, shown times 100; '' for a value shown as it is."""
    of_answers: Callable[[Sequence[Any], Sequence[Any]], float] | None = None
    """The score from all gold and predicted answers, if it is not a function of sums."""

    def __post_init__(self) -> None:
        if (self.of_answers is None) != (self.counts is not None and self.score is not None):
            raise ValueError(f"metric '{self.name}' needs either counts and score, or of_answers")

    def is_better(self, score: float, than: float) -> bool:
        """Whether one score beats another."""
        return score > than if self.higher_is_better else score < than

    def best(self, scores: Iterable[float]) -> float:
        """The best of some scores.

        Raises:
            ValueError: if there are none.
        """
        return max(scores) if self.higher_is_better else min(scores)

    def compute(self, gold: Sequence[Any], predicted: Sequence[Any]) -> float:
        """The score of all examples.

        Raises:
            ValueError: if the two differ in length or are empty.
        """
        if not len(gold) or len(gold) != len(predicted):
            raise ValueError(
                f"{len(gold)} gold and {len(predicted)} predicted answers: expected equal numbers, at least one of each"
            )
        if self.counts is None or self.score is None:
            assert self.of_answers is not None
            return self.of_answers(gold, predicted)
        return self.score([sum(column) for column in zip(*self.counts(gold, predicted), strict=True)])

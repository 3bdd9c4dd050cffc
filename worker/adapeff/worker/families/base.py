"""What a family of tasks is: how rows become examples, what is checked, how a model reads and answers them.

A family is one class. Its class methods are about declared data: the columns it needs, how a row becomes an example,
what `tasks validate` checks and `tasks init` guesses. An instance is made for a job: training, validation and test data
all go through it. Family modules import torch inside the methods that need it, since `adapeff submit` loads them too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from adapeff.service.errors import SpecError
from adapeff.service.plugins import catalog
from adapeff.service.specs.job import Training

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapeff.worker.families.drafts import Table
    from adapeff.worker.families.encoding import Batch, Encoded
    from adapeff.worker.families.rows import Columns, RowForm, RowReader

PART = 10_000
"""Examples tokenised at a time: Python's lists take ten times the memory of the arrays they become."""
Metrics = tuple[str, tuple[str, ...]]
"""The metric used for selection, and the others that are measured."""


class Family(ABC):
    """A kind of task: its examples, metrics, checks, head, loss and answers."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """What is asked, in a few words."""
    pipeline_tag: ClassVar[str] = ""
    """What the Hugging Face Hub calls such tasks; '' if it has no name for them."""
    example: ClassVar[type[Any]]
    """A named tuple that begins with `id`; its texts are read, and its field `target` is asked for."""
    target: ClassVar[str] = "label"
    target_column: ClassVar[str] = "label"
    """The role of the column with the target."""
    has_labels: ClassVar[bool] = False
    """Whether answers are among the task's labels."""
    lists_labels: ClassVar[bool] = False
    """Whether an example has a list of labels."""
    default_columns: ClassVar[Mapping[str, str]] = {}
    """Role -> column, where a declaration names no columns."""
    group_role: ClassVar[str | None] = None
    """The role of the column whose values stay together when examples are held out."""
    default_max_length: ClassVar[int | None] = None
    """The length its texts need, if not the default."""
    tokenizer_options: ClassVar[Mapping[str, Any]] = {}
    drafted_last: ClassVar[bool] = False
    """Whether `tasks init` asks it only after the other families."""

    # Declared data

    @classmethod
    @abstractmethod
    def needed_columns(cls, columns: Columns) -> dict[str, str | tuple[str, ...] | None]:
        """The roles that must be declared, each with its columns, if any."""

    @classmethod
    @abstractmethod
    def read_row(cls, reader: RowReader, row: Mapping[str, Any], name: str, where: str) -> Any:
        """The example in a row; None if the declaration says to leave the row out.

        Args:
            reader: reads texts, labels and lists as the declaration says.
            name: the example's id.
            where: the file and the row, for error messages.

        Raises:
            DataError: if the row is not as declared.
        """

    @classmethod
    @abstractmethod
    def default_metrics(cls, labels: Sequence[str], options: Mapping[str, Any]) -> Metrics:
        """The metric used for selection, and the others that are measured."""

    @classmethod
    def options(cls, form: RowForm) -> dict[str, Any]:
        """What a declaration asks of the family: keyword arguments of its constructor."""
        return {}

    @classmethod
    def implied_merge(cls, labels: Iterable[str]) -> dict[str, str]:
        """Labels of the data that mean the same as another label."""
        return {}

    @classmethod
    def label_faults(cls, labels: Iterable[str]) -> dict[str, str]:
        """Labels that the family cannot use -> what is wrong with them."""
        return {}

    @classmethod
    def remarks(cls, merge: Mapping[str, str]) -> tuple[str, ...]:
        """What users should know about how the data are read."""
        return ()

    @classmethod
    def dealt_by(cls, example: Any) -> Hashable:
        """What keeps its shares when one file is split."""
        return None

    # `tasks validate` and `tasks init`

    @classmethod
    def texts(cls, example: Any) -> list[str]:
        """The texts a model reads; first the one that several examples may share."""
        found: list[str] = []
        for name, value in example._asdict().items():
            if name in ("id", cls.target):
                continue
            found += [" ".join(value)] if isinstance(value, tuple) else [value] if isinstance(value, str) else []
        return found

    @classmethod
    def counted(cls, labels: Sequence[str], example: Any) -> list[str]:
        """The targets of an example that are counted."""
        return []

    @classmethod
    def target_counts(cls, labels: Sequence[str], examples: Sequence[Any]) -> dict[str, int]:
        """How often each target occurs."""
        return dict(sorted(Counter(name for example in examples for name in cls.counted(labels, example)).items()))

    @classmethod
    def warnings(
        cls, labels: Sequence[str], examples: Sequence[Any], earlier: Mapping[str, Sequence[Any]]
    ) -> Iterator[str]:
        """What may mislead in the targets of a split.

        Args:
            earlier: the splits looked at before, training first.
        """
        return iter(())

    @classmethod
    def draft(cls, table: Table) -> dict[str, Any] | None:
        """The `columns` and options of a task.yaml, if a file looks like data of this family."""
        return None

    # The model's side

    def __init__(self, labels: Sequence[str], training: Training) -> None:
        self.labels = tuple(labels)
        self.max_length = training.max_length
        self.head_dropout = training.head_dropout

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What determines `encode`, besides the examples and the tokenizer."""
        return {"family": self.name, "labels": self.labels, "max_length": self.max_length}

    @property
    def chooses(self) -> bool:
        """Whether `choose` sets something by validation data."""
        return False

    def encode(self, examples: Sequence[Any], tokenizer: Any, *, part: int = PART) -> Encoded:
        """Tokenise examples, part by part."""
        from adapeff.worker.families.encoding import join_parts

        parts = [self.encode_part(examples[at : at + part], tokenizer) for at in range(0, max(1, len(examples)), part)]
        return parts[0] if len(parts) == 1 else join_parts(parts, part)

    @abstractmethod
    def encode_part(self, examples: Sequence[Any], tokenizer: Any) -> Encoded:
        """Tokenise some examples, keeping all inputs that the tokenizer returns (segment ids too)."""

    @abstractmethod
    def make_head(self, hidden_size: int) -> nn.Module:
        """The head, the same for every method: takes hidden states, rows x length x hidden."""

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean loss of a batch."""

    @abstractmethod
    def read(self, logits: Tensor, batch: Batch) -> list[Any]:
        """What the logits say about each item."""

    def answers(self, examples: Sequence[Any], data: Encoded, readings: Sequence[Any]) -> list[tuple[Any, float]]:
        """The answer to each example and the model's confidence in it (0..1), from the readings of all items.

        The readings themselves, where every item is an example and every reading an answer.
        """
        return list(readings)

    def choose(self, examples: Sequence[Any], data: Encoded, readings: Sequence[Any]) -> dict[str, float]:
        """Set what validation data choose, from the readings of all items; returns the values by name."""
        return {}

    @classmethod
    def agree(cls, answer: Any, other: Any) -> bool:
        """Whether two answers are the same, up to rounding."""
        return bool(answer == other)

    @abstractmethod
    def gold(self, example: Any) -> Any:
        """The correct answer, in the form that metrics take."""

    @abstractmethod
    def trivial_answers(self, examples: Sequence[Any]) -> Iterator[list[Any]]:
        """Answers that need no model: the best of them is the trivial baseline."""

    def stratum(self, example: Any) -> Hashable:
        """What keeps its shares in subsets of the training data."""
        return None


def get_family(name: str) -> type[Family]:
    """The family `name`.

    Raises:
        UnknownNameError: if no package registers it.
        SpecError: if what is registered is not a `Family`.
    """
    found = cast("type[Any]", catalog.get_family(name))
    if not issubclass(found, Family):
        raise SpecError(
            f"the family '{name}' is {found!r}, expected a subclass of adapeff.worker.families.base.Family; "
            "update the package that registers it"
        )
    return found

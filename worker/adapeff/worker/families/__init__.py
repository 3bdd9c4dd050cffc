"""The built-in families of tasks, registered like any package's: one entry point that points at `FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping

from adapeff.service.plugins.contracts import Task
from adapeff.service.specs.job import Training
from adapeff.worker.families.base import Family, get_family
from adapeff.worker.families.choices import MultipleChoice
from adapeff.worker.families.multi_label import MultiLabelClassification
from adapeff.worker.families.regression import Regression
from adapeff.worker.families.sequences import SequenceClassification
from adapeff.worker.families.spans import QuestionAnswering
from adapeff.worker.families.tokens import TokenClassification

FAMILIES: Mapping[str, type[Family]] = {
    family.name: family
    for family in (
        SequenceClassification,
        TokenClassification,
        QuestionAnswering,
        MultipleChoice,
        Regression,
        MultiLabelClassification,
    )
}


def family_of(task: Task, training: Training) -> Family:
    """The object that a task's training, validation and test data all go through."""
    return get_family(task.family)(task.labels, training, **task.family_options())

"""The families of tasks: how examples become rows of tokens, what head reads them, how logits become answers."""

from __future__ import annotations

from collections.abc import Mapping

from adapeff.service.plugins.contracts import Task
from adapeff.service.specs.job import Training
from adapeff.worker.families.base import Family
from adapeff.worker.families.choices import MultipleChoice
from adapeff.worker.families.sequences import SequenceClassification
from adapeff.worker.families.spans import QuestionAnswering
from adapeff.worker.families.tokens import TokenClassification

FAMILIES: Mapping[str, type[Family]] = {
    kind.name: kind for kind in (SequenceClassification, TokenClassification, QuestionAnswering, MultipleChoice)
}


def family_of(task: Task, training: Training) -> Family:
    """The one object that a task's training, validation and test data go through."""
    family = FAMILIES[task.family](task.labels, training)
    if isinstance(family, QuestionAnswering) and task.may_have_no_answer:
        family.may_have_no_answer()
    return family

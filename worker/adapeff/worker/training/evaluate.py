"""Evaluate: predict an answer for every example of a split and score the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch

from adapeff.service.plugins.contracts import Metric
from adapeff.worker.devices.base import Device
from adapeff.worker.families.base import Family
from adapeff.worker.families.encoding import Encoded, collate
from adapeff.worker.modeling.models import TaskModel

BATCH_SIZE = 64
RESAMPLES = 1000


@dataclass(frozen=True)
class SplitData:
    """The examples of a split and their tokens."""

    examples: Sequence[Any]
    encoded: Encoded


@dataclass(frozen=True)
class Predictions:
    """One answer per example, in the data's order; `scores` are the model's confidence in each (0..1)."""

    ids: list[str]
    gold: list[Any]
    predicted: list[Any]
    scores: list[float]
    chosen: dict[str, float] = field(default_factory=dict)
    """Values the family chose on the data, such as a threshold, by name."""


def evaluate(
    model: TaskModel,
    family: Family,
    data: SplitData,
    *,
    device: Device,
    precision: str,
    choosing: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> Predictions:
    """Answer every example once, without dropout, in batches of similar length.

    Args:
        choosing: let the family choose its validation-tuned values on these data before it answers.
        alive: called after each batch.
    """
    was_training = model.training
    model.eval()
    items = data.encoded
    order = sorted(range(len(items)), key=items.lengths.__getitem__)
    outputs: list[Any] = [None] * len(items)
    with torch.inference_mode(), device.autocast(precision):
        for start in range(0, len(order), BATCH_SIZE):
            indices = order[start : start + BATCH_SIZE]
            batch = collate(items, indices, multiple=device.shape_multiple).to(device.torch_device)
            logits = model(batch.inputs).float()
            for index, output in zip(indices, family.read(logits, batch), strict=True):
                outputs[index] = output
            alive()
    model.train(was_training)
    chosen = family.choose(data.examples, items, outputs) if choosing else {}
    answers = family.answers(data.examples, items, outputs)
    return Predictions(
        ids=[example.id for example in data.examples],
        gold=[family.gold(example) for example in data.examples],
        predicted=[answer for answer, _ in answers],
        scores=[score for _, score in answers],
        chosen=chosen,
    )


@dataclass(frozen=True)
class Baseline:
    """The trivial baseline: its score, and how far a score must differ from it to exceed chance."""

    score: float
    noise: float
    """95 % half-width of the difference between the answers' score and the baseline's, over samples of the examples."""


def baseline(metric: Metric, family: Family, examples: Sequence[Any], found: Predictions) -> Baseline:
    """Compare answers with the best trivial ones by a paired bootstrap over the examples."""
    trivial = [(metric.compute(found.gold, answers), answers) for answers in family.trivial_answers(examples)]
    score = metric.best(score for score, _ in trivial)
    best = next(answers for each, answers in trivial if each == score)
    scores, trivial_scores = bootstrap(metric, found.gold, [found.predicted, best])
    return Baseline(score, float(1.959964 * (scores - trivial_scores).std(ddof=1)))


def bootstrap(metric: Metric, gold: Sequence[Any], several: Sequence[Sequence[Any]], *, seed: int = 0) -> numpy.ndarray:
    """Score several sets of answers on 1,000 bootstrap samples of the examples: an array of sets x samples.

    All sets are scored on the same samples, so their differences are paired.

    Args:
        several: sets of answers to the same examples.
    """
    draw = numpy.random.default_rng(seed)
    if metric.counts is None or metric.score is None:
        samples = [draw.integers(len(gold), size=len(gold)).tolist() for _ in range(RESAMPLES)]
        return numpy.array(
            [
                [metric.compute([gold[at] for at in sample], [answers[at] for at in sample]) for sample in samples]
                for answers in several
            ]
        )
    counts = [metric.counts(gold, answers) for answers in several]
    table = numpy.hstack([numpy.asarray(rows, dtype=numpy.float64) for rows in counts])
    kinds, times = numpy.unique(table, axis=0, return_counts=True)  # equal examples are drawn together
    sums = draw.multinomial(len(table), times / len(table), size=RESAMPLES) @ kinds
    width = len(counts[0][0])
    return numpy.array(
        [[metric.score(row[at : at + width].tolist()) for row in sums] for at in range(0, table.shape[1], width)]
    )

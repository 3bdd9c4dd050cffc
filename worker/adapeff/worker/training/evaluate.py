"""Evaluate: an answer to every example of a split, and what the answers are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch

from adapeff.service.plugins.contracts import Metric
from adapeff.worker.devices.base import Device
from adapeff.worker.families.base import Encoded, Family, collate
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
    """One answer per example, in the data's order; `scores` say how sure the model is of each (0..1)."""

    ids: list[str]
    gold: list[Any]
    predicted: list[Any]
    scores: list[float]
    chosen: dict[str, float] = field(default_factory=dict)
    """What was chosen by the data, by name."""


def evaluate(
    model: TaskModel, family: Family, data: SplitData, *, device: Device, precision: str, choosing: bool = False
) -> Predictions:
    """Answer every example once, dropout off, in batches of like length.

    Args:
        choosing: let the family choose by these data what is chosen by validation, before it answers.
    """
    was_training = model.training
    model.eval()
    items = data.encoded
    order = sorted(range(len(items)), key=items.lengths.__getitem__)
    readings: list[Any] = [None] * len(items)
    with torch.inference_mode(), device.autocast(precision):
        for start in range(0, len(order), BATCH_SIZE):
            indices = order[start : start + BATCH_SIZE]
            batch = collate(items, indices, multiple=device.shape_multiple).to(device.torch_device)
            logits = model(batch.inputs).float()
            for index, reading in zip(indices, family.read(logits, batch), strict=True):
                readings[index] = reading
    model.train(was_training)
    chosen = family.choose(data.examples, items, readings) if choosing else {}
    answers = family.answers(data.examples, items, readings)
    return Predictions(
        ids=[example.id for example in data.examples],
        gold=[family.gold(example) for example in data.examples],
        predicted=[answer for answer, _ in answers],
        scores=[score for _, score in answers],
        chosen=chosen,
    )


@dataclass(frozen=True)
class Baseline:
    """The best constant answer: its score, and how far a score must be above it to be more than chance."""

    score: float
    noise: float
    """95 % half-width of the difference between the answers' score and the baseline's, over samples of the examples."""


def baseline(metric: Metric, family: Family, examples: Sequence[Any], found: Predictions) -> Baseline:
    """Hold answers against the best constant answer, by a bootstrap over the examples (both on the same samples)."""
    best = max if metric.higher_is_better else min
    constant = best(family.trivial_answers(examples), key=lambda answers: metric.compute(found.gold, answers))
    score = metric.compute(found.gold, constant)
    differences = bootstrap(metric, [metric.counts(found.gold, answers) for answers in (found.predicted, constant)])
    return Baseline(score, float(1.959964 * (differences[0] - differences[1]).std(ddof=1)))


def bootstrap(metric: Metric, several: Sequence[Sequence[Sequence[float]]], *, seed: int = 0) -> numpy.ndarray:
    """A metric on 1,000 samples of the examples, drawn with replacement, of several ways to answer: ways x samples.

    All ways are scored on the same samples, so that their differences are paired.

    Args:
        several: for each way the counts of each example, as `metric.counts` gives them.
    """
    table = numpy.hstack([numpy.asarray(counts, dtype=numpy.float64) for counts in several])
    kinds, times = numpy.unique(table, axis=0, return_counts=True)  # equal examples are drawn together
    draw = numpy.random.default_rng(seed)
    sums = draw.multinomial(len(table), times / len(table), size=RESAMPLES) @ kinds
    width = len(several[0][0])
    return numpy.array(
        [[metric.score(row[at : at + width].tolist()) for row in sums] for at in range(0, table.shape[1], width)]
    )

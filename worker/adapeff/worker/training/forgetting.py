"""What a model forgot of its old tasks while it learned new ones: scores before and after, on the same examples."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy

from adapeff.service import measurements as m
from adapeff.service.measured import Dimensions
from adapeff.worker.events import EventLog
from adapeff.worker.training.evaluate import Predictions, bootstrap
from adapeff.worker.training.load import Part, Prepared

_INTERVAL = (0.025, 0.975)
OfTasks = Mapping[str, Mapping[str, Predictions]]
"""Task -> language -> predictions."""


def measure_forgetting(log: EventLog, prepared: Prepared, before: OfTasks, after: OfTasks) -> None:
    """Measure the scores before the training, and how far those of the old tasks have changed.

    The intervals are those of a paired bootstrap over the test examples (Efron & Tibshirani 1993, chapter 16).
    """
    of_tasks = {}
    for part in prepared.parts:
        for language, found in before[part.name].items():
            where: Dimensions = {"split": "test", "language": language, "task": part.name}
            score = part.metric.compute(found.gold, found.predicted)
            log.measure(m.BASE_SCORE.of(part.metric.name), score, **where)
            if part.is_old:
                change, samples = score_change(part, found, after[part.name][language])
                log.measure(m.FORGETTING, change, **where)
                low, high = numpy.quantile(samples, _INTERVAL)
                for statistic, bound in (("low", low), ("high", high)):
                    at: Dimensions = {**where, "statistic": statistic}
                    log.measure(m.FORGETTING, float(bound), **at)
                if language == part.first_language:
                    of_tasks[part.name] = change, samples
    changes = [change for change, _ in of_tasks.values()]
    bounds = numpy.quantile(numpy.mean([samples for _, samples in of_tasks.values()], axis=0), _INTERVAL)
    of_all = {"mean": float(numpy.mean(changes)), "mean_low": bounds[0], "mean_high": bounds[1], "worst": min(changes)}
    for statistic, value in of_all.items():
        log.measure(m.FORGETTING, float(value), statistic=statistic, split="test")


def score_change(part: Part, before: Predictions, after: Predictions) -> tuple[float, numpy.ndarray]:
    """The score after minus the one before, and the same on bootstrap samples of the examples."""
    now = part.metric.compute(after.gold, after.predicted)
    then = part.metric.compute(before.gold, before.predicted)
    scores, old_scores = bootstrap(part.metric, before.gold, [after.predicted, before.predicted], seed=_seed(part))
    return now - then, scores - old_scores


def _seed(part: Part) -> int:
    """A seed of its own for each task, so that the samples of different tasks are independent."""
    return zlib.crc32(part.name.encode())

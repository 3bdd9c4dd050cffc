"""Record what the trained model answers, and how fast: quality, predictions, inference variants and latency."""

from __future__ import annotations

import gzip
import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import product, repeat
from pathlib import Path
from typing import Any

from adapeff.service import measurements as m
from adapeff.service.measured import Dimensions
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Metric
from adapeff.service.plugins.example_scores import score_examples
from adapeff.service.specs.job import JobSpec
from adapeff.service.statistics.packing import pack
from adapeff.worker.devices.base import Device
from adapeff.worker.events import EventLog
from adapeff.worker.measure.latency import log_latency, time_forward, traffic
from adapeff.worker.modeling.models import TaskModel
from adapeff.worker.training.evaluate import Predictions, baseline, evaluate
from adapeff.worker.training.load import Part, Prepared
from adapeff.worker.training.record import model_inputs


def predict(
    part: Part, model: TaskModel, *, device: Device, precision: str, alive: Callable[[], None]
) -> dict[str, Predictions]:
    """Predict the test split of each language of a task."""
    return {
        language: evaluate(model, part.family, data, device=device, precision=precision, alive=alive)
        for language, data in part.tests.items()
    }


def measure_quality(log: EventLog, part: Part, predictions: Mapping[str, Predictions]) -> None:
    """Every metric of the task per language, with the trivial baseline and the score ceiling if it is known."""
    task, headline = part.task, part.metric
    further = [catalog.get_metric(name) for name in task.further_metrics]
    for language, found in predictions.items():
        where: Dimensions = {"language": language, "split": "test", "task": part.name}
        for metric in (headline, *further):
            log.measure(m.SCORE.of(metric.name), metric.compute(found.gold, found.predicted), **where)
        trivial = baseline(headline, part.family, part.tests[language].examples, found)
        log.measure(m.MAJORITY.of(headline.name), trivial.score, **where)
        log.measure(m.NOISE.of(headline.name), trivial.noise, **where)
        log.measure(m.EXAMPLES, len(found.gold), **where)
    if (ceiling := task.ceiling()) is not None:
        log.measure(m.SCORE_CEILING.of(headline.name), ceiling, split="test", task=part.name)


def measure_mean_quality(
    log: EventLog, prepared: Prepared, predictions: Mapping[str, Mapping[str, Predictions]]
) -> None:
    """The mean over a mixture's tasks of their headline scores, in the first tested language of each.

    Args:
        predictions: task -> language -> predictions.
    """
    scores, trivial, noise, examples = [], [], [], 0
    for part in prepared.parts:
        language = part.first_language
        found = predictions[part.name][language]
        against = baseline(part.metric, part.family, part.tests[language].examples, found)
        scores.append(part.metric.compute(found.gold, found.predicted))
        trivial.append(against.score)
        noise.append(against.noise)
        examples += len(found.gold)
    where: Dimensions = {"language": prepared.task.source_language, "split": "test"}
    log.measure(m.SCORE.of(prepared.task.metric), statistics.fmean(scores), **where)
    log.measure(m.MAJORITY.of(prepared.task.metric), statistics.fmean(trivial), **where)
    log.measure(m.NOISE.of(prepared.task.metric), math.hypot(*noise) / len(noise), **where)
    log.measure(m.EXAMPLES, examples, **where)


def store_example_scores(
    log: EventLog, metric: Metric, predictions: Mapping[str, Predictions], *, task: str = ""
) -> None:
    """Write the headline score by example for each language, so that runs can be compared example by example."""
    for language, found in predictions.items():
        values = score_examples(metric, found.gold, found.predicted)
        about = {"task": task} if task else {}
        log.emit("example_scores", language=language, metric=metric.name, values=pack(values), **about)


def store_predictions(log: EventLog, predictions: Mapping[str, Mapping[str, Predictions]], out: Path) -> None:
    """Store every answer, one JSON object per line.

    Args:
        predictions: task -> language -> predictions.
    """
    file = out / "predictions.jsonl.gz"
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        for task, by_language in predictions.items():
            about = {"task": task} if task else {}
            for language, found in by_language.items():
                for row in zip(found.ids, found.gold, found.predicted, found.scores, strict=True):
                    record = dict(zip(("id", "gold", "predicted", "score"), row, strict=True))
                    lines.write(json.dumps({**about, "language": language, **record}, ensure_ascii=False) + "\n")
    log.artifact("predictions", file)


def measure_variants(
    spec: JobSpec,
    prepared: Prepared,
    part: Part,
    trained: Mapping[str, Predictions],
    log: EventLog,
    *,
    device: Device,
    precision: str,
) -> list[dict[str, Any]]:
    """Measure quality and latency of each inference variant, and how far its answers differ from `trained`.

    `agreement` is the share of examples with the same answer, `score_difference_max` the largest difference between the
    probabilities of the answers: merged weights and an ejected prefix should give 1 and rounding error.
    """
    cells = []
    head = prepared.model_of(part).head
    for variant, encoder in prepared.method.variants(prepared.model.encoder):
        model = TaskModel(encoder, head).eval()
        for language, found in predict(part, model, device=device, precision=precision, alive=log.alive).items():
            score = part.metric.compute(found.gold, found.predicted)
            where: Dimensions = {"language": language, "split": "test", "variant": variant, "task": part.name}
            log.measure(m.SCORE.of(part.metric.name), score, **where)
            agreeing = [
                part.family.agree(ours, theirs)
                for ours, theirs in zip(found.predicted, trained[language].predicted, strict=True)
            ]
            log.measure(m.AGREEMENT, sum(agreeing) / len(agreeing), **where)
            differences = [
                abs(confidence - reference)
                for confidence, reference in zip(found.scores, trained[language].scores, strict=True)
            ]
            log.measure(m.SCORE_DIFFERENCE_MAX, max(differences), **where)
        timed = measure_latency(spec, prepared, part, log, model, variant=variant, device=device, precision=precision)
        cells += [{**cell, "variant": variant} for cell in timed]
    return cells


def measure_latency(
    spec: JobSpec,
    prepared: Prepared,
    part: Part,
    log: EventLog,
    model: TaskModel,
    *,
    device: Device,
    precision: str,
    variant: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Latency of fixed shapes, and of the test examples in their own lengths; gives the raw samples."""
    make = model_inputs(prepared, part, device)
    measuring = spec.measuring
    budget: dict[str, Any] = {"seconds": measuring.latency_seconds, "device": device, "precision": precision}
    about = {"dtype": precision, "task": part.name}
    kept = []
    for batch, length in product(measuring.latency_batches, measuring.lengths):
        cell = time_forward(model, repeat(make(batch, length)), **budget)
        log_latency(log, cell, batch=batch, length=length, variant=variant or {}, **about)
        kept.append({"batch": batch, "length": length, **asdict(cell)})
    if variant is None:
        data = part.tests[part.first_language].encoded
        for batch in measuring.latency_batches:
            cell = time_forward(model, traffic(data, batch, device), **budget)
            log_latency(log, cell, batch=batch, length=0, variant={"lengths": "real"}, **about)
            kept.append({"batch": batch, "length": 0, **asdict(cell)})
    return [{**cell, "task": part.name} if part.name else cell for cell in kept]

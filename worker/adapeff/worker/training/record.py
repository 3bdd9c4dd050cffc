"""Record: turn what a training run came to into measurements and files."""

from __future__ import annotations

import gzip
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate, product, repeat
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Task
from adapeff.service.specs.job import JobSpec
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.choice import out_of_memory
from adapeff.worker.devices.step_clocks import STEP_PHASES
from adapeff.worker.events import EventLog
from adapeff.worker.families.token_cache import TokenCache
from adapeff.worker.measure.flops import FlopCounter, synthetic_inputs
from adapeff.worker.measure.latency import log_latency, percentile, time_forward, traffic
from adapeff.worker.measure.memory_breakdown import step_bytes, weight_bytes
from adapeff.worker.modeling.models import TaskModel, count_parameters, trained_state
from adapeff.worker.modeling.weights import WEIGHTS, describe
from adapeff.worker.sensors.window import Window, energy_above_idle, sample_problems
from adapeff.worker.training.evaluate import Predictions, baseline, evaluate
from adapeff.worker.training.load import Prepared
from adapeff.worker.training.train import TrainResult, compute_seconds
from adapeff.worker.training.tuning import Learned

WARMUP_STEPS = 5


def measure_parameters(log: EventLog, model: TaskModel) -> None:
    """How many parameters are trained, by what they are for."""
    counts = count_parameters(model)
    log.measure("trainable_parameters", counts.trainable, "1")
    log.measure("trainable_parameters_method", counts.trainable_method, "1")
    log.measure("trainable_parameters_head", counts.trainable_head, "1")
    log.measure("total_parameters", counts.total, "1")


def measure_data(log: EventLog, prepared: Prepared, tokens: TokenCache) -> None:
    """How much text there is, and how much of it was tokenised anew."""
    source = prepared.task.source_language
    splits = [("train", source, prepared.train), ("validation", source, prepared.validation)]
    splits += [("test", language, data) for language, data in prepared.tests.items()]
    for split, language, data in splits:
        where = {"split": split, "language": language}
        at_limit = int((data.encoded.row_starts.diff() == prepared.family.max_length).sum())
        log.measure("data_examples", len(data.examples), "1", **where)
        log.measure("data_rows", len(data.encoded.row_starts) - 1, "1", **where)
        log.measure("data_rows_at_max_length", at_limit, "1", **where)
        log.measure("data_tokens", data.encoded.tokens, "1", **where)
        unknown = prepared.loaded.tokenizer.unk_token_id
        ids = data.encoded.inputs["input_ids"]
        share = float((ids == unknown).float().mean()) if unknown is not None and len(ids) else 0.0
        log.measure("unknown_token_share", share, "1", **where)
    log.measure("tokenised_examples", tokens.tokenised_examples, "1")


def data_revisions(task: Task, data_root: Path | None) -> dict[str, str | None]:
    """The training data's commit as `data_revision`, those of other data sets by name."""
    found = task.resolved_revisions(data_root)
    return {"data_revision": next(iter(found.values()), None), **{f"data_revision:{n}": c for n, c in found.items()}}


def measure_training(log: EventLog, trained: TrainResult, metric: str, source_language: str) -> None:
    """What training took, and how the validation score rose with it."""
    log.measure("train_compute_s", compute_seconds(trained.steps_taken), "s")
    log.measure("train_steps", trained.steps, "1")
    log.measure("best_step", trained.best_step, "1")
    log.measure("train_samples", trained.samples, "1")
    log.measure("train_tokens", trained.real_tokens, "1", variant={"tokens": "real"})
    log.measure("train_tokens", trained.processed_tokens, "1", variant={"tokens": "processed"})
    for phase in ("", *STEP_PHASES):
        seconds = [getattr(step, phase or "total") for step in trained.steps_taken]
        for percent in (50, 95):
            log.measure("step_latency_s", percentile(seconds, percent), "s", statistic=f"p{percent}", phase=phase)
    log.curve("train_loss", list(enumerate(trained.losses, start=1)))
    log.curve(f"validation_{metric}", [(at.step, at.score) for at in trained.validation])
    log.curve("train_samples", [(at.step, at.samples) for at in trained.validation])
    log.curve("train_compute_s", [(at.step, at.compute_s) for at in trained.validation])
    log.measure(metric, trained.best_score, "1", split="validation", language=source_language)


def measure_flops(log: EventLog, trained: TrainResult, counter: FlopCounter) -> list[float]:
    """FLOPs of all the steps that were taken, with and without those of padding; gives those of each step.

    Counting takes a step of the largest shape without fused attention; where there is no memory for that, gives none.
    """
    try:
        return _measure_flops(log, trained, counter)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        reason = "counting ran out of memory"
        log.measure("train_flops", None, "1", reason=reason, variant={"tokens": "processed"})
        return []


def _measure_flops(log: EventLog, trained: TrainResult, counter: FlopCounter) -> list[float]:
    by_shape = {shape: counter.step(*shape) for shape in sorted(set(trained.shapes), reverse=True)}
    each = [by_shape[shape] for shape in trained.shapes]
    total = {part: math.fsum(getattr(flops, part) for flops in each) for part in ("forward", "backward", "total")}
    for phase, flops in (("", total["total"]), ("forward", total["forward"]), ("backward", total["backward"])):
        log.measure("train_flops", flops, "1", phase=phase, variant={"tokens": "processed"})

    def row(length: int) -> float:
        return counter.step(2, length).total - counter.step(1, length).total

    processed = math.fsum(rows * row(length) for rows, length in trained.shapes)
    real = math.fsum(rows * row(length) for length, rows in trained.row_lengths.items())
    log.measure("train_flops", total["total"] - processed + real, "1", variant={"tokens": "real"})
    uncounted = sorted(frozenset[str]().union(*(flops.uncounted for flops in by_shape.values())))
    log.measure("flops_uncounted_operations", len(uncounted), "1", reason=", ".join(uncounted))
    cumulative = [0.0, *accumulate(flops.total for flops in each)]
    log.curve("train_flops", [(at.step, cumulative[at.step]) for at in trained.validation])
    return [flops.total for flops in each]


def warmup_seconds(seconds: Sequence[float], flops: Sequence[float]) -> float | None:
    """What the first steps took beyond what their FLOPs take later on; None if there are too few to say.

    Kernels are chosen, buffers made and caches filled in them.
    """
    if len(flops) < 2 * WARMUP_STEPS or not min(flops):
        return None
    rate = statistics.median(a / b for a, b in zip(seconds[WARMUP_STEPS:], flops[WARMUP_STEPS:], strict=True))
    first = zip(seconds[:WARMUP_STEPS], flops[:WARMUP_STEPS], strict=True)
    return max(0.0, math.fsum(a - b * rate for a, b in first))


def measure_warmup(log: EventLog, trained: TrainResult, flops: Sequence[float]) -> None:
    """The part of the compute seconds that was warming up."""
    found = warmup_seconds([step.total for step in trained.steps_taken], flops)
    reason = f"needs {2 * WARMUP_STEPS} steps with counted FLOPs" if found is None else ""
    log.measure("warmup_s", found, "s", reason=reason)


def measure_footprint(
    log: EventLog, prepared: Prepared, trained: TrainResult, *, device: Device, precision: str
) -> None:
    """What the largest step of training kept in memory, tensor by tensor; one more such step is taken for it."""
    rows, length = max(set(trained.shapes), key=lambda shape: shape[0] * shape[1])
    inputs = model_inputs(prepared, device)(rows, length)
    prepared.model.train()

    def loss() -> torch.Tensor:
        with device.autocast(precision):
            logits: torch.Tensor = prepared.model(inputs)
        return logits.float().square().mean()

    found = {"weights": weight_bytes(prepared.model), "optimizer": trained.optimizer_bytes}
    for part, size in (found | step_bytes(prepared.model, loss)).items():
        log.measure("memory_bytes", size, "B", phase="train", batch=rows, length=length, variant={"part": part})


def model_inputs(prepared: Prepared, device: Device) -> Callable[[int, int], dict[str, torch.Tensor]]:
    """Makes synthetic inputs of the model of batch x length."""
    config: Any = prepared.loaded.encoder.config
    names = list(prepared.train.encoded.padding)
    return lambda batch, length: synthetic_inputs(
        names, batch=batch, length=length, vocabulary=config.vocab_size, device=device.torch_device
    )


def measure_disturbance(log: EventLog, phase: str, window: Window, samples: Sequence[float]) -> None:
    """Who else was at work, and what the samples say for themselves; 0 where nothing is known against the figures."""
    problems = [*window.problems(), *sample_problems(samples)]
    log.measure("disturbance", len(problems), "1", phase=phase, reason="; ".join(problems))
    for name, share in (("foreign_cpu_share", window.foreign_cpu), ("steal_share", window.steal)):
        log.measure(name, share, "1", phase=phase, reason="" if share is not None else "this system does not say")


def measure_tuning(log: EventLog, learned: Learned) -> None:
    """The learning rate that was trained with, and what it cost to find it."""
    log.measure("learning_rate", learned.learning_rate, "1")
    if learned.trials:
        log.measure("tuning_trials", len(learned.trials), "1")
        log.measure("tuning_compute_s", math.fsum(trial.compute_s for trial in learned.trials), "s")
        log.curve("tuning", [(trial.learning_rate, trial.score) for trial in learned.trials])


def measure_energy(log: EventLog, learned: Learned, idle: Window | None) -> None:
    """Joules of the compute windows of training above idle: the whole less its validations."""
    values = [energy_above_idle(part, idle) for part in (learned.window, *learned.validations)]
    joules = [value for value, _ in values if value is not None]
    if len(joules) < len(values):
        log.measure("train_energy_j", None, "J", reason=values[0][1], phase="train")
    else:
        log.measure("train_energy_j", joules[0] - math.fsum(joules[1:]), "J", phase="train")


def store_weights(log: EventLog, spec: JobSpec, model: TaskModel, out: Path) -> None:
    """Write what must be kept per task, and measure the file; it stays only where asked for."""
    file = out / WEIGHTS
    description = describe(
        method=spec.method.name, parameters=spec.method.parameters, model=spec.model.identity, task=str(spec.task)
    )
    with tempfile.TemporaryDirectory(dir=out) as folder:
        written = Path(folder) / WEIGHTS
        state = {name: tensor.cpu().contiguous() for name, tensor in trained_state(model).items()}
        save_file(state, written, metadata=description)
        log.measure("stored_bytes", written.stat().st_size, "B")
        halved = Path(folder) / "bf16.safetensors"
        save_file({name: tensor.bfloat16() for name, tensor in state.items()}, halved, metadata=description)
        log.measure("stored_bytes", halved.stat().st_size, "B", dtype="bf16")
        if spec.measuring.keep_weights:
            written.replace(file)
    if spec.measuring.keep_weights:
        log.artifact("weights", file)


def predict(prepared: Prepared, model: TaskModel, *, device: Device, precision: str) -> dict[str, Predictions]:
    """Answers to the test split of each language."""
    return {
        language: evaluate(model, prepared.family, data, device=device, precision=precision)
        for language, data in prepared.tests.items()
    }


def measure_quality(log: EventLog, prepared: Prepared, predictions: Mapping[str, Predictions]) -> None:
    """Every metric of the task per language, beside the best constant answer and the ceiling where there is one."""
    task = prepared.task
    headline = catalog.get_metric(task.metric)
    further = [catalog.get_metric(name) for name in task.further_metrics]
    for language, found in predictions.items():
        where = {"language": language, "split": "test"}
        for metric in (headline, *further):
            log.measure(metric.name, metric.compute(found.gold, found.predicted), "1", **where)
        constant = baseline(headline, prepared.family, prepared.tests[language].examples, found)
        log.measure(f"majority_{headline.name}", constant.score, "1", **where)
        log.measure(f"noise_{headline.name}", constant.noise, "1", **where)
        log.measure("examples", len(found.gold), "1", **where)
    if (ceiling := task.ceiling()) is not None:
        log.measure(f"ceiling_{headline.name}", ceiling, "1", split="test")


def store_predictions(log: EventLog, predictions: Mapping[str, Predictions], out: Path) -> None:
    """Keep every answer, one JSON object a line."""
    file = out / "predictions.jsonl.gz"
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        for language, found in predictions.items():
            for row in zip(found.ids, found.gold, found.predicted, found.scores, strict=True):
                record = dict(zip(("id", "gold", "predicted", "score"), row, strict=True))
                lines.write(json.dumps({"language": language, **record}, ensure_ascii=False) + "\n")
    log.artifact("predictions", file)


def measure_variants(
    spec: JobSpec,
    prepared: Prepared,
    trained: Mapping[str, Predictions],
    log: EventLog,
    *,
    device: Device,
    precision: str,
) -> list[dict[str, Any]]:
    """Quality and latency of each other way to serve what was trained, and how far its answers are from `trained`.

    `agreement` is the share of examples with the same answer, `score_difference_max` how far the probabilities of the
    answers are apart at most: merged weights and an ejected prefix should give 1 and rounding error.
    """
    metric = catalog.get_metric(prepared.task.metric)
    cells = []
    for variant, encoder in prepared.method.variants(prepared.model.encoder):
        model = TaskModel(encoder, prepared.model.head).eval()
        for language, found in predict(prepared, model, device=device, precision=precision).items():
            score = metric.compute(found.gold, found.predicted)
            where: dict[str, Any] = {"language": language, "split": "test", "variant": variant}
            log.measure(metric.name, score, "1", **where)
            agreeing = [
                ours == theirs for ours, theirs in zip(found.predicted, trained[language].predicted, strict=True)
            ]
            log.measure("agreement", sum(agreeing) / len(agreeing), "1", **where)
            apart = [abs(ours - theirs) for ours, theirs in zip(found.scores, trained[language].scores, strict=True)]
            log.measure("score_difference_max", max(apart), "1", **where)
        made = measure_latency(spec, prepared, log, model, variant=variant, device=device, precision=precision)
        cells += [{**cell, "variant": variant} for cell in made]
    return cells


def measure_latency(
    spec: JobSpec,
    prepared: Prepared,
    log: EventLog,
    model: TaskModel,
    *,
    device: Device,
    precision: str,
    variant: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Latency of fixed shapes, and of the test examples in their own lengths; gives the raw samples."""
    make = model_inputs(prepared, device)
    measuring = spec.measuring
    budget: dict[str, Any] = {"seconds": measuring.latency_seconds, "device": device, "precision": precision}
    kept = []
    for batch, length in product(measuring.latency_batches, measuring.lengths):
        cell = time_forward(model, repeat(make(batch, length)), **budget)
        log_latency(log, cell, batch=batch, length=length, dtype=precision, variant=variant or {})
        kept.append({"batch": batch, "length": length, **asdict(cell)})
    if variant is None:
        source = prepared.task.source_language
        data = prepared.tests[source if source in prepared.tests else next(iter(prepared.tests))].encoded
        for batch in measuring.latency_batches:
            cell = time_forward(model, traffic(data, batch, device), **budget)
            log_latency(log, cell, batch=batch, length=0, dtype=precision, variant={"lengths": "real"})
            kept.append({"batch": batch, "length": 0, **asdict(cell)})
    return kept


def store_samples(log: EventLog, trained: TrainResult, latency: list[dict[str, Any]], out: Path) -> None:
    """Keep the raw samples behind every time."""
    file = out / "samples.json.gz"
    with gzip.open(file, "wt", encoding="utf-8") as text:
        steps = {phase: [getattr(step, phase) for step in trained.steps_taken] for phase in STEP_PHASES}
        kept = {"format": 2, "step_seconds": steps, "step_shapes": trained.shapes, "latency_seconds": latency}
        json.dump(kept, text)
    log.artifact("samples", file)

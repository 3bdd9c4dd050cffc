"""Record the results of a training run as measurements and files."""

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

from adapeff.service import measurements as m
from adapeff.service.measured import Dimensions
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Metric, Task
from adapeff.service.plugins.example_scores import score_examples
from adapeff.service.specs.job import JobSpec
from adapeff.service.statistics.packing import pack
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
    """Measure the trainable parameters of the method and of the head."""
    counts = count_parameters(model)
    log.measure(m.TRAINABLE_PARAMETERS, counts.trainable)
    log.measure(m.TRAINABLE_PARAMETERS_METHOD, counts.trainable_method)
    log.measure(m.TRAINABLE_PARAMETERS_HEAD, counts.trainable_head)
    log.measure(m.TOTAL_PARAMETERS, counts.total)


def measure_data(log: EventLog, prepared: Prepared, tokens: TokenCache) -> None:
    """Measure the amount of text and how much of it this run tokenised."""
    source = prepared.task.source_language
    splits = [("train", source, prepared.train), ("validation", source, prepared.validation)]
    splits += [("test", language, data) for language, data in prepared.tests.items()]
    for split, language, data in splits:
        where: Dimensions = {"split": split, "language": language}
        at_limit = int((data.encoded.row_starts.diff() == prepared.family.max_length).sum())
        log.measure(m.DATA_EXAMPLES, len(data.examples), **where)
        log.measure(m.DATA_ROWS, len(data.encoded.row_starts) - 1, **where)
        log.measure(m.DATA_ROWS_AT_MAX_LENGTH, at_limit, **where)
        log.measure(m.DATA_TOKENS, data.encoded.tokens, **where)
        unknown = prepared.loaded.tokenizer.unk_token_id
        ids = data.encoded.inputs["input_ids"]
        share = float((ids == unknown).float().mean()) if unknown is not None and len(ids) else 0.0
        log.measure(m.UNKNOWN_TOKEN_SHARE, share, **where)
    log.measure(m.TOKENISED_EXAMPLES, tokens.tokenised_examples)


def data_revisions(task: Task, data_root: Path | None) -> dict[str, str | None]:
    """The training data's commit as `data_revision`, those of other data sets by name."""
    found = task.resolved_revisions(data_root)
    return {"data_revision": next(iter(found.values()), None), **{f"data_revision:{n}": c for n, c in found.items()}}


def measure_training(log: EventLog, trained: TrainResult, metric: str, source_language: str) -> None:
    """Measure the cost of training and record the validation curves."""
    log.measure(m.TRAIN_COMPUTE_S, compute_seconds(trained.steps_taken))
    log.measure(m.TRAIN_STEPS, trained.steps)
    log.measure(m.BEST_STEP, trained.best_step)
    log.measure(m.TRAIN_SAMPLES, trained.samples)
    log.measure(m.TRAIN_TOKENS, trained.real_tokens, variant={"tokens": "real"})
    log.measure(m.TRAIN_TOKENS, trained.processed_tokens, variant={"tokens": "processed"})
    for phase in ("", *STEP_PHASES):
        seconds = [getattr(step, phase or "total") for step in trained.steps_taken]
        for percent in (50, 95):
            log.measure(m.STEP_LATENCY_S, percentile(seconds, percent), statistic=f"p{percent}", phase=phase)
    log.curve("train_loss", list(enumerate(trained.losses, start=1)))
    log.curve(f"validation_{metric}", [(at.step, at.score) for at in trained.validation])
    log.curve("train_samples", [(at.step, at.samples) for at in trained.validation])
    log.curve("train_compute_s", [(at.step, at.compute_s) for at in trained.validation])
    log.measure(m.SCORE.of(metric), trained.best_score, split="validation", language=source_language)


def measure_flops(log: EventLog, trained: TrainResult, counter: FlopCounter) -> list[float]:
    """Measure the FLOPs of all steps, with and without padding; return those of each step.

    Counting takes a step of the largest shape without fused attention; without enough memory for it, the list is empty.
    """
    try:
        return _measure_flops(log, trained, counter)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        reason = "counting ran out of memory"
        log.measure(m.TRAIN_FLOPS, None, reason=reason, variant={"tokens": "processed"})
        return []


def _measure_flops(log: EventLog, trained: TrainResult, counter: FlopCounter) -> list[float]:
    by_shape = {shape: counter.step(*shape) for shape in sorted(set(trained.shapes), reverse=True)}
    each = [by_shape[shape] for shape in trained.shapes]
    total = {part: math.fsum(getattr(flops, part) for flops in each) for part in ("forward", "backward", "total")}
    for phase, flops in (("", total["total"]), ("forward", total["forward"]), ("backward", total["backward"])):
        log.measure(m.TRAIN_FLOPS, flops, phase=phase, variant={"tokens": "processed"})

    def row(length: int) -> float:
        return counter.step(2, length).total - counter.step(1, length).total

    processed = math.fsum(rows * row(length) for rows, length in trained.shapes)
    real = math.fsum(rows * row(length) for length, rows in trained.row_lengths.items())
    log.measure(m.TRAIN_FLOPS, total["total"] - processed + real, variant={"tokens": "real"})
    uncounted = sorted(frozenset[str]().union(*(flops.uncounted for flops in by_shape.values())))
    log.measure(m.FLOPS_UNCOUNTED, len(uncounted), reason=", ".join(uncounted))
    cumulative = [0.0, *accumulate(flops.total for flops in each)]
    log.curve("train_flops", [(at.step, cumulative[at.step]) for at in trained.validation])
    return [flops.total for flops in each]


def warmup_seconds(seconds: Sequence[float], flops: Sequence[float]) -> float | None:
    """Seconds the first steps took beyond the later steps' time per FLOP; None with too few steps.

    In these steps kernels are selected, buffers allocated and caches filled.
    """
    if len(flops) < 2 * WARMUP_STEPS or not min(flops):
        return None
    rate = statistics.median(a / b for a, b in zip(seconds[WARMUP_STEPS:], flops[WARMUP_STEPS:], strict=True))
    first = zip(seconds[:WARMUP_STEPS], flops[:WARMUP_STEPS], strict=True)
    return max(0.0, math.fsum(a - b * rate for a, b in first))


def measure_warmup(log: EventLog, trained: TrainResult, flops: Sequence[float]) -> None:
    """Measure the compute seconds spent on warm-up."""
    found = warmup_seconds([step.total for step in trained.steps_taken], flops)
    reason = f"needs {2 * WARMUP_STEPS} steps with counted FLOPs" if found is None else ""
    log.measure(m.WARMUP_S, found, reason=reason)


def measure_memory_breakdown(
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
        log.measure(m.MEMORY_BYTES, size, phase="train", batch=rows, length=length, variant={"part": part})


def model_inputs(prepared: Prepared, device: Device) -> Callable[[int, int], dict[str, torch.Tensor]]:
    """Makes synthetic inputs of the model of batch x length."""
    config: Any = prepared.loaded.encoder.config
    names = list(prepared.train.encoded.padding)
    return lambda batch, length: synthetic_inputs(
        names, batch=batch, length=length, vocabulary=config.vocab_size, device=device.torch_device
    )


def measure_disturbance(log: EventLog, phase: str, window: Window, samples: Sequence[float]) -> None:
    """Measure other load on the machine and problems of the samples; 0 where nothing is known to disturb the times."""
    problems = [*window.problems(), *sample_problems(samples)]
    log.measure(m.DISTURBANCE, len(problems), phase=phase, reason="; ".join(problems))
    for definition, share in ((m.FOREIGN_CPU_SHARE, window.foreign_cpu), (m.STEAL_SHARE, window.steal)):
        log.measure(definition, share, phase=phase, reason="" if share is not None else "this system does not say")


def measure_tuning(log: EventLog, learned: Learned) -> None:
    """The learning rate that was trained with, and what it cost to find it."""
    log.measure(m.LEARNING_RATE, learned.learning_rate)
    if learned.trials:
        log.measure(m.TUNING_TRIALS, len(learned.trials))
        log.measure(m.TUNING_COMPUTE_S, math.fsum(trial.compute_s for trial in learned.trials))
        log.curve("tuning", [(trial.learning_rate, trial.score) for trial in learned.trials])


def measure_energy(log: EventLog, learned: Learned, idle: Window | None) -> None:
    """Measure the energy of training above idle, without its validations."""
    values = [energy_above_idle(part, idle) for part in (learned.window, *learned.validations)]
    joules = [value for value, _ in values if value is not None]
    if len(joules) < len(values):
        log.measure(m.TRAIN_ENERGY_J, None, reason=values[0][1], phase="train")
    else:
        log.measure(m.TRAIN_ENERGY_J, joules[0] - math.fsum(joules[1:]), phase="train")


def store_weights(log: EventLog, spec: JobSpec, model: TaskModel, out: Path) -> None:
    """Write the weights a task must store and measure the file; keep it only if the job requests it."""
    file = out / WEIGHTS
    description = describe(
        method=spec.method.name, parameters=spec.method.parameters, model=spec.model.identity, task=str(spec.task)
    )
    with tempfile.TemporaryDirectory(dir=out) as folder:
        written = Path(folder) / WEIGHTS
        state = {name: tensor.cpu().contiguous() for name, tensor in trained_state(model).items()}
        save_file(state, written, metadata=description)
        log.measure(m.STORED_BYTES, written.stat().st_size)
        halved = Path(folder) / "bf16.safetensors"
        save_file({name: tensor.bfloat16() for name, tensor in state.items()}, halved, metadata=description)
        log.measure(m.STORED_BYTES, halved.stat().st_size, dtype="bf16")
        if spec.measuring.keep_weights:
            written.replace(file)
    if spec.measuring.keep_weights:
        log.artifact("weights", file)


def predict(prepared: Prepared, model: TaskModel, *, device: Device, precision: str) -> dict[str, Predictions]:
    """Predict the test split of each language."""
    return {
        language: evaluate(model, prepared.family, data, device=device, precision=precision)
        for language, data in prepared.tests.items()
    }


def measure_quality(log: EventLog, prepared: Prepared, predictions: Mapping[str, Predictions]) -> None:
    """Every metric of the task per language, with the trivial baseline and the score ceiling if it is known."""
    task = prepared.task
    headline = catalog.get_metric(task.metric)
    further = [catalog.get_metric(name) for name in task.further_metrics]
    for language, found in predictions.items():
        where: Dimensions = {"language": language, "split": "test"}
        for metric in (headline, *further):
            log.measure(m.SCORE.of(metric.name), metric.compute(found.gold, found.predicted), **where)
        trivial = baseline(headline, prepared.family, prepared.tests[language].examples, found)
        log.measure(m.MAJORITY.of(headline.name), trivial.score, **where)
        log.measure(m.NOISE.of(headline.name), trivial.noise, **where)
        log.measure(m.EXAMPLES, len(found.gold), **where)
    if (ceiling := task.ceiling()) is not None:
        log.measure(m.SCORE_CEILING.of(headline.name), ceiling, split="test")


def store_example_scores(log: EventLog, metric: Metric, predictions: Mapping[str, Predictions]) -> None:
    """Write the headline score by example for each language, so that runs can be compared example by example."""
    for language, found in predictions.items():
        values = score_examples(metric, found.gold, found.predicted)
        log.emit("example_scores", language=language, metric=metric.name, values=pack(values))


def store_predictions(log: EventLog, predictions: Mapping[str, Predictions], out: Path) -> None:
    """Store every answer, one JSON object per line."""
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
    """Measure quality and latency of each inference variant, and how far its answers differ from `trained`.

    `agreement` is the share of examples with the same answer, `score_difference_max` the largest difference between the
    probabilities of the answers: merged weights and an ejected prefix should give 1 and rounding error.
    """
    metric = catalog.get_metric(prepared.task.metric)
    cells = []
    for variant, encoder in prepared.method.variants(prepared.model.encoder):
        model = TaskModel(encoder, prepared.model.head).eval()
        for language, found in predict(prepared, model, device=device, precision=precision).items():
            score = metric.compute(found.gold, found.predicted)
            where: Dimensions = {"language": language, "split": "test", "variant": variant}
            log.measure(m.SCORE.of(metric.name), score, **where)
            agreeing = [
                prepared.family.agree(ours, theirs)
                for ours, theirs in zip(found.predicted, trained[language].predicted, strict=True)
            ]
            log.measure(m.AGREEMENT, sum(agreeing) / len(agreeing), **where)
            differences = [
                abs(confidence - reference)
                for confidence, reference in zip(found.scores, trained[language].scores, strict=True)
            ]
            log.measure(m.SCORE_DIFFERENCE_MAX, max(differences), **where)
        latency_cells = measure_latency(spec, prepared, log, model, variant=variant, device=device, precision=precision)
        cells += [{**cell, "variant": variant} for cell in latency_cells]
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
    """Store the raw samples behind every time."""
    file = out / "samples.json.gz"
    with gzip.open(file, "wt", encoding="utf-8") as text:
        steps = {phase: [getattr(step, phase) for step in trained.steps_taken] for phase in STEP_PHASES}
        kept = {"format": 2, "step_seconds": steps, "step_shapes": trained.shapes, "latency_seconds": latency}
        json.dump(kept, text)
    log.artifact("samples", file)

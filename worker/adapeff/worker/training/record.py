"""Record the results of a training run as measurements and files."""

from __future__ import annotations

import gzip
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adapeff.service import measurements as m
from adapeff.service.measured import Dimensions
from adapeff.service.specs.job import JobSpec
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.choice import out_of_memory
from adapeff.worker.devices.step_clocks import STEP_PHASES
from adapeff.worker.events import EventLog
from adapeff.worker.families.token_cache import TokenCache
from adapeff.worker.measure.flops import FlopCounter, synthetic_inputs
from adapeff.worker.measure.latency import percentile
from adapeff.worker.measure.memory_breakdown import step_bytes, weight_bytes
from adapeff.worker.modeling.models import TaskModel, count_parameters, trained_state
from adapeff.worker.modeling.weights import WEIGHTS, describe
from adapeff.worker.sensors.window import Window, energy_above_idle, sample_problems
from adapeff.worker.training.learned import Learned
from adapeff.worker.training.load import Part, Prepared
from adapeff.worker.training.train_result import TrainResult, compute_seconds

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
    for part in prepared.parts:
        source = part.task.source_language
        splits = [("train", source, part.train), ("validation", source, part.validation)]
        splits += [("test", language, data) for language, data in part.tests.items()]
        for split, language, data in splits:
            where: Dimensions = {"split": split, "language": language, "task": part.name}
            at_limit = int((data.encoded.row_starts.diff() == part.family.max_length).sum())
            log.measure(m.DATA_EXAMPLES, len(data.examples), **where)
            log.measure(m.DATA_ROWS, len(data.encoded.row_starts) - 1, **where)
            log.measure(m.DATA_ROWS_AT_MAX_LENGTH, at_limit, **where)
            log.measure(m.DATA_TOKENS, data.encoded.tokens, **where)
            unknown = prepared.loaded.tokenizer.unk_token_id
            ids = data.encoded.inputs["input_ids"]
            share = float((ids == unknown).float().mean()) if unknown is not None and len(ids) else 0.0
            log.measure(m.UNKNOWN_TOKEN_SHARE, share, **where)
    log.measure(m.TOKENISED_EXAMPLES, tokens.tokenised_examples)


def describe_data(prepared: Prepared, data_root: Path | None) -> dict[str, Any]:
    """What the run's data are: commits, licences, and languages that are not tested.

    The training data's commit is `data_revision`; the others have the data set's name, those of a mixture all.
    """
    tasks = [part.task for part in prepared.parts]
    revisions = {name: commit for task in tasks for name, commit in task.resolved_revisions(data_root).items()}
    left = [reason for task in tasks for reason in task.untested(data_root)]
    return {
        "data_revision": next(iter(revisions.values()), None) if len(tasks) == 1 else None,
        **{f"data_revision:{name}": commit for name, commit in revisions.items()},
        "licence": "; ".join(dict.fromkeys(task.licence for task in tasks)),
        "non_commercial": any(task.non_commercial for task in tasks),
        **({"untested": "; ".join(left)} if left else {}),
        **({"members": {part.name: part.metric.name for part in prepared.parts}} if prepared.is_mixture else {}),
    }


def measure_training(log: EventLog, prepared: Prepared, learned: Learned) -> None:
    """Measure the cost of training and record the validation curves, of each task of a mixture too."""
    trained, task = learned.result, prepared.task
    log.measure(m.BEST_STEP, trained.best_step)
    _measure_steps(log, trained, range(trained.steps))
    for phase in ("", *STEP_PHASES):
        seconds = [getattr(step, phase or "total") for step in trained.steps_taken]
        for percent in (50, 95):
            log.measure(m.STEP_LATENCY_S, percentile(seconds, percent), statistic=f"p{percent}", phase=phase)
    log.curve("train_loss", list(enumerate(trained.losses, start=1)))
    means = {at.step: statistics.fmean(scores) for at, scores in zip(trained.validation, learned.by_task, strict=True)}
    log.curve(f"validation_{task.metric}", list(means.items()))
    log.curve("train_samples", [(at.step, at.samples) for at in trained.validation])
    log.curve("train_compute_s", [(at.step, at.compute_s) for at in trained.validation])
    where: Dimensions = {"split": "validation", "language": task.source_language}
    log.measure(m.SCORE.of(task.metric), means[trained.best_step], **where)
    for number, part in enumerate(prepared.parts if prepared.is_mixture else ()):
        _measure_steps(log, trained, [at for at, member in enumerate(trained.members) if member == number], part.name)
        scores = {at.step: scores[number] for at, scores in zip(trained.validation, learned.by_task, strict=True)}
        log.curve(f"validation_{part.metric.name}", list(scores.items()), task=part.name)
        where = {"split": "validation", "language": part.task.source_language, "task": part.name}
        log.measure(m.SCORE.of(part.metric.name), scores[trained.best_step], **where)


def _measure_steps(log: EventLog, trained: TrainResult, steps: Sequence[int], task: str = "") -> None:
    """Measure the amount of training in some steps, by their index."""
    members = {trained.members[step] for step in steps}
    real = sum(length * rows for (member, length), rows in trained.row_lengths.items() if member in members)
    processed = sum(rows * length for rows, length in (trained.shapes[step] for step in steps))
    log.measure(m.TRAIN_COMPUTE_S, compute_seconds(trained.steps_taken[step] for step in steps), task=task)
    log.measure(m.TRAIN_STEPS, len(steps), task=task)
    log.measure(m.TRAIN_SAMPLES, sum(trained.items[step] for step in steps), task=task)
    log.measure(m.TRAIN_TOKENS, real, variant={"tokens": "real"}, task=task)
    log.measure(m.TRAIN_TOKENS, processed, variant={"tokens": "processed"}, task=task)


def measure_flops(
    log: EventLog, prepared: Prepared, trained: TrainResult, counters: Sequence[FlopCounter]
) -> list[float]:
    """Measure the FLOPs of all steps, with and without padding; return those of each step.

    Counting takes a step of the largest shape without fused attention; without enough memory for it, the list is empty.

    Args:
        counters: one for each task.
    """
    try:
        return _measure_flops(log, prepared, trained, counters)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        reason = "counting ran out of memory"
        log.measure(m.TRAIN_FLOPS, None, reason=reason, variant={"tokens": "processed"})
        return []


def _measure_flops(
    log: EventLog, prepared: Prepared, trained: TrainResult, counters: Sequence[FlopCounter]
) -> list[float]:
    taken = list(zip(trained.members, trained.shapes, strict=True))
    by_shape = {(member, shape): counters[member].step(*shape) for member, shape in sorted(set(taken), reverse=True)}
    each = [by_shape[step] for step in taken]
    total = {part: math.fsum(getattr(flops, part) for flops in each) for part in ("forward", "backward", "total")}
    for phase, flops in (("", total["total"]), ("forward", total["forward"]), ("backward", total["backward"])):
        log.measure(m.TRAIN_FLOPS, flops, phase=phase, variant={"tokens": "processed"})
    for number, part in enumerate(prepared.parts if prepared.is_mixture else ()):
        own = math.fsum(flops.total for (member, _), flops in zip(taken, each, strict=True) if member == number)
        log.measure(m.TRAIN_FLOPS, own, variant={"tokens": "processed"}, task=part.name)

    def row(member: int, length: int) -> float:
        return counters[member].step(2, length).total - counters[member].step(1, length).total

    processed = math.fsum(rows * row(member, length) for member, (rows, length) in taken)
    real = math.fsum(rows * row(member, length) for (member, length), rows in trained.row_lengths.items())
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
    largest = max(range(trained.steps), key=lambda step: math.prod(trained.shapes[step]))
    (rows, length), member = trained.shapes[largest], trained.members[largest]
    inputs = model_inputs(prepared, prepared.parts[member], device)(rows, length)
    prepared.model.train()

    def loss() -> torch.Tensor:
        with device.autocast(precision):
            logits: torch.Tensor = prepared.model(inputs, member)
        return logits.float().square().mean()

    found = {"weights": weight_bytes(prepared.model), "optimizer": trained.optimizer_bytes}
    for part, size in (found | step_bytes(prepared.model, loss)).items():
        log.measure(m.MEMORY_BYTES, size, phase="train", batch=rows, length=length, variant={"part": part})


def model_inputs(prepared: Prepared, part: Part, device: Device) -> Callable[[int, int], dict[str, torch.Tensor]]:
    """Makes synthetic inputs of the model of batch x length."""
    config: Any = prepared.loaded.encoder.config
    names = list(part.train.encoded.padding)
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
        method=spec.method.name,
        parameters=spec.method.parameters,
        model=spec.model.identity,
        task=str(spec.task),
        heads=[str(member.task) for member in spec.members] if len(spec.members) > 1 else (),
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
    for number, member in enumerate(spec.members):
        prefix = f"head.{number}." if len(spec.members) > 1 else "head."
        size = sum(tensor.nbytes for name, tensor in state.items() if name.startswith(prefix))
        log.measure(m.STORED_BYTES, size, task=str(member.task))
    if spec.measuring.keep_weights:
        log.artifact("weights", file)


def store_samples(log: EventLog, trained: TrainResult, latency: list[dict[str, Any]], out: Path) -> None:
    """Store the raw samples behind every time."""
    file = out / "samples.json.gz"
    with gzip.open(file, "wt", encoding="utf-8") as text:
        steps = {phase: [getattr(step, phase) for step in trained.steps_taken] for phase in STEP_PHASES}
        kept = {"format": 2, "step_seconds": steps, "step_shapes": trained.shapes, "latency_seconds": latency}
        json.dump(kept, text)
    log.artifact("samples", file)

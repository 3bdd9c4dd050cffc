"""Learn: train on the source language, once with the job's learning rate or once per learning rate to try."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from adapeff.service.errors import NotHereError
from adapeff.service.specs.job import JobSpec, LogRange, Tuning
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.memory import Memory
from adapeff.worker.events import EventLog
from adapeff.worker.families.encoding import Batch
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.modeling.models import trained_state
from adapeff.worker.sensors.host import Sensor
from adapeff.worker.sensors.window import Window
from adapeff.worker.tasks.mixture import Mixture
from adapeff.worker.training.batches import steps_per_epoch, training_batches
from adapeff.worker.training.evaluate import Predictions, evaluate
from adapeff.worker.training.load import Part, Prepared
from adapeff.worker.training.mixing import member_order, mixed
from adapeff.worker.training.train import BestState, DivergedError, TrainResult, compute_seconds, put_state, train

logger = logging.getLogger("adapeff.runner")


@dataclass(frozen=True)
class Bench:
    """The workbench of a run: device, clock, sensor, memory, event log and output folder."""

    device: Device
    precision: str
    clock: PhaseClock
    sensor: Sensor
    memory: Memory
    log: EventLog
    out: Path


class Trial(NamedTuple):
    """A learning rate that was tried."""

    learning_rate: float
    score: float | None
    """Best validation score; None if training diverged."""
    compute_s: float


@dataclass
class Learned:
    """The result of training; with several trials that of the best one, whose state the model keeps."""

    result: TrainResult
    learning_rate: float
    window: Window
    """From the first step to the last."""
    validations: list[Window] = field(default_factory=list)
    by_task: list[list[float]] = field(default_factory=list)
    """The score of each task at each validation."""
    trials: list[Trial] = field(default_factory=list)


def learn(spec: JobSpec, prepared: Prepared, bench: Bench) -> Learned:
    """Train as the job specifies and select the best state on the source language's validation split.

    With `tuning`, each trial starts from the same weights and sees the same batches; a diverging trial loses.

    Raises:
        DivergedError: if the loss stops being a number (in every trial).
    """
    tuning = spec.training.tuning
    if tuning is None:
        return _train_once(spec, prepared, bench, spec.training.learning_rate)
    best: Learned | None = None
    state: dict[str, torch.Tensor] = {}
    trials: list[Trial] = []
    metric = prepared.parts[0].metric  # of a mixture: all are better higher
    search = open_search(tuning, seed=spec.seed, higher_is_better=metric.higher_is_better)
    for number in range(1, tuning.trials + 1):
        rate = search.ask()
        logger.info("trial %d of %d: learning rate %g", number, tuning.trials, rate)
        if number > 1:
            with bench.clock.phase("load"):
                prepared.start_again()
        try:
            learned = _train_once(spec, prepared, bench, rate)
        except DivergedError as error:
            logger.warning("learning rate %g: %s", rate, error)
            bench.clock.split("train", {"diverged": error.compute_s})
            trials.append(Trial(rate, None, error.compute_s))
        else:
            score = learned.result.best_score
            trials.append(Trial(rate, score, compute_seconds(learned.result.steps_taken)))
            if best is None or metric.is_better(score, best.result.best_score):
                best = learned
                state = {name: tensor.to("cpu", copy=True) for name, tensor in trained_state(prepared.model).items()}
        search.tell(trials[-1].score)
    if best is None:
        raise DivergedError(f"training diverged with every learning rate tried ({_list(trials)}); try lower ones", 0.0)
    put_state(prepared.model, state)
    best.trials = trials
    return best


class Search(Protocol):
    """Proposes learning rates."""

    def ask(self) -> float:
        """Return the next learning rate to try."""

    def tell(self, score: float | None) -> None:
        """Receive the score of the last trial; None if it diverged."""


class ListSearch:
    """Tries the learning rates of a list in order."""

    def __init__(self, rates: Iterable[float]) -> None:
        self._rates = iter(rates)

    def ask(self) -> float:
        """The next of the list."""
        return next(self._rates)

    def tell(self, score: float | None) -> None:
        """Scores change nothing."""


class OptunaSearch:
    """Optuna's tree-structured Parzen estimator over a range, on a logarithmic scale."""

    def __init__(self, bounds: LogRange, *, seed: int, higher_is_better: bool = True) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise NotHereError("a range of learning rates needs Optuna; run pip install 'adapeff[tuning]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._failed = optuna.trial.TrialState.FAIL
        self._bounds = bounds
        direction = "maximize" if higher_is_better else "minimize"
        self._study = optuna.create_study(direction=direction, sampler=optuna.samplers.TPESampler(seed=seed))

    def ask(self) -> float:
        """Sample a learning rate given the scores so far."""
        self._trial = self._study.ask()
        return float(self._trial.suggest_float("learning_rate", self._bounds.low, self._bounds.high, log=True))

    def tell(self, score: float | None) -> None:
        """Take the score into account; a diverged trial counts as failed."""
        if score is None:
            self._study.tell(self._trial, state=self._failed)
        else:
            self._study.tell(self._trial, score)


def open_search(tuning: Tuning, *, seed: int, higher_is_better: bool = True) -> Search:
    """Build the search that a job requests.

    Raises:
        NotHereError: if a range is given and Optuna is not installed.
    """
    rates = tuning.learning_rate
    return (
        ListSearch(rates)
        if isinstance(rates, tuple)
        else OptunaSearch(rates, seed=seed, higher_is_better=higher_is_better)
    )


def _list(trials: list[Trial]) -> str:
    return ", ".join(f"{trial.learning_rate:g}" for trial in trials)


def answer_validation(prepared: Prepared, part: Part, bench: Bench) -> Predictions:
    """The answers to the validation split of a task; its family chooses by it what it has to choose."""
    return evaluate(
        prepared.model_of(part),
        part.family,
        part.validation,
        device=bench.device,
        precision=bench.precision,
        choosing=True,
    )


def batch_stream(prepared: Prepared, spec: JobSpec, *, multiple: int = 1) -> tuple[Iterator[Batch], int]:
    """The batches of training, endlessly, and the number of one pass over all data."""
    batching: dict[str, Any] = {
        "batch_size": spec.training.batch_size, "batch_tokens": spec.training.batch_tokens, "seed": spec.seed
    }  # fmt: skip
    sizes = [steps_per_epoch(part.train.encoded, **batching) for part in prepared.parts]
    streams = [training_batches(part.train.encoded, **batching, multiple=multiple) for part in prepared.parts]
    if not isinstance(prepared.task, Mixture):
        return streams[0], sizes[0]
    shares = prepared.task.shares(sizes, [len(part.train.examples) for part in prepared.parts])
    return mixed(streams, member_order(shares, steps=sum(sizes), seed=spec.seed)), sum(sizes)


def loss_of(prepared: Prepared) -> Callable[[torch.Tensor, Batch], torch.Tensor]:
    """The loss of a batch by its task's family, times the weight that a mixture gives the task."""
    weights = prepared.task.loss_weights if isinstance(prepared.task, Mixture) else {}

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        part = prepared.parts[batch.member]
        found = part.family.loss(logits, batch)
        return found * weights[part.name] if part.name in weights else found

    return loss


def _train_once(spec: JobSpec, prepared: Prepared, bench: Bench, learning_rate: float) -> Learned:
    settings = spec.training.model_copy(update={"learning_rate": learning_rate})
    batches, per_epoch = batch_stream(prepared, spec, multiple=bench.device.shape_multiple)
    steps = settings.steps or max(1, round(settings.epochs * per_epoch))
    every = settings.evaluate_every_steps or max(1, round(settings.evaluate_every_epochs * per_epoch))
    device, precision, clock = bench.device, bench.precision, bench.clock
    validations: list[Window] = []
    by_task: list[list[float]] = []

    def validate() -> float:
        start = bench.sensor.read()
        with bench.memory.aside():
            found = [answer_validation(prepared, part, bench) for part in prepared.parts]
        with clock.phase("score"):
            scores = [
                part.metric.compute(each.gold, each.predicted) for part, each in zip(prepared.parts, found, strict=True)
            ]
        by_task.append(scores)
        validations.append(Window(start, bench.sensor.read()))
        counted = [score for part, score in zip(prepared.parts, scores, strict=True) if part.train.examples]
        worst = isinstance(prepared.task, Mixture) and prepared.task.select == "worst"
        return min(counted) if worst else math.fsum(counted) / len(counted)

    def report(step: int, loss: float, eta: float) -> None:
        bench.log.emit("progress", step=step, steps=steps, loss=round(loss, 5), eta_s=round(eta, 1))
        logger.info("step %d of %d, loss %.4f, %.0f s to go", step, steps, loss, eta)

    torch.manual_seed(spec.seed + 2)  # dropout must not depend on how many weights the method drew
    best_file = bench.out / "best.safetensors"
    start = bench.sensor.read()
    result = train(
        prepared.model,
        batches,
        loss_of=loss_of(prepared),
        settings=settings,
        steps=steps,
        evaluate_every=every,
        device=device,
        precision=precision,
        clock=clock,
        validate=validate,
        best=BestState(prepared.model, best_file if spec.measuring.best_state == "disk" else None),
        report=report,
        auxiliary_loss=prepared.method.auxiliary_loss(prepared.model.encoder),
        on_step=prepared.method.on_step(prepared.model.encoder, steps),
        settles_at=prepared.method.settles_at(steps),
        higher_is_better=prepared.parts[0].metric.higher_is_better,
    )
    window = Window(start, bench.sensor.read())
    best_file.unlink(missing_ok=True)
    return Learned(result, learning_rate, window, validations, by_task)

"""Learn: train on the source language, once with the job's learning rate or once per learning rate to try."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, Protocol

import torch

from adapeff.service.errors import NotHereError
from adapeff.service.specs.job import JobSpec, LogRange, Tuning
from adapeff.worker.families.encoding import Batch
from adapeff.worker.modeling.models import trained_state
from adapeff.worker.sensors.window import Window
from adapeff.worker.tasks.mixture import Mixture
from adapeff.worker.training.batches import steps_per_epoch, training_batches
from adapeff.worker.training.checkpoints import Checkpoint
from adapeff.worker.training.evaluate import Predictions, evaluate
from adapeff.worker.training.learned import Bench, Learned, Trial
from adapeff.worker.training.load import Part, Prepared
from adapeff.worker.training.mixing import member_order, mixed
from adapeff.worker.training.progress import BestState, put_state
from adapeff.worker.training.resume import CheckpointKeeper, Trials
from adapeff.worker.training.train import DivergedError, train
from adapeff.worker.training.train_result import compute_seconds

logger = logging.getLogger("adapeff.runner")


def learn(spec: JobSpec, prepared: Prepared, bench: Bench) -> Learned:
    """Train as the job specifies and select the best state on the source language's validation split.

    With `tuning`, each trial starts from the same weights and sees the same batches; a diverging trial loses.

    Raises:
        DivergedError: if the loss stops being a number (in every trial).
        StoppedError: if the run was asked to stop.
    """
    with bench.checkpoints.training() if bench.checkpoints is not None else nullcontext():
        return _learn(spec, prepared, bench)


def _learn(spec: JobSpec, prepared: Prepared, bench: Bench) -> Learned:
    tuning = spec.training.tuning
    saved = bench.checkpoints.read() if bench.checkpoints is not None else None
    trials = Trials() if saved is None else Trials.of_checkpoint(saved)
    if tuning is None:
        return _train_once(spec, prepared, bench, spec.training.learning_rate, trials, saved)
    metric = prepared.parts[0].metric  # of a mixture: all are better higher
    search = open_search(tuning, seed=spec.seed, higher_is_better=metric.higher_is_better)
    is_fresh = True
    for number in range(1, tuning.trials + 1):
        rate = search.ask()
        if number <= len(trials.done):  # in an earlier run
            search.tell(trials.done[number - 1].score)
            continue
        logger.info("trial %d of %d: learning rate %g", number, tuning.trials, rate)
        if not is_fresh:
            with bench.clock.phase("load"):
                prepared.start_again()
        is_fresh = False
        try:
            learned = _train_once(spec, prepared, bench, rate, trials, saved)
        except DivergedError as error:
            logger.warning("learning rate %g: %s", rate, error)
            bench.clock.split("train", {"diverged": error.compute_s})
            trials.done.append(Trial(rate, None, error.compute_s))
        else:
            score = learned.result.best_score
            trials.done.append(Trial(rate, score, compute_seconds(learned.result.steps_taken)))
            if trials.best is None or metric.is_better(score, trials.best.result.best_score):
                trials.best = learned
                trials.state = {
                    name: tensor.to("cpu", copy=True) for name, tensor in trained_state(prepared.model).items()
                }
        saved = None
        search.tell(trials.done[-1].score)
    if trials.best is None:
        raise DivergedError(
            f"training diverged with every learning rate tried ({_list(trials.done)}); try lower ones", 0.0
        )
    put_state(prepared.model, trials.state)
    trials.best.trials = trials.done
    return trials.best


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
        alive=bench.log.alive,
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


def _train_once(
    spec: JobSpec, prepared: Prepared, bench: Bench, learning_rate: float, trials: Trials, saved: Checkpoint | None
) -> Learned:
    settings = spec.training.model_copy(update={"learning_rate": learning_rate})
    batches, per_epoch = batch_stream(prepared, spec, multiple=bench.device.shape_multiple)
    steps = settings.steps or max(1, round(settings.epochs * per_epoch))
    every = settings.evaluate_every_steps or max(1, round(settings.evaluate_every_epochs * per_epoch))
    device, precision, clock = bench.device, bench.precision, bench.clock
    start = bench.sensor.read()
    keeper = CheckpointKeeper(bench, prepared, trials, saved, lambda: Window(start, bench.sensor.read()))

    def validate() -> float:
        start = bench.sensor.read()
        with bench.memory.aside():
            found = [answer_validation(prepared, part, bench) for part in prepared.parts]
        with clock.phase("score"):
            scores = [
                part.metric.compute(each.gold, each.predicted) for part, each in zip(prepared.parts, found, strict=True)
            ]
        keeper.by_task.append(scores)
        keeper.validations.append(Window(start, bench.sensor.read()))
        counted = [score for part, score in zip(prepared.parts, scores, strict=True) if part.train.examples]
        worst = isinstance(prepared.task, Mixture) and prepared.task.select == "worst"
        return min(counted) if worst else math.fsum(counted) / len(counted)

    def report(step: int, loss: float, eta: float) -> None:
        bench.log.emit("progress", step=step, steps=steps, loss=round(loss, 5), eta_s=round(eta, 1))
        logger.info("step %d of %d, loss %.4f, %.0f s to go", step, steps, loss, eta)

    torch.manual_seed(spec.seed + 2)  # dropout must not depend on how many weights the method drew
    best_file = bench.out / "best.safetensors"
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
        keeper=keeper,
    )
    best_file.unlink(missing_ok=True)
    return Learned(result, learning_rate, keeper.window(), keeper.validations, keeper.by_task)

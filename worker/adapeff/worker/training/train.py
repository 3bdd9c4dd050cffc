"""Train for a fixed number of steps in a lean loop and keep the best state by validation score."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from adapeff.service.errors import AdapeffError
from adapeff.service.specs.job import Training
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.step_clocks import STEP_PHASES, StepClock
from adapeff.worker.families.encoding import Batch
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.measure.memory_breakdown import optimizer_bytes
from adapeff.worker.modeling.models import TaskModel
from adapeff.worker.training.progress import BestState, Progress
from adapeff.worker.training.train_result import TrainResult, Validation, compute_seconds

LOG_EVERY_SECONDS = 1.0


class Keeper(Protocol):
    """Keeps checkpoints of a training."""

    def restore(self, progress: Progress) -> bool:
        """Go on from a checkpoint if there is one."""

    def is_due(self, *, is_last: bool) -> bool:
        """Whether to keep one after this step, the last one or not."""

    def keep(self, progress: Progress) -> None:
        """Keep one.

        Raises:
            StoppedError: if the run has to stop.
        """


class DivergedError(AdapeffError):
    """The loss is no longer finite; `compute_s` is the compute time spent until it was noticed."""

    def __init__(self, message: str, compute_s: float) -> None:
        super().__init__(message)
        self.compute_s = compute_s


def make_optimizer(model: nn.Module, settings: Training) -> torch.optim.AdamW:
    """Build a fused AdamW over the trainable parameters; as in BERT's recipe, biases and LayerNorms are not decayed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)


def warmup_then_decay(optimizer: torch.optim.Optimizer, warmup_steps: int, steps: int) -> LambdaLR:
    """Raise the learning rate linearly from 0 over `warmup_steps`, then lower it linearly to 0 at `steps`."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        return max(0.0, (steps - step) / max(1, steps - warmup_steps))

    return LambdaLR(optimizer, factor)


@dataclass
class TrainingStep:
    """One optimizer step with clock marks; shared by the training loop and the profiler."""

    model: TaskModel
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    loss_of: Callable[[torch.Tensor, Batch], torch.Tensor]
    max_grad_norm: float
    device: Device
    precision: str
    auxiliary_loss: Callable[[], torch.Tensor] | None = None
    on_step: Callable[[int], None] | None = None
    number: int = 0
    """Steps taken."""

    def __post_init__(self) -> None:
        self._trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def __call__(self, batch: Batch, clock: StepClock) -> torch.Tensor:
        """Take the step and return the loss, still on the device."""
        clock.mark()
        with self.device.autocast(self.precision):
            loss = self.loss_of(self.model(batch.inputs, batch.member).float(), batch)
        total = loss if self.auxiliary_loss is None else loss + self.auxiliary_loss()
        clock.mark()
        total.backward()
        clock.mark()
        nn.utils.clip_grad_norm_(self._trainable, self.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.number += 1
        if self.on_step is not None:
            self.on_step(self.number)
        self.optimizer.zero_grad(set_to_none=True)
        clock.mark()
        return loss.detach()


def train(
    model: TaskModel,
    batches: Iterator[Batch],
    *,
    loss_of: Callable[[torch.Tensor, Batch], torch.Tensor],
    settings: Training,
    steps: int,
    evaluate_every: int,
    device: Device,
    precision: str,
    clock: PhaseClock,
    validate: Callable[[], float],
    best: BestState,
    report: Callable[[int, float, float], None],
    auxiliary_loss: Callable[[], torch.Tensor] | None = None,
    on_step: Callable[[int], None] | None = None,
    settles_at: int = 1,
    higher_is_better: bool = True,
    keeper: Keeper | None = None,
) -> TrainResult:
    """Take `steps` optimizer steps and leave the model in its best state by validation.

    Compute time runs from the batch's arrival on the device to the end of zero_grad: forward, loss, backward, clipping,
    optimizer, scheduler.

    Args:
        loss_of: computes the mean loss from a batch's logits.
        validate: computes the validation score of the current state.
        report: receives the step, the loss and the estimated seconds left, about once a second.
        auxiliary_loss: a term of the method that is added to the loss.
        on_step: called with the step number before the gradients are cleared.
        settles_at: the first step whose state may be the best one.
        higher_is_better: whether the higher of two scores is better.
        keeper: keeps checkpoints, and may have one to go on from.

    Raises:
        DivergedError: if the loss stops being finite.
        StoppedError: if the keeper was asked to stop.
    """
    optimizer = make_optimizer(model, settings)
    scheduler = warmup_then_decay(optimizer, round(settings.warmup_ratio * steps), steps)
    timer = device.step_clock()
    take_step = TrainingStep(
        model, optimizer, scheduler, loss_of, settings.max_grad_norm, device, precision, auxiliary_loss, on_step
    )
    progress = Progress(model, optimizer, scheduler, best, device, TrainResult(steps))
    if keeper is not None and keeper.restore(progress):
        take_step.number = progress.step
        for _ in range(progress.step):
            next(batches)
    result, before = progress.result, progress.step
    pending: list[torch.Tensor] = []
    logged = began = time.perf_counter()

    def flush() -> None:
        if not pending:
            return
        result.losses += torch.stack(pending).tolist()
        pending.clear()
        result.steps_taken += timer.collect()
        if not math.isfinite(result.losses[-1]):
            first = next(i for i, loss in enumerate(result.losses, start=1) if not math.isfinite(loss))
            raise DivergedError(
                f"the training loss became {result.losses[first - 1]} at step {first}; "
                f"try a lower learning rate than {settings.learning_rate:g}",
                compute_seconds(result.steps_taken),
            )

    model.train()
    with clock.phase("train"):
        for step in range(max(1, before), steps + 1):  # a checkpoint is of a step taken, but not yet validated
            validating = step % evaluate_every == 0 or step == steps
            if step > before:
                waiting = time.perf_counter()
                batch = next(batches).to(device.torch_device)
                progress.data_wait += time.perf_counter() - waiting

                pending.append(take_step(batch, timer))
                result.take(batch)

                now = time.perf_counter()
                keeping = keeper is not None and keeper.is_due(is_last=step == steps)
                if now - logged >= LOG_EVERY_SECONDS or validating or keeping:
                    flush()
                    with clock.phase("logging"):
                        report(step, result.losses[-1], (now - began) / (step - before) * (steps - step))
                    logged = now
                if keeper is not None and keeping:
                    with clock.phase("checkpoint"):
                        keeper.keep(progress)
            if validating:
                with clock.phase("validation"):
                    score = validate()
                result.validation.append(Validation(step, score, result.samples, compute_seconds(result.steps_taken)))
                is_first = not result.best_step
                if step >= min(settles_at, steps) and (
                    is_first or (score > result.best_score if higher_is_better else score < result.best_score)
                ):
                    with clock.phase("checkpoint"):
                        best.keep()
                    result.best_step, result.best_score = step, score
        flush()
    compute = compute_seconds(result.steps_taken)
    data_wait = progress.data_wait
    if device.is_asynchronous:  # the device's idle time between steps is its wait for data (and the host)
        data_wait = max(0.0, clock.seconds["train"] - compute)
    phases = {phase: math.fsum(getattr(step, phase) for step in result.steps_taken) for phase in STEP_PHASES}
    clock.split("train", {**phases, "data_wait": data_wait})
    result.optimizer_bytes = optimizer_bytes(optimizer)
    with clock.phase("checkpoint"):
        best.restore()
    return result

"""Go on with the training of an earlier run of the same job."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from adapeff.service import measurements as m
from adapeff.worker.sensors.window import Window
from adapeff.worker.training.checkpoints import Checkpoint
from adapeff.worker.training.learned import Bench, Learned, Trial
from adapeff.worker.training.load import Prepared
from adapeff.worker.training.progress import Progress

logger = logging.getLogger("adapeff.runner")


@dataclass
class Trials:
    """The trials that are over, and the best of them."""

    done: list[Trial] = field(default_factory=list)
    best: Learned | None = None
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    """The weights of the best one."""

    @classmethod
    def of_checkpoint(cls, saved: Checkpoint) -> Trials:
        """The trials that were over when a checkpoint was written."""
        done = [Trial(*trial) for trial in saved.facts["trials"]]
        best = saved.facts["best_trial"]
        return cls(done, Learned.from_facts(best) if best else None, saved.below("best_trial."))


class CheckpointKeeper:
    """Keeps the checkpoints of one training, and of the trials before it."""

    def __init__(
        self, bench: Bench, prepared: Prepared, trials: Trials, saved: Checkpoint | None, began: Callable[[], Window]
    ) -> None:
        """Keep checkpoints.

        Args:
            saved: the one to go on from.
            began: the window from the start of this training to now.
        """
        self._bench = bench
        self._prepared = prepared
        self._trials = trials
        self._saved = saved
        self._window = began
        self._earlier: Window | None = None
        self.validations: list[Window] = []
        self.by_task: list[list[float]] = []

    def window(self) -> Window:
        """The window of the training, its parts in earlier runs included."""
        return self._window().after(self._earlier)

    def restore(self, progress: Progress) -> bool:
        """Go on from the checkpoint if there is one; the times of the run that wrote it are added to this one's."""
        if self._saved is None:
            return False
        facts = self._saved.facts
        progress.restore(self._saved)
        method = {**facts["method"], **self._saved.below("method.")}
        self._prepared.method.restore_training_state(self._prepared.model.encoder, method)
        self._earlier = Window.from_facts(facts["window"])
        self.validations += [Window.from_facts(window) for window in facts["validations"]]
        self.by_task += facts["by_task"]
        self._bench.clock.add(facts["seconds"], facts["wall_s"])
        self._bench.memory.at_least(facts["memory"])
        self._bench.log.measure(m.RESUMED_AT_STEP, progress.step)
        logger.info("resumed at step %d", progress.step)
        if self._bench.checkpoints is not None:
            self._bench.checkpoints.resumed_at = progress.step
        return True

    def is_due(self, *, is_last: bool) -> bool:
        """Whether the job's checkpoints are due."""
        checkpoints = self._bench.checkpoints
        return checkpoints is not None and checkpoints.is_due(is_last=is_last)

    def keep(self, progress: Progress) -> None:
        """Write a checkpoint.

        Raises:
            StoppedError: if the run has to stop.
        """
        assert self._bench.checkpoints is not None
        with self._bench.memory.aside():
            now, trials = progress.capture(), self._trials
            method = self._prepared.method.training_state(self._prepared.model.encoder)
            best = trials.best
            learned = Learned(progress.result, 0.0, self.window(), self.validations, self.by_task).facts()
            facts = {
                **now.facts,
                "method": {name: value for name, value in method.items() if not isinstance(value, torch.Tensor)},
                **{name: learned[name] for name in ("window", "validations", "by_task")},
                "seconds": self._bench.clock.seconds,
                "wall_s": self._bench.clock.wall(),
                "memory": self._bench.memory.reached(),
                "trials": trials.done,
                "best_trial": best.facts() if best else None,
            }
            tensors = {
                **now.tensors,
                **{f"method.{name}": value for name, value in method.items() if isinstance(value, torch.Tensor)},
                **{f"best_trial.{name}": tensor for name, tensor in trials.state.items()},
            }
            self._bench.checkpoints.write((len(trials.done) + 1, progress.step), Checkpoint(facts, tensors))

"""What a run learns, and the workbench that it learns on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from adapeff.worker.devices.base import Device
from adapeff.worker.devices.memory import Memory
from adapeff.worker.events import EventLog
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.sensors.host import Sensor
from adapeff.worker.sensors.window import Window
from adapeff.worker.training.checkpoints import Checkpoints
from adapeff.worker.training.train_result import TrainResult


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
    checkpoints: Checkpoints | None = None


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

    def facts(self) -> dict[str, Any]:
        """All of it but the trials as JSON values."""
        return {
            "result": self.result.facts(),
            "learning_rate": self.learning_rate,
            "window": asdict(self.window),
            "validations": [asdict(window) for window in self.validations],
            "by_task": self.by_task,
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """What was learned, from its `facts`."""
        parsed = {
            "result": TrainResult.from_facts(facts["result"]),
            "window": Window.from_facts(facts["window"]),
            "validations": [Window.from_facts(window) for window in facts["validations"]],
        }
        return cls(**{**facts, **parsed})

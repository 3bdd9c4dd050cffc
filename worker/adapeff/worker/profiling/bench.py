"""The workbench shared by all stages of a profile: device, clock, sensor, event log and common measurements."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adapeff.service import measurements as m
from adapeff.service.measured import Definition
from adapeff.service.specs.profile import ProfileSpec
from adapeff.service.statistics.ratios import paired_ratio
from adapeff.worker.devices.base import Device
from adapeff.worker.events import EventLog
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.profiling.candidates import BareModel, Candidate
from adapeff.worker.sensors.host import Sensor
from adapeff.worker.sensors.window import sample_problems
from adapeff.worker.training.train import LOG_EVERY_SECONDS

logger = logging.getLogger("adapeff.runner")

MAX_COMPILATIONS = 100_000


@dataclass(frozen=True)
class Bench:
    """A profile in progress; the first candidate is the reference of all ratios."""

    spec: ProfileSpec
    device: Device
    precision: str
    log: EventLog
    clock: PhaseClock
    sensor: Sensor
    bare: BareModel
    candidates: list[Candidate]

    @property
    def reference(self) -> Candidate:
        """The candidate that the others are compared with."""
        return self.candidates[0]

    def inputs(self, batch: int, length: int) -> dict[str, torch.Tensor]:
        """Synthetic inputs on the device."""
        return self.bare.batch(batch, length, self.device)

    def progress(self, activity: str, blocks: int) -> Callable[[int, float], None]:
        """Return a callback that reports finished blocks about once a second."""
        last_report = time.monotonic()

        def report(block: int, eta: float) -> None:
            nonlocal last_report
            if time.monotonic() - last_report >= LOG_EVERY_SECONDS or block == blocks:
                last_report = time.monotonic()
                self.log.emit("progress", of=activity, block=block, blocks=blocks, eta_s=round(eta, 1))
                logger.info("%s: block %d of %d, %.0f s to go", activity, block, blocks, eta)

        return report

    def compile(self, candidates: Sequence[Candidate], takes: Mapping[str, Callable[[int], Any]], **where: Any) -> None:
        """Compile each candidate for a shape and time the compilation, if the profile sets `compile`."""
        if not self.spec.settings.compile:
            return
        # Each shape, mode and candidate compiles separately; beyond its limit dynamo would fall back to eager.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MAX_COMPILATIONS
        with self.clock.phase("compile"):
            for candidate in candidates:
                candidate.model.compile(dynamic=False)
                start = time.perf_counter()
                takes[candidate.label](1)
                seconds = time.perf_counter() - start
                self.log.measure(m.COMPILE_S, seconds, **where, variant=variant_of(candidate))

    def flag(self, candidate: Candidate, problems: Sequence[str], samples: Sequence[float], **where: Any) -> None:
        """Write the known problems of a measurement: disturbances of its time window and of its samples."""
        all_problems = [*problems, *sample_problems(samples)]
        variant = variant_of(candidate)
        self.log.measure(m.DISTURBANCE, len(all_problems), reason="; ".join(all_problems), **where, variant=variant)

    def ratio(
        self, definition: Definition, candidate: Candidate, values: Sequence[float], base: Sequence[float], **where: Any
    ) -> None:
        """Write the paired ratio of a candidate's blocks to the reference's, with its interval."""
        paired = paired_ratio(values, base)
        variant = {**variant_of(candidate), "reference": self.reference.name}
        for statistic, value in (("ratio", paired.ratio), ("low", paired.low), ("high", paired.high)):
            self.log.measure(definition, value, statistic=statistic, variant=variant, **where)


def variant_of(candidate: Candidate) -> dict[str, Any]:
    """Return the `variant` dimension of a candidate's measurements."""
    return {"method": candidate.name, **candidate.variant}

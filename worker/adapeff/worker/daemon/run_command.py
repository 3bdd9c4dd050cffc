"""The command that runs a job."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from adapeff.service.paths import expanded
from adapeff.service.settings import Settings
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.profile import AnySpec
from adapeff.worker.daemon.slots import Slot


def lacking(spec: AnySpec, slot: Slot) -> str:
    """What a slot lacks to run a job; empty if nothing."""
    if slot.kind == "cpu" and spec.cpu_threads > len(slot.cores):
        threads, cores = spec.cpu_threads, len(slot.cores)
        return (
            f"the job needs {threads} threads, but slot {slot.name} has {cores} core(s); "
            f"start the worker with ADAPEFF_CORES_PER_SLOT={threads}"
        )
    return ""


def run_command(
    spec: AnySpec, folder: Path, slot: Slot, settings: Settings, sources: Mapping[str, tuple[str, str]]
) -> list[str]:
    """The command that runs the job in `job.json` of a run's folder.

    Args:
        sources: the folder of each source job's weights and their hash, by job hash.
    """
    command = [sys.executable, "-m", "adapeff.worker.runner", str(folder / "job.json"), "--out", str(folder)]
    command += ["--device", slot.kind]
    for job_hash, (place, digest) in sources.items():
        command += ["--source", f"{job_hash}@{digest}={place}"]
    command += ["--cache", str(settings.cache.resolve())]
    if settings.data_root is not None:
        command += ["--data-root", str(expanded(settings.data_root).resolve())]
    if isinstance(spec, JobSpec):
        command += ["--checkpoints", str(checkpoints_of(folder))]
        command += ["--checkpoint-seconds", str(settings.checkpoint_seconds)]
    if settings.lock_dir is not None:
        command += ["--locks", str(settings.lock_dir.resolve())]
    return command


def checkpoints_of(run: Path) -> Path:
    """The folder of a job's checkpoints, next to those of its runs."""
    return run.parent / "checkpoints"

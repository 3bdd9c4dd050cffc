"""Runs that are killed or handed back go on from their checkpoints, in other processes, and learn the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT, eventually, processes_of
from tests.e2e.conftest import Adapeff, Process, show, status
from tests.several_tasks import job

STEPS = 1500


def last_step(folder: str | Path) -> int:
    """The step that a run reported last."""
    events = Path(folder, "events.jsonl")
    lines = events.read_text().splitlines() if events.exists() else []
    steps = [json.loads(line).get("step", 0) for line in lines if '"progress"' in line]
    return max(steps, default=0)


@pytest.mark.slow
def test_job_killed_and_handed_back_five_times_learns_the_same(
    adapeff: Adapeff, start: Callable[..., Process], sweep: Path
) -> None:
    settings = ["--methods", "houlsby", "-s", f"steps={STEPS}", "-s", f"evaluate_every_steps={STEPS // 10}"]
    quick = {"ADAPEFF_CHECKPOINT_SECONDS": "0.1"}
    worker = start("worker", "--devices", "cpu:0", **quick)
    assert adapeff("submit", sweep, *settings, ADAPEFF_MAX_FAILURES="9").returncode == 0

    reached = 0
    for number in range(5):
        run = eventually(lambda: show(adapeff, 1)["runs"][number:], f"run {number + 1}")[0]  # noqa: B023
        folder, before = run["folder"], reached
        checkpoints = Path(folder).parent / "checkpoints"
        eventually(lambda: last_step(folder) > before and any(checkpoints.glob("*.safetensors")), "steps")  # noqa: B023
        reached = last_step(folder)
        if number % 2:
            worker.send(signal.SIGTERM)
            assert worker.wait(30) == 0
            worker = start("worker", "--devices", "cpu:0", **quick)
        else:
            for pid in processes_of(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    eventually(lambda: status(adapeff)["counts"] == {"succeeded": 1}, "success", seconds=120)

    broken = show(adapeff, 1)
    assert [run["outcome"] for run in broken["runs"]] == ["killed", "released"] * 2 + ["killed", "succeeded"]
    resumed = [found["value"] for found in broken["measurements"] if found["name"] == "resumed_at_step"]
    assert resumed[0] > 0 and broken["runs"][-1]["message"] == f"resumed at step {resumed[0]:.0f}"
    assert not checkpoints.exists(), "they go when the job ends"
    assert adapeff("submit", sweep, *settings, "--force", "--wait").returncode == 0
    unbroken = show(adapeff, 2)
    assert len(broken["curves"]["train_loss"]) == STEPS
    for name in ("train_loss", "validation_accuracy"):
        assert broken["curves"][name] == unbroken["curves"][name]
    assert _scores(broken) == _scores(unbroken)


@pytest.mark.slow
def test_job_of_a_batch_systems_worker_goes_on_elsewhere(
    adapeff: Adapeff, start: Callable[..., Process], sweep: Path, tmp_path: Path
) -> None:
    """As Slurm does with `--signal=USR1@SECONDS`: all processes get the notice, and after the grace they are killed."""
    assert adapeff("submit", sweep, "--methods", "full", "-s", "epochs=100000").returncode == 0
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/sh\nexec "$@"\n')
    srun.chmod(0o755)
    path = os.pathsep.join([str(srun.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    script = ["bash", str(ROOT / "docs/examples/adapeff.sbatch"), "--devices", "cpu:0"]
    worker = subprocess.Popen(script, env={**os.environ, "PATH": path}, stderr=subprocess.DEVNULL)
    run = eventually(lambda: show(adapeff, 1)["runs"], "a run")[0]
    eventually(lambda: last_step(run["folder"]) > 0, "steps")
    everything = [worker.pid, *(child.pid for child in psutil.Process(worker.pid).children(recursive=True))]
    assert set(processes_of(run["folder"])) < set(everything)

    for pid in everything:
        os.kill(pid, signal.SIGUSR1)
    assert worker.wait(30) == 0
    assert not any(psutil.pid_exists(pid) for pid in everything)

    assert [run["outcome"] for run in show(adapeff, 1)["runs"]] == ["released"]
    start("worker", "--devices", "cpu:1")
    again = eventually(lambda: show(adapeff, 1)["runs"][1:], "the next run")[0]
    log = Path(again["folder"], "run.log")
    eventually(lambda: "resumed at step" in log.read_text(), "it goes on")
    assert show(adapeff, 1)["failures"] == 0
    assert adapeff("cancel", 1).returncode == 0


@pytest.mark.slow
def test_worker_stops_by_itself_and_another_waits_for_its_device(
    adapeff: Adapeff, start: Callable[..., Process], sweep: Path
) -> None:
    settings = ["--methods", "head", "-s", "epochs=1", "--seeds", "0,1,2"]
    assert adapeff("submit", sweep, *settings).returncode == 0
    refused = adapeff("worker", "--until", "soon")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1) and "'soon' is not a duration" in refused.stderr
    first = start("worker", "--devices", "cpu:0", "--max-jobs", "1", ADAPEFF_LOG_FORMAT="json")
    eventually(lambda: "ready" in first.said(), "the first worker")
    assert "--wait-for-device" in adapeff("worker", "--devices", "cpu:0", "--drain").stderr

    second = start("worker", "--devices", "cpu:0", "--drain", "--wait-for-device")

    assert first.wait(60) == 0
    assert second.wait(120) == 0
    assert "waiting for cpu:0, in use by another adapeff worker" in second.said()
    assert status(adapeff)["counts"] == {"succeeded": 3}
    lines = [json.loads(line) for line in first.said().splitlines()]
    assert [(line["job_id"], line["run_id"]) for line in lines if "job_id" in line] == [(1, 1), (1, 1)]
    workers = {show(adapeff, job_id)["runs"][0]["worker"] for job_id in (1, 2, 3)}
    assert len(workers) == 2


def _scores(view: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {
        (found["language"], found["split"]): found["value"]
        for found in view["measurements"]
        if found["name"] == "accuracy" and not found.get("statistic")
    }


def test_runner_alone_writes_a_checkpoint_when_terminated_and_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    spec = job("offline_sentiment[test_examples=40,train_examples=64]", str(tiny_model), steps=100_000, max_length=16)
    (tmp_path / "job.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "adapeff.worker.runner", "job.json", "--checkpoints", "kept", "--out"]
    for number in (1, 2):
        with subprocess.Popen([*command, str(number)], stderr=subprocess.PIPE, text=True) as runner:
            try:
                eventually(lambda: last_step(str(number)) > 0, "steps")  # noqa: B023
                runner.terminate()
                _, said = runner.communicate(timeout=60)
            finally:
                runner.kill()
        assert runner.returncode == -signal.SIGTERM
        assert ("resumed at step" in said) == (number == 2)
    steps = sorted(int(file.name.split("-")[1]) for file in Path("kept").iterdir())
    assert len(steps) == 2 and f"stopped at step {steps[1]}" in said and f"resumed at step {steps[0]}" in said

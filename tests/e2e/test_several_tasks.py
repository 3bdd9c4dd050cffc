"""Mixtures and extensions through the installed command; what a killed runner leaves behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import eventually, processes_of
from tests.e2e.conftest import Adapeff, Process, show, status

STEPS = 600
NER = "offline_ner[test_examples=40,train_examples=64]"
NLI = "offline_nli[test_examples=40,train_examples=64]"


def kill_while_training(adapeff: Adapeff, job_id: int) -> None:
    """Kill the runner of a job with signal 9, once it has taken steps."""
    runs = eventually(lambda: show(adapeff, job_id)["runs"], "a run")
    folder = runs[0]["folder"]
    events = Path(folder, "events.jsonl")
    eventually(lambda: events.exists() and '"progress"' in events.read_text(), "progress")
    for pid in processes_of(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_killed_mixture_and_extension_are_taken_over_and_learn_the_same(
    adapeff: Adapeff, start: Callable[..., Process], sweep: Path
) -> None:
    raw = {
        "mixtures": [{"name": "two", "tasks": ["sst2", NER]}],
        "extend": [{"base": "two", "add": [NLI], "replay": 0.5}],
    }
    sweep.write_text(json.dumps({**yaml.safe_load(sweep.read_text()), "tasks": [], **raw}))
    settings = ["--methods", "full", "-s", f"steps={STEPS}", "-s", f"evaluate_every_steps={STEPS}"]
    start("worker", "--devices", "cpu:0")

    assert adapeff("submit", sweep, *settings).returncode == 0
    for job_id in (1, 2):
        kill_while_training(adapeff, job_id)
    eventually(lambda: status(adapeff)["counts"] == {"succeeded": 2}, "both jobs succeeding", seconds=180)

    disturbed = [show(adapeff, job_id) for job_id in (1, 2)]
    assert adapeff("submit", sweep, *settings, "--force", "--wait").returncode == 0
    undisturbed = [show(adapeff, job_id) for job_id in (3, 4)]
    for one, other in zip(disturbed, undisturbed, strict=True):
        assert [run["outcome"] for run in one["runs"]] == ["killed", "succeeded"]
        assert [run["outcome"] for run in other["runs"]] == ["succeeded"]
        assert len(one["curves"]["train_loss"]) == STEPS
        assert one["curves"]["train_loss"] == other["curves"]["train_loss"]
        assert _scores(one) == _scores(other)
    assert {task for _, task, *_ in _scores(disturbed[1])} == {"", "sst2", NER, NLI}
    assert disturbed[1]["spec"]["base"] == disturbed[0]["job_hash"] != undisturbed[0]["job_hash"]
    assert undisturbed[1]["spec"]["base"] == undisturbed[0]["job_hash"]
    exported = json.loads(adapeff("export", "--all", "--format", "json").stdout)
    assert len({row["run_id"] for row in exported}) == 4, "one result of each job"


def _scores(view: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """The figures of quality by name, task, language and split."""
    names = ("accuracy", "entity_f1", "mean_score", "base_accuracy", "base_entity_f1", "forgetting")
    where = ("name", "task", "language", "split", "statistic")
    return {
        tuple(found.get(key, "") for key in where): found["value"]
        for found in view["measurements"]
        if found["name"] in names
    }

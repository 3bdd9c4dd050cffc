"""A real worker leaves held jobs, takes the most urgent one, and is listed while it lives and after it has stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import eventually
from tests.e2e.conftest import Adapeff, Process, show, status


def workers(adapeff: Adapeff) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(adapeff("workers", "--json").stdout)
    return found


def test_worker_follows_holds_and_priorities(adapeff: Adapeff, sweep: Path, start: Callable[..., Process]) -> None:
    assert adapeff("submit", sweep, "--hold").returncode == 0
    worker = start("worker", "--devices", "cpu:0")
    (alive,) = eventually(lambda: workers(adapeff), "the worker being listed")
    assert (alive["state"], alive["slots"], alive["runs"]) == ("alive", ["cpu:0"], [])
    assert "is held" in adapeff("why", 1).stdout
    assert adapeff("priority", 0, 2).stdout == "job 2 has priority 0\n"
    assert status(adapeff)["counts"] == {"held": 2}

    assert adapeff("release", "--sweep", "small").returncode == 0
    eventually(lambda: status(adapeff)["counts"] == {"succeeded": 2}, "both jobs succeeding")

    first, second = (show(adapeff, job_id)["runs"][0]["started_at"] for job_id in (2, 1))
    assert first < second
    assert "it succeeded" in adapeff("why", 1).stdout
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    (stopped,) = workers(adapeff)
    assert (stopped["state"], stopped["worker"]) == ("stopped", alive["worker"])


def test_run_ends_when_only_held_jobs_are_left(adapeff: Adapeff, sweep: Path) -> None:
    assert adapeff("submit", sweep, "--methods", "lora", "--hold").returncode == 0

    done = adapeff("run", sweep)

    assert done.returncode == 0, done.stderr
    assert "1 job is held or needs one that is; release with `adapeff release --sweep small`" in done.stderr
    assert status(adapeff)["counts"] == {"held": 1, "succeeded": 1}

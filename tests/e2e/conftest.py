"""A small world for the installed command: a tiny model, planted data, a sweep, workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import adapeff_program

SWEEP = """
name: small
models: [{model}]
tasks: [sst2]
methods: [full, lora]
seeds: [0]
settings:
  epochs: 1
  max_length: 16
  latency_seconds: 0.05
  latency_batches: [1]
  device: cpu
"""
Adapeff = Callable[..., subprocess.CompletedProcess[str]]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write a file of JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """SST-2's schema with 64 training examples that two words decide."""
    folder = tmp_path / "data_root"
    for split, size in (("train", 64), ("validation", 16), ("test", 16)):
        rows = [
            {"idx": i, "sentence": f"the film was {'good' if i % 2 else 'bad'} {chr(97 + i % 26)}", "label": i % 2}
            for i in range(size)
        ]
        write_rows(folder / "sentiment" / "sst2" / "default" / f"{split}.jsonl", rows)
    return folder


@pytest.fixture
def sweep(tmp_path: Path, tiny_model: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of two short jobs; the embedded state is the test's own."""
    monkeypatch.setenv("ADAPEFF_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ADAPEFF_DATA_ROOT", str(data_root))
    file = tmp_path / "small.yaml"
    file.write_text(SWEEP.format(model=tiny_model))
    return file


class Process:
    """A command of ours in the background, its output in a file."""

    def __init__(self, log: Path, *arguments: str, **environment: str) -> None:
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [adapeff_program(), *arguments],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, once it ends."""
        return self.process.wait(seconds)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start commands in the background; whatever still runs is ended with the test."""
    started: list[Process] = []

    def begin(*arguments: str, **environment: str) -> Process:
        process = Process(tmp_path / f"process-{len(started)}.log", *arguments, **environment)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.process.poll() is None:
            process.send(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.process.kill()
                process.wait()


def status(adapeff: Adapeff) -> dict[str, Any]:
    """What `adapeff status --json` says."""
    answer = adapeff("status", "--json")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def show(adapeff: Adapeff, job_id: int) -> dict[str, Any]:
    """What `adapeff show --json` says."""
    answer = adapeff("show", job_id, "--json")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found

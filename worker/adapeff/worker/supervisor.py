"""Supervise one runner: start it, follow its events, renew the lease, end it, and say how it ended.

Knows neither database nor queue: what it must tell and ask goes through `Contact`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from adapeff.service.jobs import Ending, Outcome
from adapeff.service.results import Findings
from adapeff.worker.events import WAITING
from adapeff.worker.slots import Slot

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
PULSE_SECONDS = 2.0
TERM_GRACE_SECONDS = 2.0


class Contact(Protocol):
    """What the supervisor tells the world while a runner works."""

    def pulse(self, stage: str, progress: Mapping[str, Any]) -> bool:
        """Tell the progress and renew the lease; gives whether the job was cancelled.

        Raises:
            LeaseLostError: if the run no longer counts.
        """

    def must_hand_back(self) -> bool:
        """Whether the worker is stopping now."""


@dataclass
class _Follower:
    """Reads events as they are written; a line that is not yet whole is left for later."""

    file: Path
    findings: Findings = field(default_factory=Findings)
    stage: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    _position: int = 0

    def read(self) -> None:
        """Take in what is new."""
        if not self.file.exists():
            return
        with self.file.open("rb") as lines:
            lines.seek(self._position)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "stage":
            self.stage = event["stage"]
        elif kind == "progress":
            self.progress = {key: value for key, value in event.items() if key != "event"}
        elif kind == "end":
            self.end = event
        else:
            self.findings.take(event)


def supervise(
    command: Sequence[str],
    folder: Path,
    slot: Slot,
    contact: Contact,
    *,
    time_limit_seconds: float | None = None,
) -> tuple[Ending, Findings]:
    """Run a command that writes `events.jsonl` to `folder`, and see it to its end.

    Its output goes to `run.log` there. When this returns, its process group is gone. Time it waits for its device does
    not count against the limit.

    Raises:
        LeaseLostError: if the run stopped counting; the runner is dead by then.
    """
    follower = _Follower(folder / "events.jsonl")
    kills_before = _kernel_kills()
    started = last_pulse = time.monotonic()
    process = _spawn(command, folder, slot)
    verdict: tuple[Outcome, str] | None = None
    try:
        while process.poll() is None and verdict is None:
            follower.read()
            moment = time.monotonic()
            if follower.stage == WAITING:
                started = moment
            if time_limit_seconds is not None and moment - started > time_limit_seconds:
                verdict = "timeout", f"stopped after its time limit of {time_limit_seconds / 60:g} minutes"
            elif contact.must_hand_back():
                verdict = "released", "handed back by a stopping worker"
            elif moment - last_pulse >= PULSE_SECONDS:
                last_pulse = moment
                if contact.pulse(follower.stage, follower.progress):
                    verdict = "cancelled", "cancelled while it ran"
            if verdict is None:
                _wait(process, POLL_SECONDS)
    finally:
        _end(process)
    follower.read()
    finished = follower.end is not None and follower.end.get("outcome") == "succeeded" and process.returncode == 0
    if verdict is not None and not finished:
        return Ending(verdict[0], verdict[1]), follower.findings
    return _ending(process.returncode, follower, _kernel_kills() > kills_before, folder), follower.findings


def _spawn(command: Sequence[str], folder: Path, slot: Slot) -> subprocess.Popen[bytes]:
    locks = [lock.fileno() for lock in slot.locks]
    options = ["--cores", ",".join(map(str, slot.cores))] if slot.cores else []
    options += ["--keep", ",".join(map(str, locks))] if locks else []
    # Neither the database's nor the broker's address is the runner's business, and they may hold passwords.
    hidden = ("ADAPEFF_DATABASE_URL", "ADAPEFF_BROKER_URL", "DATABASE_URL", "REDIS_URL")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    with (folder / "run.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "adapeff.worker.guard", *options, "--", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**environment, **slot.environment},
            pass_fds=locks,
        )


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the process group, asking first where it still lives."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        _wait(process, TERM_GRACE_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _kernel_kills() -> int:
    """How often the kernel has killed for memory in this control group; 0 where it does not say."""
    try:
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _ending(code: int, follower: _Follower, kernel_killed: bool, folder: Path) -> Ending:
    resolved = follower.findings.resolved
    if follower.end is not None:
        outcome: Outcome = follower.end["outcome"]
        if (outcome == "succeeded") == (code == 0):
            return Ending(outcome, follower.end["message"], exit_code=code, resolved=resolved)
    if code < 0:
        name = signal.Signals(-code).name
        if code == -signal.SIGKILL and kernel_killed:
            return Ending("oom", "the kernel killed the runner for memory; use a smaller batch_size", signal=-code)
        return Ending("killed", f"the runner was killed by {name}", signal=-code)
    return Ending("error", f"the runner ended with exit code {code}; {_last_line(folder / 'run.log')}", exit_code=code)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"its last words: {lines[-1].strip()[:300]}" if lines else "it said nothing"

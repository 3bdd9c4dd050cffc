"""Supervise one runner: start it, follow its events, renew the lease, stop it, and determine the outcome.

Knows neither the database nor the queue: it reaches them through `Contact`.
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
from typing import Any, Literal, Protocol

from adapeff.service.reporting.words import duration
from adapeff.service.store.jobs import Outcome, RunOutcome
from adapeff.service.store.results import RunResults, storable
from adapeff.service.store.tables import RUN_OUTCOMES
from adapeff.worker.daemon.fork_server import ForkedRun, ForkServer
from adapeff.worker.daemon.slots import Slot
from adapeff.worker.events import DISK_FAILED, EVENTS, WAITING

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
HEARTBEAT_SECONDS = 2.0
HAND_BACK_SECONDS = 20.0
"""How long a runner that is handed back may take to finish its step and write a checkpoint."""
QUIET_SECONDS = 60.0
"""From when on it is shown that a run reports nothing."""
KILL_SECONDS = 2.0
"""How long killed processes may take to end."""
STOP_GRACE_SECONDS = 3.0
"""How long after a signal has ended the runner the worker may still receive the same one."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
"""Signals that make a worker hand its jobs back."""
_PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM", "TMPDIR", "XDG_*"),
    *("PYTHON*", "VIRTUAL_ENV", "CONDA_*", "LD_LIBRARY_PATH", "COVERAGE_*", "COV_*"),
    *("OMP_*", "MKL_*", "KMP_*", "OPENBLAS_*", "GOMP_*", "TORCH*", "PYTORCH_*", "CUDA_*", "CUBLAS_*", "CUDNN_*"),
    *("NVIDIA_*", "NCCL_*", "TRITON_*", "HF_*", "HUGGINGFACE_*", "TRANSFORMERS_*", "TOKENIZERS_*", "DATASETS_*"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_*", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
"""Environment variables of the worker that runners get; `*` matches any suffix. Others may contain secrets."""


@dataclass(frozen=True)
class Stalls:
    """When runs count as stalled, and what becomes of them."""

    minutes: Mapping[str, float]
    """Without news, by stage; '' for all others; 0 for never."""
    action: Literal["retry", "fail", "show"]

    @property
    def outcome(self) -> Outcome:
        """The outcome of a run that is ended: `killed` is tried again, `timeout` is not."""
        return "killed" if self.action == "retry" else "timeout"

    def ends(self, stage: str, quiet_seconds: float) -> bool:
        """Whether a run that was quiet for so long in a stage is ended."""
        minutes = self.minutes.get(stage, self.minutes.get("", 0.0))
        return self.action != "show" and minutes > 0 and quiet_seconds > minutes * 60


class Contact(Protocol):
    """The supervisor's calls to the service while a runner works."""

    def heartbeat(self, stage: str, progress: Mapping[str, Any]) -> bool:
        """Report the progress and renew the lease; returns whether the job was cancelled.

        Raises:
            LeaseLostError: if the run no longer counts.
        """

    def must_hand_back(self) -> bool:
        """Whether the worker is stopping now."""


@dataclass
class _Follower:
    """Reads events as they are written; an incomplete last line is left for the next time."""

    file: Path
    run_results: RunResults = field(default_factory=RunResults)
    stage: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    heard: float = field(default_factory=time.monotonic)
    """When it last read something new."""
    unreadable: int = 0
    """Number of lines that are not events: something else wrote them, or the disk is damaged."""
    vanished: bool = False
    """Whether lines that were read are gone."""
    _position: int = 0

    def read(self) -> None:
        """Read new events."""
        try:
            with self.file.open("rb") as lines:
                self.vanished = lines.seek(0, os.SEEK_END) < self._position
                lines.seek(self._position)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._position += len(line)
                    self.heard = time.monotonic()
                    self._read(line)
        except OSError:
            self.vanished = self._position > 0

    def _read(self, line: bytes) -> None:
        try:
            self._take(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self.unreadable += 1
            logger.warning("%s: skipped a line that is not an event (%s: %s)", self.file, type(error).__name__, error)

    def _take(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "stage":
            self.stage = storable(str(event["stage"]))
        elif kind == "progress":
            self.progress = storable({key: value for key, value in event.items() if key != "event"})
        elif kind == "end":
            if event["outcome"] not in RUN_OUTCOMES or not isinstance(event["message"], str):
                raise ValueError(f"unknown outcome {event['outcome']!r}")
            self.end = event
        else:
            self.run_results.take(event)


def read_finished(folder: Path) -> tuple[RunOutcome, RunResults] | None:
    """The results of a successful run, from its folder; None if it has not succeeded there."""
    follower = _Follower(folder / EVENTS)
    follower.read()
    if follower.end is None or follower.end.get("outcome") != "succeeded" or follower.unreadable:
        return None
    return RunOutcome("succeeded", exit_code=0, resolved=follower.run_results.resolved), follower.run_results


def supervise(
    command: Sequence[str],
    folder: Path,
    slot: Slot,
    contact: Contact,
    *,
    time_limit_seconds: float | None = None,
    stalls: Stalls | None = None,
    passed_on: Sequence[str] = (),
    fork_server: ForkServer | None = None,
) -> tuple[RunOutcome, RunResults]:
    """Run a command that writes `events.jsonl` to `folder`, and wait for it to end.

    Its output goes to `run.log` in the same folder. When this returns, its process group is gone. The time it waits for
    its device does not count towards the limit.

    Args:
        stalls: when a run that reports nothing is ended; None: never.
        passed_on: further environment variables that the command gets.
        fork_server: starts it, if it can; else it is a fresh process.

    Raises:
        LeaseLostError: if the run no longer counts; the runner has been killed.
    """
    follower = _Follower(folder / EVENTS)
    kills_before = _kernel_kills()
    process = _start(command, folder, slot, passed_on, fork_server)
    started = last_heartbeat = time.monotonic()
    verdict: tuple[Outcome, str] | None = None
    try:
        while process.poll() is None and verdict is None:
            follower.read()
            moment = time.monotonic()
            if follower.stage == WAITING:
                started = follower.heard = moment
            quiet = moment - follower.heard
            if time_limit_seconds is not None and moment - started > time_limit_seconds:
                verdict = "timeout", f"exceeded its time limit of {time_limit_seconds / 60:g} minutes"
            elif contact.must_hand_back():
                verdict = "released", "handed back by a stopping worker"
            elif stalls is not None and stalls.ends(follower.stage, quiet):
                verdict = (
                    stalls.outcome,
                    f"stalled: no news for {duration(quiet)} in stage {follower.stage or 'startup'}",
                )
            elif moment - last_heartbeat >= HEARTBEAT_SECONDS:
                last_heartbeat = moment
                silence = {"quiet_s": round(quiet)} if quiet >= QUIET_SECONDS else {}
                if contact.heartbeat(follower.stage, {**follower.progress, **silence}):
                    verdict = "cancelled", "cancelled while running"
            if verdict is None:
                _wait(process, POLL_SECONDS)
    finally:
        released = verdict is not None and verdict[0] == "released"
        code = _end(process, HAND_BACK_SECONDS if released else 0)
    follower.read()
    finished = follower.end is not None and follower.end.get("outcome") == "succeeded" and code == 0
    if verdict is None and not finished and _stopped_by(code) and _is_stopping(contact):
        verdict = "released", "handed back by a stopping worker"
    if verdict is not None and not finished:
        return RunOutcome(verdict[0], verdict[1]), follower.run_results
    return _ending(code, follower, _kernel_kills() > kills_before, folder), follower.run_results


def _stopped_by(code: int) -> signal.Signals | None:
    """The signal that ended a process, if it is one that asks processes to stop."""
    return next((number for number in (*STOP_SIGNALS, signal.SIGINT) if code in (-number, 128 + number)), None)


def _is_stopping(contact: Contact) -> bool:
    """Whether the worker is stopping; a signal to all processes of a service may reach the runner first."""
    deadline = time.monotonic() + STOP_GRACE_SECONDS
    while not contact.must_hand_back() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 4)
    return contact.must_hand_back()


def runner_environment(everything: Mapping[str, str], passed_on: Sequence[str] = ()) -> dict[str, str]:
    """The part of an environment that a runner gets: variables known to matter, and further patterns (`MY_*`)."""
    patterns = [pattern.upper() for pattern in (*_PASSED_ON, *passed_on)]
    return {
        name: value
        for name, value in everything.items()
        if any(name.upper() == p or (p.endswith("*") and name.upper().startswith(p[:-1])) for p in patterns)
    }


def _start(
    command: Sequence[str], folder: Path, slot: Slot, passed_on: Sequence[str], fork_server: ForkServer | None
) -> subprocess.Popen[bytes] | ForkedRun:
    """Start a command under a watchdog that leads its process group and ends when its standard input does."""
    locks = [lock.fileno() for lock in slot.locks]
    environment = {**runner_environment(os.environ, passed_on), **slot.environment}
    with (folder / "run.log").open("ab") as log:
        if fork_server is not None:
            forked = fork_server.start(command, log.fileno(), environment, slot.cores, locks)
            if forked is not None:
                return forked
        options = ["--cores", ",".join(map(str, slot.cores))] if slot.cores else []
        options += ["--keep", ",".join(map(str, locks))] if locks else []
        return subprocess.Popen(
            [sys.executable, "-m", "adapeff.worker.daemon.watchdog", *options, "--", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            pass_fds=locks,
        )


def _wait(process: subprocess.Popen[bytes] | ForkedRun, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _end(process: subprocess.Popen[bytes] | ForkedRun, grace_seconds: float) -> int:
    """End the whole process group; with a grace, ask it first if it is still alive. Returns the exit code."""
    if grace_seconds and process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        _wait(process, grace_seconds)
    deadline = time.monotonic() + KILL_SECONDS
    while _signal_group(process.pid, signal.SIGKILL) and time.monotonic() < deadline:
        _wait(process, 0.01)  # killed processes take a moment to end; ended ones stay if nobody waits for them
        time.sleep(0.01)
    code = process.wait()
    if process.stdin is not None:
        process.stdin.close()
    return code


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; returns whether it has a process."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _kernel_kills() -> int:
    """How often the kernel has killed a process of this control group for lack of memory; 0 if unknown."""
    try:
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _ending(code: int, follower: _Follower, kernel_killed: bool, folder: Path) -> RunOutcome:
    resolved = follower.run_results.resolved
    stopped = _stopped_by(code)
    if follower.end is not None and stopped is None:
        outcome: Outcome = follower.end["outcome"]
        if (outcome == "succeeded") == (code == 0):
            message = str(follower.end["message"]) or _skipped(follower)
            not_here = bool(follower.end.get("not_here"))
            return RunOutcome(outcome, message, exit_code=code, resolved=resolved, not_here=not_here)
    if code == DISK_FAILED:
        reason = f"cannot write to {folder}; {_last_line(folder / 'run.log')}"
        return RunOutcome("error", reason, exit_code=code, not_here=True)
    if code < 0 or stopped is not None:
        number = stopped or signal.Signals(-code)
        if code == -signal.SIGKILL and kernel_killed:
            reason = "the kernel killed the runner because memory ran out; use a smaller batch_size"
            return RunOutcome("oom", reason, signal=-code)
        return RunOutcome("killed", f"the runner was killed by {number.name}", signal=int(number))
    if follower.vanished:
        reason = f"{follower.file.name} vanished from {folder} during the run"
        return RunOutcome("lost", reason, exit_code=code)
    if code == 0:
        reason = f"the runner exited with code 0, but without its final event{_skipped(follower, '; ')}"
        return RunOutcome("error", reason, exit_code=code)
    reason = f"the runner exited with code {code}; {_last_line(folder / 'run.log')}"
    return RunOutcome("error", reason, exit_code=code)


def _skipped(follower: _Follower, before: str = "") -> str:
    lines = "1 line" if follower.unreadable == 1 else f"{follower.unreadable} lines"
    return f"{before}{lines} of {follower.file.name} could not be read" if follower.unreadable else ""


def _last_line(log: Path) -> str:
    if not log.is_file():
        return f"{log.name} vanished"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"last log line: {lines[-1].strip()[:300]}" if lines else "it logged nothing"

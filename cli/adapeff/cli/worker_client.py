"""Run the worker's side in separate processes, `python -m adapeff.worker VERB`: the command line never loads torch.

A verb answers in JSON lines on stdout. Its log on stderr is passed on while it runs; if it fails, the last line gives
the reason.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from adapeff.service.errors import AdapeffError, ExitCode, JobsFailedError, UnreachableError

STOP_SECONDS = 30
_ERRORS = {ExitCode.UNREACHABLE: UnreachableError, ExitCode.JOBS_FAILED: JobsFailedError}
_PREFIX = "adapeff: "
Answer = dict[str, Any]


@dataclass(frozen=True)
class LocalWorker:
    """A worker process started by this one."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    def error(self) -> AdapeffError:
        """The error it ended with."""
        self.log.seek(0)
        return _error(self.process.returncode, self.log.read().decode(errors="replace").splitlines())


@dataclass(frozen=True)
class WorkerClient:
    """Calls the worker's side, with an environment that contains this invocation's settings."""

    environment: Mapping[str, str]

    def devices(self) -> tuple[list[str], list[str]]:
        """The names of the GPUs that a worker would use here, and warnings about others."""
        answers, log = self._ask("devices", is_shown=False)
        warnings = [line.partition("WARNING ")[2] for line in log if "WARNING " in line]
        return [answer["name"] for answer in answers], warnings

    def device_peaks(self, threads: int) -> list[Answer]:
        """Measured peaks of the device: {check, value, unit, where} each."""
        return self._ask("bench", "--threads", str(threads), is_shown=False)[0]

    def count(self, model: str, methods: Sequence[str]) -> tuple[Answer, list[Answer]]:
        """A model's size, and the number of parameters each method would train on it."""
        size, *counts = self._ask("count", "--model", model, *methods)[0]
        return size, counts

    def init_task(self, file: str) -> Answer:
        """Draft a task.yaml for a data file; returns {file, task}."""
        return self._ask("init", file)[0][0]

    def validate_task(self, task: str, *, model: str | None, max_length: int | None) -> list[Answer]:
        """Examine a task's data: one answer per split and language."""
        options = ["--model", model] if model is not None else []
        options += ["--max-length", str(max_length)] if max_length is not None else []
        return self._ask("validate", task, *options)[0]

    def verify_data_sets(self, names: Sequence[str]) -> list[Answer]:
        """Verify data sets on the hub (all if `names` is empty), and pin their commits."""
        return self._ask("verify", *names)[0]

    def serve(
        self,
        devices: str,
        *,
        quiet: bool,
        drain: bool = False,
        max_jobs: int | None = None,
        until: str | None = None,
        wait_for_device: bool = False,
    ) -> NoReturn:
        """Replace this process with a worker daemon."""
        options = [*_quiet(quiet), *(["--drain"] if drain else []), *_waiting(wait_for_device)]
        options += ["--max-jobs", str(max_jobs)] if max_jobs is not None else []
        options += ["--until", until] if until is not None else []
        os.execve(sys.executable, _command("daemon", "--devices", devices, *options), dict(self.environment))

    @contextmanager
    def local_workers(
        self, devices: Sequence[str], *, sweep_id: int | None = None, wait_for_device: bool = False
    ) -> Iterator[list[LocalWorker]]:
        """Start a worker per list of devices, and stop them at the end, returning running jobs to the queue.

        Args:
            sweep_id: run the jobs of this sweep only; None: serve the queue.
            wait_for_device: wait until no other worker holds the devices.
        """
        verb = ["daemon"] if sweep_id is None else ["sweep", str(sweep_id)]
        with ExitStack() as stack:
            workers: list[LocalWorker] = []
            try:
                for selection in devices:
                    log = stack.enter_context(tempfile.TemporaryFile())
                    command = _command(
                        *verb, "--devices", selection, *_quiet(True), *_waiting(wait_for_device), "--stop-with-stdin"
                    )
                    # In separate sessions, so that Ctrl-C in the terminal only reaches this process, which then stops
                    # the workers in order. If this process is killed, their stdin closes, which stops them.
                    process = subprocess.Popen(
                        command, stderr=log, stdin=subprocess.PIPE, start_new_session=True, env=self.environment
                    )
                    workers.append(LocalWorker(process, log))
                yield workers
            finally:
                _stop([worker.process for worker in workers])

    def _ask(self, verb: str, *arguments: str, is_shown: bool = True) -> tuple[list[Answer], list[str]]:
        """Run a verb; returns its answers and the lines it logged.

        Args:
            is_shown: pass its log on to stderr while it runs.

        Raises:
            AdapeffError: if it fails, with its message.
        """
        log = []
        with tempfile.TemporaryFile() as answers:
            command = _command(verb, *arguments)
            with subprocess.Popen(command, stdout=answers, stderr=subprocess.PIPE, env=self.environment) as process:
                try:
                    for raw in process.stderr or ():
                        line = raw.decode(errors="replace").rstrip("\n")
                        log.append(line)
                        if is_shown and not line.startswith(_PREFIX):
                            print(line, file=sys.stderr, flush=True)
                except BaseException:  # Ctrl-C
                    process.kill()
                    raise
            if process.returncode:
                raise _error(process.returncode, log)
            answers.seek(0)
            return [json.loads(line) for line in answers if line.startswith(b"{")], log


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "adapeff.worker", *arguments]


def _quiet(is_quiet: bool) -> list[str]:
    return ["--quiet"] if is_quiet else []


def _waiting(is_waiting: bool) -> list[str]:
    return ["--wait-for-device"] if is_waiting else []


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _error(exit_code: int, log: Sequence[str]) -> AdapeffError:
    """The error that a worker process ended with, from its exit code and the last line of its log."""
    kind = _ERRORS.get(ExitCode(exit_code), AdapeffError) if exit_code in set(ExitCode) else AdapeffError
    lines = [line for line in log if line.strip()]
    return kind(lines[-1].removeprefix(_PREFIX) if lines else f"the worker exited with code {exit_code}")

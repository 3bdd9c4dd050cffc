"""Start runs from a process that has loaded torch, transformers and peft already.

A fresh interpreter imports for seconds before a run begins; a fork of one that has imported begins at once. The server
is a process of its own without threads, which a fork would lack, and without state: the runs that it starts have
watchdogs of their own and outlive it. It never touches an accelerator, which a fork could not use. If the server cannot
start, or finds that something it imported opened a device or started a thread, runs start as fresh processes.

    worker ── request: command, environment, cores; lifeline, status, log, locks ──► fork server
                                                                                         │ fork
    worker ◄── status: process id, then exit code ── watchdog (leads the group) ◄────────┘
                                                         │ fork
                                                     runner
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import adapeff
from adapeff.worker.daemon import watchdog

logger = logging.getLogger(__name__)

PRELOADED = (
    "adapeff.worker.runner",
    "adapeff.worker.methods",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("bert", "distilbert", "roberta", "xlm_roberta")),
)
"""Modules that the server imports before the first run."""
READY_SECONDS = 20.0
"""How long a slot waits for the server before it takes a job."""
PATIENCE_SECONDS = 1.0
"""How long a run, whose lease has begun, waits for a server that is being replaced; it then starts afresh."""
STARTED_SECONDS = 20.0
_POLL_SECONDS = 0.1
_LONGEST = 1 << 20
_MOST_FILES = 64
_HARMLESS = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
    *("/dev/tty", "/dev/pts/", "/dev/shm/", "/dev/console"),
)
"""Device files that forks may share."""
_PACKAGES = ("adapeff", "torch", "transformers", "peft", "tokenizers", "numpy")


class ForkedRun:
    """A run that a fork server started: the part of `subprocess.Popen` that its supervisor uses.

    Raises:
        OSError: if no process starts.
    """

    def __init__(self, status: int, lifeline: int) -> None:
        self.stdin = os.fdopen(lifeline, "wb")
        self.returncode: int | None = None
        self._status = os.fdopen(status, "rb", buffering=0)
        self._read = b""
        self.pid = int(self._next_line(STARTED_SECONDS) or 0)
        if not self.pid:
            self._status.close()
            self.stdin.close()
            raise OSError("it started no process")

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: if it still runs after `timeout` seconds.
        """
        if self.returncode is None:
            line = self._next_line(timeout)
            if line is None:
                raise subprocess.TimeoutExpired("the run", timeout or 0)
            self.returncode = int(line) if line else -signal.SIGKILL  # without a line, its watchdog was killed
            self._status.close()
        return self.returncode

    def _next_line(self, seconds: float | None) -> bytes | None:
        """The next line of the status; None after `seconds`; empty at its end."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._read:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._status], [], [], left)[0]:
                return None
            read = self._status.read(4096)
            if not read:
                return b""
            self._read += read
        line, _, self._read = self._read.partition(b"\n")
        return line


class ForkServer:
    """A worker's side of a fork server, which is started when it is needed, and again after upgrades and faults."""

    def __init__(self, environment: Mapping[str, str], *, preloaded: Sequence[str] = PRELOADED) -> None:
        self._environment = {"OPENBLAS_NUM_THREADS": "1", **environment}  # else it starts threads when it is imported
        self._preloaded = preloaded
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._loaded: tuple[object, ...] = ()
        self._is_ready = False
        self._refusal = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stop()

    @property
    def pid(self) -> int | None:
        """The server's process id, if it runs."""
        return self._process.pid if self._process is not None else None

    def launch(self) -> None:
        """Start the server without waiting for it."""
        with self._lock:
            self._ensure()

    def prepare(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Start the server if it does not run, and wait until it is ready or `give_up` says so, or `READY_SECONDS`."""
        with self._lock:
            try:
                if self._ensure():
                    self._wait_ready(READY_SECONDS, give_up)
            except OSError as error:
                logger.warning("the fork server failed: %s", error)
                self._stop()

    def start(
        self,
        command: Sequence[str],
        log: int,
        environment: Mapping[str, str],
        cores: Sequence[int],
        locks: Sequence[int],
    ) -> ForkedRun | None:
        """Start `python -m MODULE ARGUMENTS...` as a fork; None if that does not work here, and it has to start afresh.

        Args:
            log: the file descriptor for its output.
            locks: file descriptors that stay open while it runs.
        """
        with self._lock:
            for _ in range(2):  # the server may have died since the last run
                try:
                    if not self._ensure() or not self._wait_ready(PATIENCE_SECONDS):
                        return None
                    request = {"command": list(command), "environment": dict(environment), "cores": list(cores)}
                    return self._request(request, log, locks)
                except OSError as error:
                    logger.warning("the fork server failed (%s); starting another", error)
                    self._stop()
        return None

    def _ensure(self) -> bool:
        """Start the server unless the right one runs; returns whether there is one."""
        if self._refusal or sys.platform != "linux":
            return False
        loaded = installed()
        if self._process is not None and (self._process.poll() is not None or loaded != self._loaded):
            if loaded != self._loaded:
                logger.info("packages have changed; starting the fork server again")
            self._stop()
        if self._process is None:
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = [sys.executable, "-m", __spec__.name, str(its.fileno()), *self._preloaded]
            with its:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    env=self._environment,
                    pass_fds=[its.fileno()],
                    start_new_session=True,
                )
            self._connection, self._loaded, self._is_ready = ours, loaded, False
        return True

    def _wait_ready(self, seconds: float, give_up: Callable[[], bool] = lambda: False) -> bool:
        assert self._connection is not None
        if not self._is_ready:
            deadline = time.monotonic() + seconds
            while not select.select([self._connection], [], [], _POLL_SECONDS)[0]:
                if give_up() or time.monotonic() > deadline:
                    logger.info("the fork server is not ready yet")
                    return False
            answer = json.loads(self._connection.recv(_LONGEST) or "{}")
            if not answer.get("ready"):
                self._refusal = answer.get("reason", "it ended while it imported packages")
                logger.warning("runs start without a fork server: %s", self._refusal)
                self._stop()
                return False
            self._is_ready = True
        return True

    def _request(self, request: Mapping[str, Any], log: int, locks: Sequence[int]) -> ForkedRun:
        assert self._connection is not None
        lifeline_read, lifeline = os.pipe()
        status, status_write = os.pipe()
        try:
            files = [lifeline_read, status_write, log, *locks]
            socket.send_fds(self._connection, [json.dumps(request).encode()], files)
        except OSError:
            os.close(status)
            os.close(lifeline)
            raise
        finally:
            os.close(lifeline_read)
            os.close(status_write)
        return ForkedRun(status, lifeline)

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def installed() -> tuple[object, ...]:
    """What a fork server would import: the versions of packages, and the time of the last change to adapeff's files."""
    found: list[object] = []
    for package in _PACKAGES:
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append(None)
    folders = [Path(folder) for folder in adapeff.__path__]
    found.append(max((file.stat().st_mtime_ns for folder in folders for file in folder.rglob("*.py")), default=0))
    return tuple(found)


def problem_of_forks() -> str:
    """Why a fork of this process might not work: what it imported opened a device or started a thread. Empty if not."""
    paths = {line.split(None, 5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the folder's own descriptor is closed by now
            paths.add(str(entry.readlink()))
    devices = [path for path in sorted(paths) if path.startswith("/dev/") and not path.startswith(_HARMLESS)]
    if devices:
        return f"an imported package opened {devices[0]}, which a fork could not use"
    threads = len(list(Path("/proc/self/task").iterdir())) - 1
    return f"imported packages started threads ({threads}), which a fork would lack" if threads else ""


def serve(connection: socket.socket, preloaded: Sequence[str]) -> Callable[[], int] | None:
    """Fork for each request until the worker hangs up; returns what a fork has to do, in the fork itself."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a library may ask whether there is CUDA
    try:
        for module in preloaded:
            importlib.import_module(module)
        reason = problem_of_forks()
    except Exception as error:  # noqa: BLE001 - whatever it is, runs start without a fork server
        reason = f"{type(error).__name__}: {error}"
    gc.collect()
    gc.freeze()  # no fork copies memory only because the collector visits it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended forks need no one to wait for them
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a batch system's notice to all processes is for the worker
    connection.send(json.dumps({"ready": not reason, "reason": reason}).encode())
    while not reason:
        message, files, _, _ = socket.recv_fds(connection, _LONGEST, _MOST_FILES)
        if not message:
            break
        try:
            if os.fork() == 0:
                connection.close()
                return lambda: _run(json.loads(message), *files[:3])
        except OSError as error:
            logger.error("cannot fork: %s", error)  # noqa: TRY400 - the closed status tells the worker
        for number in files:
            os.close(number)
    return None


def _run(request: Mapping[str, Any], lifeline: int, status: int, log: int) -> int:
    """In a fork: be the watchdog of a runner, a fork too, and report its end. Returns only in the runner."""
    os.setsid()
    _name("adapeff-watch")
    os.write(status, f"{os.getpid()}\n".encode())
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, standard in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(number, standard)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])
    woken = watchdog.prepare(request["cores"])
    runner = os.fork()
    if runner == 0:
        for number in (woken, lifeline, status):
            os.close(number)
        return _become(request["command"])
    code = watchdog.wait(runner, woken=woken, lifeline=lifeline)
    os.write(status, f"{code}\n".encode())
    os._exit(0)


def _become(command: Sequence[str]) -> int:
    """Do what `python -m MODULE ARGUMENTS...` would do in a fresh process."""
    watchdog.reset()
    _name("adapeff-run")
    _, dash_m, module, *arguments = command
    assert dash_m == "-m", "a fork server runs modules"
    sys.argv = [module, *arguments]
    run: Callable[[], int] = importlib.import_module(module).main
    return run()


def _name(name: str) -> None:
    """Name this process for `ps` and `top`, which show the server's command line for its forks."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def main() -> int:
    """Serve the worker on the other end of the socket whose number is the first argument."""
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        task = serve(connection, sys.argv[2:])
    return 0 if task is None else task()


if __name__ == "__main__":
    sys.exit(main())

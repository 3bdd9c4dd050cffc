"""The fork server: runs start as forks of it, and afresh where it cannot serve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import adapeff
from adapeff.service.errors import ResourceError
from adapeff.service.store.jobs import RunOutcome
from adapeff.worker.daemon.fork_server import ForkServer
from adapeff.worker.daemon.slots import Slot, open_slots
from adapeff.worker.daemon.supervisor import runner_environment, supervise
from tests.conftest import eventually, processes_of
from tests.integration.test_supervisor import FOREVER, ROOT, SUCCEEDED, FakeContact, script

Start = Callable[..., ForkServer]
PARENT = "print(open(f'/proc/{os.getppid()}/stat').read().split()[3])\n"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a fork server that has imported given modules; those of the test's folder are found."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    servers: list[ForkServer] = []

    def start(*preloaded: str) -> ForkServer:
        servers.append(ForkServer(runner_environment(os.environ), preloaded=preloaded or ["tests.scripted_runner"]))
        servers[-1].launch()
        return servers[-1]

    yield start
    for server in servers:
        with server:
            pass


def run(server: ForkServer, folder: Path, body: str = "", cores: tuple[int, ...] = ()) -> RunOutcome:
    slot, command = Slot("cpu", 0, cores), script(folder, body + SUCCEEDED)
    server.prepare()
    outcome, _ = supervise(command, folder, slot, FakeContact(), fork_server=server)
    return outcome


def started_by(folder: Path) -> int:
    """The process that started the watchdog of the last run whose body was `PARENT`."""
    return int((folder / "run.log").read_text().split()[-1])


def test_run_is_a_fork_of_the_server(start: Start, tmp_path: Path) -> None:
    server = start()

    assert run(server, tmp_path, PARENT).outcome == "succeeded"

    assert started_by(tmp_path) == server.pid


def test_run_has_the_slots_environment_and_cores_and_nothing_of_the_server(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "before")
    server = start()
    monkeypatch.setenv("TZ", "after")
    core = min(os.sched_getaffinity(0))
    body = (
        "print(sorted(os.sched_getaffinity(0)), os.environ['TZ'], 'OPENBLAS_NUM_THREADS' in os.environ,"
        " repr(os.environ['CUDA_VISIBLE_DEVICES']), sys.stdin.read(),"
        " signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL)\n"
    )

    run(server, tmp_path, body, (core,))

    assert (tmp_path / "run.log").read_text() == f"[{core}] after False ''  True\n"


def test_server_that_was_killed_is_replaced(start: Start, tmp_path: Path) -> None:
    server = start()
    run(server, tmp_path)
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first)], timeout=10)

    assert run(server, tmp_path, PARENT).outcome == "succeeded"

    assert started_by(tmp_path) == server.pid != first


def test_run_outlives_the_server(start: Start, tmp_path: Path) -> None:
    server = start()
    body = "os.kill(int(open(f'/proc/{os.getppid()}/stat').read().split()[3]), signal.SIGKILL)\ntime.sleep(0.5)\n"

    assert run(server, tmp_path, body).outcome == "succeeded"


def test_server_is_replaced_after_an_upgrade(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    run(server, tmp_path, PARENT)
    first = started_by(tmp_path)
    (tmp_path / "changed.py").write_text("")
    monkeypatch.setattr(adapeff, "__path__", [str(tmp_path)])

    run(server, tmp_path, PARENT)
    second = started_by(tmp_path)
    run(server, tmp_path, PARENT)

    assert first != second and second == started_by(tmp_path) == server.pid


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import os\nopened = os.open('/dev/ptmx', os.O_RDWR)\n", "an imported package opened /dev/pt"),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n",
            "started threads (1)",
        ),
        ("import no_such_module\n", "No module named 'no_such_module'"),
        ("import os\nos._exit(3)\n", "it ended while it imported packages"),
    ],
    ids=["device", "threads", "error", "exit"],
)
def test_runs_start_afresh_where_forks_would_be_unsafe(
    start: Start, tmp_path: Path, module: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "preloaded_module.py").write_text(module)
    server = start("tests.scripted_runner", "preloaded_module")

    outcomes = [run(server, tmp_path, PARENT).outcome for _ in range(2)]

    assert outcomes == ["succeeded", "succeeded"] and started_by(tmp_path) == os.getpid()
    assert len(caplog.messages) == 1 and reason in caplog.text, "it is said once"


def test_killed_watchdog_is_a_killed_run_and_leaves_no_runner(start: Start, tmp_path: Path) -> None:
    server = start()
    outcome = run(server, tmp_path, "os.kill(os.getppid(), signal.SIGKILL)\n" + FOREVER)

    assert (outcome.outcome, outcome.signal) == ("killed", signal.SIGKILL)
    assert not processes_of(tmp_path)


WORKER = """
import os, sys
from pathlib import Path
from adapeff.worker.daemon.fork_server import ForkServer
from adapeff.worker.daemon.slots import Slot
from tests.integration.test_fork_server import run
server = ForkServer(dict(os.environ), preloaded=["tests.scripted_runner"])
server.launch()
Path("server").write_text(str(server.pid))
run(server, Path.cwd(), sys.argv[1])
"""


def test_neither_server_nor_run_outlives_a_killed_worker(start: Start, tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, "signal.signal(15, signal.SIG_IGN)\n" + FOREVER])
    eventually(lambda: (tmp_path / "events.jsonl").exists(), "the runner's start")
    server = int((tmp_path / "server").read_text())
    assert len(processes_of(tmp_path)) == 2

    worker.kill()
    worker.wait()

    eventually(lambda: not psutil.pid_exists(server) and not processes_of(tmp_path), "the end of both")


def test_orphan_of_a_fork_server_holds_its_slot(start: Start, tmp_path: Path) -> None:
    """Watchdog and server are killed: the runner that is left still holds the device."""
    locks, server = Path("locks"), start()
    (slot,) = open_slots("cpu:0", cores_per_slot=1, lock_dir=locks)
    with (tmp_path / "run.log").open("wb") as log:
        numbers = [lock.fileno() for lock in slot.locks]
        forked = server.start(script(tmp_path, FOREVER), log.fileno(), dict(os.environ), (), numbers)
    assert forked is not None and server.pid is not None
    eventually(lambda: (tmp_path / "events.jsonl").exists(), "the runner's start")
    (runner,) = psutil.Process(forked.pid).children()
    for pid in (forked.pid, server.pid):
        os.kill(pid, signal.SIGKILL)
    assert forked.wait() == -signal.SIGKILL
    forked.stdin.close()

    for lock in slot.locks:
        lock.close()
    with pytest.raises(ResourceError):
        open_slots("cpu:0", cores_per_slot=1, lock_dir=locks)
    runner.kill()

    def free() -> list[Slot]:
        try:
            return open_slots("cpu:0", cores_per_slot=1, lock_dir=locks)
        except ResourceError:
            return []

    (again,) = eventually(free, "the slot being free")
    for lock in again.locks:
        lock.close()

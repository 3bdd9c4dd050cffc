"""One runner under supervision: its outcomes are told apart, and no process of it is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapeff.service.errors import LeaseLostError, ResourceError
from adapeff.service.measured import Key, Measured
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from adapeff.worker.daemon import supervisor
from adapeff.worker.daemon.fork_server import ForkServer
from adapeff.worker.daemon.slots import Slot, open_slots
from adapeff.worker.daemon.supervisor import Stalls, read_finished, runner_environment
from adapeff.worker.devices.cuda import visible_devices
from tests.conftest import eventually, processes_of

SLOT = Slot("cpu", 0)
Supervise = Callable[..., tuple[RunOutcome, RunResults]]
ROOT = str(Path(__file__).parents[2])
LOCKS = Path("locks")  # in the test's own folder, where each test works


class FakeContact:
    """A contact with fixed answers."""

    def __init__(self, *, cancel: bool = False, lost: bool = False) -> None:
        self.cancel, self.lost = cancel, lost
        self.handing_back = threading.Event()
        self.heartbeats: list[tuple[str, Mapping[str, Any]]] = []

    def heartbeat(self, stage: str, progress: Mapping[str, Any]) -> bool:
        self.heartbeats.append((stage, progress))
        if self.lost:
            raise LeaseLostError("no longer counts")
        return self.cancel

    def must_hand_back(self) -> bool:
        return self.handing_back.is_set()


class HandsBackOnceStarted(FakeContact):
    """A contact of a worker that stops when the run has written an event."""

    def __init__(self) -> None:
        super().__init__()
        self.started = Path("events.jsonl")

    def must_hand_back(self) -> bool:
        return self.started.exists()


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    """A fork server that has imported the scripted runner only."""
    environment = {**runner_environment(os.environ), "PYTHONPATH": ROOT}
    with ForkServer(environment, preloaded=["tests.scripted_runner"]) as server:
        yield server


@pytest.fixture(autouse=True)
def _scripted_runner_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ROOT)


@pytest.fixture(params=["fresh", "forked"])
def supervise(request: pytest.FixtureRequest) -> Supervise:
    """`supervise`, with a fresh process and with a fork."""
    server = request.getfixturevalue("fork_server") if request.param == "forked" else None
    return partial(supervisor.supervise, fork_server=server)


def script(folder: Path, body: str) -> list[str]:
    """A command that runs a few lines of Python; `e(...)` writes an event."""
    return [sys.executable, "-m", "tests.scripted_runner", body, str(folder / "events.jsonl")]


FOREVER = "e(event='stage', stage='train')\nwhile True: time.sleep(1)\n"
SUCCEEDED = "e(event='end', outcome='succeeded', message='')\n"


def test_run_that_succeeds_returns_its_results(supervise: Supervise, tmp_path: Path) -> None:
    body = "e(event='measurement', name='accuracy', value=0.5, unit='1')\nprint('said')\n" + SUCCEEDED

    result, run_results = supervise(script(tmp_path, body), tmp_path, SLOT, FakeContact())

    assert (result.outcome, result.exit_code) == ("succeeded", 0)
    assert run_results.measurements == [Measured(Key("accuracy"), 0.5, "1")]
    assert (tmp_path / "run.log").read_text() == "said\n"


@pytest.mark.parametrize(
    ("body", "outcome", "message"),
    [
        ("e(event='end', outcome='error', message='no such model')\nsys.exit(1)\n", "error", "no such model"),
        ("e(event='end', outcome='oom', message='out of memory')\nsys.exit(1)\n", "oom", "out of memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)\n", "killed", "killed by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)\n", "killed", "killed by SIGKILL"),
        ("raise SystemExit('what happened')\n", "error", "exited with code 1; last log line: what happened"),
        ("sys.exit(0)\n", "error", "exited with code 0"),
        ("e(event='end', outcome='error', message='disk full', not_here=True)\nsys.exit(1)\n", "error", "disk full"),
        ("os.kill(os.getpid(), signal.SIGTERM)\n", "killed", "killed by SIGTERM"),
        (SUCCEEDED + "sys.exit(3)\n", "error", "exited with code 3"),
    ],
    ids=[
        *("error", "oom", "segfault", "kill", "exception", "silent", "not here", "terminated"),
        "died at the end",
    ],
)
def test_outcomes_are_told_apart(supervise: Supervise, tmp_path: Path, body: str, outcome: str, message: str) -> None:
    result, _ = supervise(script(tmp_path, body), tmp_path, SLOT, FakeContact())

    assert result.outcome == outcome
    assert message in result.message


@pytest.mark.parametrize(
    ("contact", "limit", "outcome"),
    [
        (FakeContact(cancel=True), None, "cancelled"),
        (HandsBackOnceStarted(), None, "released"),
        (FakeContact(), 2, "timeout"),
    ],
    ids=["cancelled", "released", "timeout"],
)
def test_run_that_is_stopped_leaves_no_process(
    supervise: Supervise, tmp_path: Path, contact: FakeContact, limit: float | None, outcome: str
) -> None:
    child = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
    body = child + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER

    result, _ = supervise(script(tmp_path, body), tmp_path, SLOT, contact, time_limit_seconds=limit)

    assert result.outcome == outcome
    assert not processes_of(tmp_path)


@pytest.mark.parametrize(("action", "outcome"), [("retry", "killed"), ("fail", "timeout")])
def test_run_without_news_is_stalled_and_ended(supervise: Supervise, tmp_path: Path, action: Any, outcome: str) -> None:
    stalls = Stalls({"": 1000, "train": 0.02}, action)

    result, _ = supervise(script(tmp_path, FOREVER), tmp_path, SLOT, FakeContact(), stalls=stalls)

    assert (result.outcome, result.message) == (outcome, "stalled: no news for 1 s in stage train")
    assert not processes_of(tmp_path)


@pytest.mark.parametrize(
    ("stalls", "stage"),
    [
        (Stalls({"": 0.02}, "show"), "train"),
        (Stalls({"": 0.02, "evaluate": 0}, "retry"), "evaluate"),
        (Stalls({"": 0.02}, "retry"), "wait"),
    ],
    ids=["only shown", "a stage without a limit", "waiting for its device"],
)
def test_run_that_may_be_quiet_goes_on(tmp_path: Path, stalls: Stalls, stage: str) -> None:
    body = f"e(event='stage', stage={stage!r})\ntime.sleep(2.5)\n" + SUCCEEDED

    result, _ = supervisor.supervise(script(tmp_path, body), tmp_path, SLOT, FakeContact(), stalls=stalls)

    assert result.outcome == "succeeded"


def test_run_that_reports_is_not_stalled(tmp_path: Path) -> None:
    body = "for _ in range(25):\n    e(event='alive')\n    time.sleep(0.1)\n" + SUCCEEDED

    result, _ = supervisor.supervise(
        script(tmp_path, body), tmp_path, SLOT, FakeContact(), stalls=Stalls({"": 0.02}, "retry")
    )

    assert result.outcome == "succeeded"


def test_run_that_lost_its_lease_is_ended(supervise: Supervise, tmp_path: Path) -> None:
    with pytest.raises(LeaseLostError):
        supervise(script(tmp_path, FOREVER), tmp_path, SLOT, FakeContact(lost=True))

    assert not processes_of(tmp_path)


def test_progress_is_reported(supervise: Supervise, tmp_path: Path) -> None:
    contact = FakeContact()
    body = "e(event='stage', stage='train')\ne(event='progress', step=3, steps=9, loss=0.5, eta_s=1)\n" + FOREVER
    thread = threading.Thread(target=supervise, args=(script(tmp_path, body), tmp_path, SLOT, contact))

    thread.start()
    eventually(
        lambda: ("train", {"step": 3, "steps": 9, "loss": 0.5, "eta_s": 1}) in contact.heartbeats, "the progress"
    )
    contact.handing_back.set()
    thread.join()

    assert not processes_of(tmp_path)


def test_half_written_event_is_left_for_later(supervise: Supervise, tmp_path: Path) -> None:
    body = (
        f"f = open({str(tmp_path / 'events.jsonl')!r}, 'a')\n"
        'f.write(\'{"event": "meas\'); f.flush(); time.sleep(0.6)\n'
        'f.write(\'urement", "name": "x", "value": 1, "unit": "1"}\\n\'); f.flush()\n' + SUCCEEDED
    )

    result, run_results = supervise(script(tmp_path, body), tmp_path, SLOT, FakeContact())

    assert (result.outcome, len(run_results.measurements)) == ("succeeded", 1)


def test_runner_does_not_outlive_a_killed_worker(tmp_path: Path) -> None:
    """The guard sees its pipe end and kills the whole group, children and all."""
    command = script(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER)
    parent = (
        "import subprocess, sys, time, json\n"
        "subprocess.Popen([sys.executable, '-m', 'adapeff.worker.daemon.watchdog', '--'] + json.loads(sys.argv[1]),"
        " stdin=subprocess.PIPE, stdout=open('run.log', 'w'), start_new_session=True)\n"
        "time.sleep(1000)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", parent, json.dumps(command)])
    eventually(lambda: (tmp_path / "events.jsonl").exists(), "the runner's start")

    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()

    assert eventually(lambda: not processes_of(tmp_path), "the runner's end", seconds=10)


def test_runner_sees_no_address_of_database_or_broker(
    supervise: Supervise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ADAPEFF_DATABASE_URL", "ADAPEFF_BROKER_URL", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, "redis://:hush@h/0")

    supervise(script(tmp_path, "print(dict(os.environ))\n" + SUCCEEDED), tmp_path, SLOT, FakeContact())

    assert "hush" not in (tmp_path / "run.log").read_text()


def test_lines_that_are_not_events_are_skipped_and_counted(supervise: Supervise, tmp_path: Path) -> None:
    garbage = ["no JSON", "[1]", "{}", '{"event": "measurement", "name": "x"}', '{"event": "end", "outcome": "well"}']
    body = f"for line in {garbage!r}: open(EVENTS, 'a').write(line + chr(10))\nopen(EVENTS, 'ab').write(b'\\xff\\n')\n"
    body += "e(event='measurement', name='accuracy', value=0.5, unit='1')\n" + SUCCEEDED

    result, run_results = supervise(script(tmp_path, body), tmp_path, SLOT, FakeContact())

    assert (result.outcome, result.message) == ("succeeded", "5 lines of events.jsonl could not be read")
    assert run_results.measurements == [Measured(Key("accuracy"), 0.5, "1")]


@pytest.mark.parametrize(
    "event",
    [
        {"event": "artifact", "name": "x", "path": 5, "sha256": "", "bytes": 1},
        {"event": "measurement", "name": "x", "value": "y", "unit": "1"},
        {"event": "measurement", "name": ["x"], "value": 1, "unit": "1"},
        {"event": "curve", "name": "x", "points": 7},
        {"event": "environment", "values": [1]},
    ],
)
def test_malformed_events_are_skipped(supervise: Supervise, tmp_path: Path, event: dict[str, Any]) -> None:
    result, run_results = supervise(script(tmp_path, f"e(**{event!r})\n" + SUCCEEDED), tmp_path, SLOT, FakeContact())

    assert (result.outcome, result.message) == ("succeeded", "1 line of events.jsonl could not be read")
    assert not run_results.measurements and not run_results.artifacts and not run_results.curves


def test_run_that_cannot_write_its_final_event_is_its_hosts_failure(supervise: Supervise, tmp_path: Path) -> None:
    body = "print('OSError: [Errno 28] No space left on device')\nsys.exit(74)\n"

    result, _ = supervise(script(tmp_path, body), tmp_path, SLOT, FakeContact())

    assert result.not_here
    assert result.message == f"cannot write to {tmp_path}; last log line: OSError: [Errno 28] No space left on device"


def test_events_removed_under_a_run_are_named(supervise: Supervise, tmp_path: Path) -> None:
    """Also where the runner goes on writing to the file that has no name any more."""
    read = tmp_path / "read"

    class Reader(FakeContact):
        def heartbeat(self, stage: str, progress: Mapping[str, Any]) -> bool:
            if stage == "train":
                read.touch()
            return super().heartbeat(stage, progress)

    body = "e(event='stage', stage='train')\n"
    body += f"while not os.path.exists({str(read)!r}): time.sleep(0.01)\n"
    body += "os.remove(EVENTS)\nsys.exit(0)\n"

    result, _ = supervise(script(tmp_path, body), tmp_path, SLOT, Reader())

    assert (result.outcome, result.message.partition(" vanished")[0]) == ("lost", "events.jsonl")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_to_all_of_a_service_hands_back_though_the_runner_got_it_first(
    supervise: Supervise, tmp_path: Path, number: signal.Signals
) -> None:
    """As systemd stops a service: each process gets the signal, the runner's may come first."""
    contact = FakeContact()
    ended = f"signal.signal({int(number)}, signal.SIG_DFL)\nos.kill(os.getpid(), {int(number)})\n"
    threading.Timer(1.0, contact.handing_back.set).start()

    result, _ = supervise(script(tmp_path, ended), tmp_path, SLOT, contact)

    assert result.outcome == "released"


def test_runner_gets_what_it_needs_of_the_environment_and_what_is_named() -> None:
    everything = {"PATH": "/bin", "HF_HOME": "/h", "LC_ALL": "C", "AWS_SECRET": "x", "MY_ONE": "1", "MYSQL": "2"}

    assert set(runner_environment(everything)) == {"PATH", "HF_HOME", "LC_ALL"}
    assert set(runner_environment(everything, ["my_*"])) == {"PATH", "HF_HOME", "LC_ALL", "MY_ONE"}


def test_finished_run_is_read_back_from_its_folder(supervise: Supervise, tmp_path: Path) -> None:
    assert read_finished(tmp_path) is None
    supervise(script(tmp_path, FOREVER.splitlines()[0] + "\n" + SUCCEEDED), tmp_path, SLOT, FakeContact())

    found = read_finished(tmp_path)

    assert found is not None and found[0].outcome == "succeeded"


@pytest.mark.parametrize(
    ("asked", "visible"),
    [
        (None, ["GPU-aa1", "GPU-ab2", "MIG-c"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["GPU-aa1"]),
        ("1,0", ["GPU-ab2", "GPU-aa1"]),
        ("0,7,1", ["GPU-aa1"]),
        ("x,0", []),
        ("GPU-ab", ["GPU-ab2"]),
        ("GPU-a", []),
        ("MIG-c", ["MIG-c"]),
        ("0,0", []),
        ("0,GPU-aa", []),
    ],
)
def test_gpus_are_those_that_cuda_shows(asked: str | None, visible: list[str]) -> None:
    assert visible_devices(["GPU-aa1", "GPU-ab2", "MIG-c"], asked) == visible


def test_slot_is_held_against_a_second_worker_and_by_an_orphan(tmp_path: Path) -> None:
    """Worker and guard are killed at once: the runner that is left still holds the device."""
    (slot,) = open_slots("cpu:0", cores_per_slot=1, lock_dir=LOCKS)
    with pytest.raises(ResourceError, match="cpu:0 is in use by another adapeff worker"):
        open_slots("cpu:0", cores_per_slot=1, lock_dir=LOCKS)
    numbers = [lock.fileno() for lock in slot.locks]
    keep = ",".join(map(str, numbers))
    command = [sys.executable, "-m", "adapeff.worker.daemon.watchdog", "--keep", keep, "--", *script(tmp_path, FOREVER)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=numbers)
    eventually(lambda: (tmp_path / "events.jsonl").exists(), "the runner's start")
    (runner,) = psutil.Process(guard.pid).children()
    guard.kill()
    guard.communicate()

    for lock in slot.locks:
        lock.close()
    with pytest.raises(ResourceError):
        open_slots("cpu:0", cores_per_slot=1, lock_dir=LOCKS)
    runner.kill()

    (again,) = eventually(_free_slot, "the slot being free")
    for lock in again.locks:
        lock.close()


def _free_slot() -> list[Slot]:
    try:
        return open_slots("cpu:0", cores_per_slot=1, lock_dir=LOCKS)
    except ResourceError:
        return []


def test_cores_are_locked_however_slots_are_numbered() -> None:
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        pytest.skip("needs two cores")
    wide = open_slots("cpu:0", cores_per_slot=2, lock_dir=LOCKS)

    with pytest.raises(ResourceError, match="cpu:1 is in use"):
        open_slots("cpu:1", cores_per_slot=1, lock_dir=LOCKS)
    for lock in wide[0].locks:
        lock.close()


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("gpu:0", "'gpu:0' is not a device; expected auto or one of cuda"),
        ("cpu:x", "'cpu:x' is not a device"),
        ("cpu:4096", "this host has .* cpu slots"),
        ("cuda:0", "this host has no GPU"),
    ],
)
def test_device_that_is_not_there_is_named(devices: str, message: str) -> None:
    if devices.startswith("cuda") and Path("/dev/nvidia0").exists():
        pytest.skip("this host has a GPU")
    with pytest.raises(Exception, match=message):
        open_slots(devices, cores_per_slot=1)

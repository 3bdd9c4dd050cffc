"""Failures from outside: malformed messages, a broker or a database that goes away, hosts that cannot run jobs."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from adapeff.service.broker.queue import make_app, receive, send_unsent
from adapeff.service.broker.reconciler import Reconciler
from adapeff.service.errors import ResourceError, SpecError, UnreachableError
from adapeff.service.settings import Settings
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.fingerprints import file_fingerprint
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store import job_creation, job_queries, jobs, results, sweeps
from adapeff.service.store.database import Database, open_database
from adapeff.service.store.jobs import RunOutcome
from adapeff.worker.daemon.host_faults import EXCLUDED_SECONDS, IN_A_ROW, PAUSES, HostFaults
from adapeff.worker.daemon.slots import Slot
from adapeff.worker.daemon.worker import Worker
from adapeff.worker.runner import _read_source
from tests.conftest import RedisServer, eventually
from tests.factories import claimer, queue_jobs, spec
from tests.integration.test_jobs import age_lease, finish, run_results, state_of, take

LANE = "adapeff-any"


def envelope(body: Any = None, **changes: Any) -> bytes:
    """A message as kombu writes it, with a given body."""
    headers = {"task": "adapeff.run_job", "id": "x", "lang": "py"}
    properties = {
        "delivery_mode": 2,
        "delivery_tag": "x",
        "delivery_info": {"exchange": "", "routing_key": LANE},
        "priority": 5,
        "body_encoding": "utf-8",
        "correlation_id": "x",
    }
    message = {
        "body": json.dumps([[1], {}, {}] if body is None else body),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    return json.dumps({**message, **changes}).encode()


MALFORMED = (
    b"hello",
    b"",
    b"{}",
    b"[]",
    b"null",
    b"7",
    b"\xff\xfe\x00binary",
    b"[" * 5000,
    b'{"body": ',
    envelope(body={}),
    envelope(body=[]),
    envelope(body=[["x"], {}, {}]),
    envelope(body=[[True], {}, {}]),
    envelope(body=[[-1], {}, {}]),
    envelope(body=[[2**70], {}, {}]),
    envelope(body=[[1, 2], {}, {}]),
    envelope(body="x" * 1_000_000),
    envelope(headers={}),
    envelope(headers=None),
    envelope(headers={"task": "os.system", "id": "x"}),
    envelope(properties={}),
    envelope(properties=None),
    envelope(**{"content-type": "application/x-python-serialize"}),
    envelope(**{"content-encoding": "no-such-code"}),
)


@pytest.fixture(params=["files", "redis"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings for the embedded queue and for Redis."""
    broker = request.getfixturevalue("redis_url") if request.param == "redis" else None
    return Settings(
        state_dir=tmp_path / "state", broker_url=broker, lease_seconds=60, heartbeat_seconds=0.5, reconcile_seconds=15
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The embedded database."""
    opened = open_database(settings)
    yield opened
    opened.close()


@pytest.fixture
def listening(settings: Settings) -> Iterator[Callable[[], Future[int | None]]]:
    """The next job id received by message, as a future."""
    stop = threading.Event()
    ids = receive(make_app(settings), [LANE], stop)
    with ThreadPoolExecutor(1) as pool:
        yield lambda: pool.submit(next, ids, None)
        stop.set()


def put_raw(settings: Settings, message: bytes, number: int) -> None:
    """Put a raw message at the head of the queue."""
    if settings.broker_url is not None:
        with redis.Redis.from_url(settings.broker_url) as client:
            client.lpush(LANE, message)
        return
    folder = settings.state / "queue" / "messages"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:020d}_bad.{LANE}.msg").write_bytes(message)


def test_malformed_messages_are_dropped_and_the_next_one_is_received(
    settings: Settings,
    database: Database,
    listening: Callable[[], Future[int | None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(settings)
    (job_id,) = queue_jobs(database)
    for number, message in enumerate(MALFORMED):
        put_raw(settings, message, number)
    coming = listening()
    eventually(lambda: caplog.text.count("dropped a foreign message") >= len(MALFORMED) - 1, "all of them dropped")

    assert send_unsent(database, app) == 1
    assert coming.result(60) == job_id


@hypothesis.settings(max_examples=25)
@given(st.binary(max_size=200))
def test_message_file_of_any_bytes_is_dropped(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    settings = Settings(state_dir=tmp_path_factory.mktemp("state"))
    app = make_app(settings)
    put_raw(settings, content, 0)
    stop = threading.Event()
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection)
        app.send_task("adapeff.run_job", args=[7], queue=LANE, producer=producer)

    assert next(receive(app, [LANE], stop)) == 7


def test_embedded_queue_survives_the_removal_of_its_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    database = open_database(settings)
    (first,) = queue_jobs(database)
    stop = threading.Event()
    ids = receive(make_app(settings), [LANE], stop)
    with ThreadPoolExecutor(1) as pool:
        try:
            send_unsent(database, make_app(settings))
            assert pool.submit(next, ids, None).result(60) == first  # so it is listening

            coming = pool.submit(next, ids, None)
            shutil.rmtree(settings.state / "queue")
            eventually(lambda: "listening: " in caplog.text, "the failure in the log")
            _, second = queue_jobs(database, 2)
            send_unsent(database, make_app(settings))

            assert coming.result(60) == second
        finally:
            stop.set()
    database.close()


@pytest.mark.parametrize("trouble", ["killed", "read-only"])
def test_worker_receives_again_once_redis_recovers(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(state_dir=tmp_path / "state", broker_url=redis_url)
    database = open_database(settings)
    (job_id,) = queue_jobs(database)
    stop = threading.Event()
    ids = receive(make_app(settings), [LANE], stop)
    with ThreadPoolExecutor(1) as pool, redis.Redis.from_url(redis_url) as client:
        coming = pool.submit(next, ids, None)
        try:
            if trouble == "killed":
                redis_server.kill()
            else:
                client.replicaof("127.0.0.1", "1")
            try:
                eventually(lambda: "listening: " in caplog.text, "the failure in the log")
            finally:
                if trouble == "killed":
                    redis_server.start()
                else:
                    client.replicaof("NO", "ONE")
            send_unsent(database, make_app(settings))

            assert coming.result(60) == job_id
        finally:
            stop.set()
    database.close()


def test_job_for_another_device_is_not_claimed_whatever_queue_its_message_is_in(database: Database) -> None:
    (job_id,) = queue_jobs(database, settings={"device": "cuda"})

    assert claimer(database)(job_id) is None
    assert state_of(database, job_id) == "queued"


def test_leases_are_not_taken_back_while_writes_are_blocked(settings: Settings, database: Database) -> None:
    """Healthy runs cannot renew their leases then."""
    (job_id,) = queue_jobs(database)
    take(database, job_id)
    age_lease(database, job_id)
    reconciler = Reconciler(database, None, settings, threading.Event())
    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        with database.session() as session:
            jobs.touch(session)
            blocked.set()
            release.wait(60)

    with ThreadPoolExecutor(1) as pool:
        blocking = pool.submit(block)
        blocked.wait(60)
        threading.Timer(1.0, release.set).start()

        assert reconciler.take_back(allowed=True) is False
        assert state_of(database, job_id) == "running"
        blocking.result()

    assert reconciler.take_back(allowed=True) is True
    assert state_of(database, job_id) == "queued"


def test_database_that_is_temporarily_read_only_is_an_outage(any_database_url: str) -> None:
    database = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    read_only = "PRAGMA query_only=ON" if "sqlite" in database.url else "SET TRANSACTION READ ONLY"

    with pytest.raises((UnreachableError, ResourceError), match=r"read-?only"), database.session() as session:
        session.execute(text(read_only))
        job_creation.create_jobs(session, [spec()], priority=5, max_failures=3)
    database.close()


def test_pool_has_a_connection_for_every_slot(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}", connections=24)
    with ThreadPoolExecutor(24) as pool:
        together = threading.Barrier(24)

        def use() -> int:
            with database.session(read_only=True) as session:
                together.wait(60)
                return int(session.scalar(text("SELECT 1")) or 0)

        assert sum(found.result() for found in [pool.submit(use) for _ in range(24)]) == 24
    database.close()


def test_two_concurrent_submissions_of_the_same_sweep_both_report_what_they_created(any_database_url: str) -> None:
    database = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    raw = {"models": ["a/b"], "tasks": ["offline_nli"], "methods": ["full"], "seeds": list(range(300))}
    sweep = parse_sweep({"name": "s", **raw})
    specs = expand(sweep, data_root=None)
    start = threading.Barrier(2)

    def submit(mine: list[Any]) -> tuple[list[int], list[int]]:
        start.wait(60)
        stored = database.retried(lambda session: sweeps.submit(session, sweep, mine, max_failures=3))
        return list(stored.job_ids), list(stored.created)

    with ThreadPoolExecutor(2) as pool:
        (ids, new), (ids_2, new_2) = pool.map(submit, [specs, specs[::-1]])

    assert ids == ids_2[::-1]
    assert len(new) + len(new_2) == 300
    assert not set(new) & set(new_2)
    database.close()


@pytest.mark.parametrize(("message", "stored"), [("a\0b", "a\\0b"), ("half \ud83d", "half \\ud83d")])
def test_characters_that_a_database_cannot_store_are_escaped(any_database_url: str, message: str, stored: str) -> None:
    database = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    (job_id,) = queue_jobs(database)
    claim = take(database, job_id)
    found = run_results()
    found.take(
        {"event": "measurement", "name": "energy_j", "value": None, "unit": "J", "reason": message, "split": "x"}
    )

    assert finish(database, claim, RunOutcome("succeeded", message), found) == "succeeded"

    with database.session(read_only=True) as session:
        kept = results.list_measurements(session, [claim.run_id])[claim.run_id]
        assert {m.reason for m in kept if m.key.split == "x"} == {stored}
        assert job_queries.list_runs(session, [job_id])[job_id][0].message == stored
    database.close()


def test_new_worker_stores_finished_runs_of_an_earlier_one(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    database = open_database(settings)
    done, half, elsewhere = queue_jobs(database, 3)
    earlier = f"{socket.gethostname()}-1-abcdef"
    claims = [take(database, done, earlier), take(database, half, earlier), take(database, elsewhere, "other-1-abc")]
    end = {"event": "end", "outcome": "succeeded", "message": ""}
    measured = {"event": "measurement", "name": "accuracy", "value": 0.5, "unit": "1", "language": "en"}
    left: list[list[dict[str, Any]]] = [[measured, end], [measured], [measured, end]]
    for claim, events in zip(claims, left, strict=True):
        with database.session() as session:
            place = tmp_path / f"run-{claim.job_id}"
            session.execute(text("UPDATE runs SET folder = :f WHERE id = :i"), {"f": str(place), "i": claim.run_id})
        place.mkdir()
        (place / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))

    Worker(settings, database, [Slot("cpu", 0)]).adopt_finished()

    assert [state_of(database, job_id) for job_id in (done, half, elsewhere)] == ["succeeded", "running", "running"]
    with database.session(read_only=True) as session:
        assert [m.value for m in results.list_measurements(session, [claims[0].run_id])[claims[0].run_id]] == [0.5]
    database.close()


def test_signals_that_the_parent_ignored_stay_ignored(tmp_path: Path) -> None:
    """As with nohup."""
    settings = Settings(state_dir=tmp_path / "state")
    database = open_database(settings)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:  # whatever the test process was started with
            signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
        Worker(settings, database, [Slot("cpu", 0)]).stopping.listen_to_signals()

        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert callable(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGQUIT) == signal.getsignal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        database.close()


def test_host_excludes_a_job_it_cannot_run_for_longer_each_time() -> None:
    moment = 0.0
    faults = HostFaults(now=lambda: moment)

    for rest in (*EXCLUDED_SECONDS, EXCLUDED_SECONDS[-1]):
        faults.record(7, "cpu:0", "disk full")
        moment += rest - 1
        assert faults.excludes(7) and not faults.excludes(8)
        moment += 1
        assert not faults.excludes(7)
    assert faults.excluded == {7: "disk full"}


def test_slot_with_several_failures_in_a_row_pauses_until_a_job_runs() -> None:
    faults = HostFaults()
    pauses = []
    for job_id in range(IN_A_ROW + len(PAUSES)):
        faults.record(job_id, "cpu:0", "no folder")
        pauses.append(faults.pause_of("cpu:0"))

    assert pauses == [0.0] * (IN_A_ROW - 1) + [*PAUSES, PAUSES[-1]]
    assert faults.pause_of("cpu:1") == 0
    faults.clear("cpu:0")
    assert faults.pause_of("cpu:0") == 0


def test_weights_that_differ_from_those_their_run_stored_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"as stored")
    argument = f"{'a' * 64}@{file_fingerprint(weights)}={tmp_path}"
    assert _read_source(argument) == ("a" * 64, tmp_path)

    weights.write_bytes(b"replaced!")

    with pytest.raises(SpecError, match="have changed since its run stored them; restore them"):
        _read_source(argument)

"""The end of a sweep is told once, to a command or a URL."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapeff.service.broker.reconciler import Reconciler
from adapeff.service.settings import Settings
from adapeff.service.store import jobs
from adapeff.service.store.database import Database
from adapeff.service.store.jobs import RunOutcome
from tests.factories import spec
from tests.integration.test_jobs import finish, take
from tests.integration.test_steering import submit


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    """A migrated database, SQLite and PostgreSQL in turn."""
    opened = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield opened
    opened.close()


def reconciler(database: Database, notify: str) -> Reconciler:
    return Reconciler(database, None, Settings(notify=notify), threading.Event())


def command(file: Path) -> str:
    """A command that appends what it is told to a file, a line each."""
    code = f"import sys; open({str(file)!r}, 'a').write(sys.stdin.read() + chr(10))"
    return f'{sys.executable} -c "{code}"'


def told(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def test_command_is_told_once_when_the_last_job_has_ended(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "told"
    first, second = submit(database, spec(0), spec(1), name="mine")
    submit(database, spec(0), name="again")
    watching = reconciler(database, command(file))
    finish(database, take(database, second), RunOutcome("error", "it went wrong"))
    watching.announce()
    assert not told(file)

    finish(database, take(database, first), RunOutcome("succeeded"))
    with ThreadPoolExecutor(4) as several:
        list(several.map(lambda _: reconciler(database, command(file)).announce(), range(8)))

    (message,) = told(file)
    assert message["jobs"] == {"failed": 1, "succeeded": 1}
    assert (message["sweep"], message["submission"]) == ("mine", 1)
    assert message["text"] == "adapeff: sweep mine has ended: 1 failed, 1 succeeded"


def test_jobs_that_end_without_a_worker_end_their_sweep_too(database: Database, tmp_path: Path) -> None:
    (job_id,) = submit(database, spec(0))
    with database.session() as session:
        jobs.request_cancel(session, job_id)

    reconciler(database, command(tmp_path / "told")).announce()

    assert told(tmp_path / "told")[0]["jobs"] == {"cancelled": 1}


def test_sweeps_that_ended_before_anyone_listened_are_not_told_later(database: Database, tmp_path: Path) -> None:
    (job_id,) = submit(database, spec(0))
    finish(database, take(database, job_id), RunOutcome("succeeded"))
    reconciler(database, "").announce()

    reconciler(database, command(tmp_path / "told")).announce()

    assert not told(tmp_path / "told")


def test_url_gets_a_post(database: Database) -> None:
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Content-Type"], json.loads(body)["text"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    (job_id,) = submit(database, spec(0))
    finish(database, take(database, job_id), RunOutcome("succeeded"))
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        reconciler(database, f"http://127.0.0.1:{server.server_port}/hook").announce()
        answering.join()

    assert got == [("application/json", "adapeff: sweep demo has ended: 1 succeeded")]


@pytest.mark.parametrize(
    "target",
    ["false", "no-such-command-here", "http://127.0.0.1:9/away", "'unclosed"],
    ids=["fails", "missing", "unreachable", "malformed"],
)
def test_failure_to_tell_is_only_logged(database: Database, target: str, caplog: pytest.LogCaptureFixture) -> None:
    (job_id,) = submit(database, spec(0))
    finish(database, take(database, job_id), RunOutcome("succeeded"))

    reconciler(database, target).announce()

    assert "has ended, but notify failed" in caplog.text

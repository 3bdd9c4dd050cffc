"""`adapeff serve`: live pages and a JSON API that changes nothing without the token."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from adapeff.service.store import job_creation, job_queries, jobs, results
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from tests.conftest import adapeff_program, eventually
from tests.e2e.conftest import Adapeff
from tests.e2e.test_browser import browser
from tests.factories import claimer, spec
from tests.integration.test_report import store
from tests.integration.test_sweep_removal import submit

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
__all__ = ["browser"]
TOKEN = "a-token-of-some-length"
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A finished run in a sweep, and two queued jobs."""
    opened = Database(f"sqlite:///{tmp_path / 'state.db'}")
    upgrade(opened)
    store(opened, "full", 0, 0.8, 100)
    submit(opened, "mine", 0)
    with opened.session() as session:
        job_creation.create_jobs(session, [spec(7), spec(8)], priority=5, max_failures=3)
    yield opened
    opened.close()


@pytest.fixture
def serve(database: Database, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts the server on a free port, and gives its host and port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> str:
        log = tmp_path / f"serve{len(started)}.log"
        with log.open("w") as out:
            command = [adapeff_program(), "--database-url", database.url, "serve", "--port", "0", *arguments]
            process = subprocess.Popen(command, stdout=out, stderr=out)
        started.append(process)
        eventually(lambda: "serving at" in log.read_text() or process.poll() is not None, "a server")
        found = re.search(r"http://(\S+)", log.read_text())
        assert found is not None, log.read_text()
        return found[1]

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    with closing(HTTPConnection(address, timeout=60)) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def state_of(database: Database, job_id: int) -> str:
    with database.session(read_only=True) as session:
        return job_queries.get_job(session, job_id).state


def test_other_names_and_other_addresses_are_refused(serve: Callable[..., str], adapeff: Adapeff) -> None:
    address = serve()

    assert ask(address, "/", Host="evil.example")[0] == 421
    refused = adapeff("serve", "--host", "0.0.0.0")
    assert refused.returncode == 1 and "--host is 0.0.0.0, which others can reach" in refused.stderr
    Path("short").write_text("short")
    short = adapeff("serve", "--token-file", "short")
    assert short.returncode == 1 and "the token in short has 5 characters, expected at least 16" in short.stderr
    named = adapeff("serve", "--host", "0.0.0.0", ADAPEFF_SERVE_TOKEN="short")
    assert named.returncode == 1 and "the token in ADAPEFF_SERVE_TOKEN has 5 characters" in named.stderr
    taken = adapeff("serve", "--port", address.rpartition(":")[2])
    assert taken.returncode == 1 and "cannot listen on" in taken.stderr


def test_every_request_needs_the_token_where_others_can_reach_the_server(serve: Callable[..., str]) -> None:
    Path("token").write_text(TOKEN)
    port = serve("--host", "0.0.0.0", "--token-file", "token").rpartition(":")[2]
    address = f"127.0.0.1:{port}"

    assert ask(address, "/api/status")[0] == 401
    assert ask(address, "/api/status", Authorization=f"Bearer {TOKEN}")[0] == 200


def test_progress_of_a_running_job_shows_without_a_reload(
    serve: Callable[..., str], database: Database, browser: Any
) -> None:
    claim = claimer(database)(2)
    assert claim is not None
    browser.get(f"http://{serve()}/")
    browser.execute_script("window.sameDocument = true")

    def shows(text: str, part: str = "#job-2") -> bool:
        return text in browser.execute_script(f"return document.querySelector('{part}').textContent")

    for step in (10, 20):
        progress = {"step": step, "steps": 40, "eta_s": 9.0}
        with database.session() as session:
            jobs.heartbeat(session, claim, lease_seconds=60, stage="train", progress=progress)
        eventually(partial(shows, f"step {step} of 40, 9 s left"), "the progress of a running job")
    assert shows("1 running", "#counts") and shows("w1", "#workers")
    with database.session() as session:
        results.finish(session, claim, RunOutcome("error", message="it broke"), RunResults())
    eventually(partial(shows, "it broke"), "the end of a job")

    assert shows("failed") and shows("1 failed", "#counts")
    assert browser.execute_script("return window.sameDocument")
    assert browser.find_elements("css selector", "form") == []
    assert browser.get_log("browser") == []


def test_a_browser_that_logs_in_can_cancel_and_retry(
    serve: Callable[..., str], database: Database, browser: Any
) -> None:
    Path("token").write_text(TOKEN)
    address = serve("--token-file", "token")

    def log_in(token: str) -> None:
        browser.get(f"http://{address}/login")
        browser.find_element("name", "token").send_keys(token, "\n")

    log_in("not-the-token-of-this")
    eventually(lambda: "not the token" in browser.page_source, "a refusal")
    browser.get(f"http://{address}/jobs/2")
    assert browser.find_elements("css selector", "main form") == []

    log_in(TOKEN)
    eventually(lambda: "log out" in browser.page_source, "the queue")
    browser.get(f"http://{address}/jobs/2")
    browser.find_element("id", "cancel-2").click()
    eventually(lambda: state_of(database, 2) == "cancelled", "a cancelled job")
    eventually(lambda: browser.find_elements("id", "retry-2"), "the page after it")[0].click()
    eventually(lambda: state_of(database, 2) == "queued", "a queued job")

"""The pages and the JSON API of `adapeff serve`, on a real database: who may read and change what, and escaping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from adapeff.service.settings import load_settings
from adapeff.service.store import job_creation, job_queries, jobs, results, steering
from adapeff.service.store.database import Database, now
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from adapeff.service.store.tables import Run
from adapeff.service.store.workers import WorkerRecord, report_alive
from tests.factories import claimer, queue_jobs, spec
from tests.integration.test_jobs import take
from tests.integration.test_page import Page
from tests.integration.test_report import store
from tests.integration.test_sweep_removal import submit

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from adapeff.cli.serve.access import COOKIE, LOOPBACK, Access
from adapeff.cli.serve.app import make_app
from adapeff.cli.serve.live import Live, progress_of

TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
Open = Callable[..., TestClient]


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    """A finished run in a sweep, and two queued jobs."""
    opened = Database(any_database_url.replace("postgresql:", "postgresql+psycopg:"))
    store(opened, "full", 0, 0.8, 100)
    submit(opened, "mine", 0)
    with opened.session() as session:
        job_creation.create_jobs(session, [spec(7), spec(8)], priority=5, max_failures=3)
    yield opened
    opened.close()


@pytest.fixture
def client(database: Database, tmp_path: Path) -> Open:
    """Opens the application for a browser that follows no redirects."""

    def start(token: str | None = None, hosts: tuple[str, ...] = LOOPBACK) -> TestClient:
        settings = load_settings({"state_dir": str(tmp_path / "state")}).values
        app = make_app(database, settings, Access(hosts, token))
        return TestClient(app, base_url="http://127.0.0.1:8642", follow_redirects=False)

    return start


def state_of(database: Database, job_id: int) -> str:
    with database.session(read_only=True) as session:
        return job_queries.get_job(session, job_id).state


def test_the_api_shows_what_the_database_has(client: Open) -> None:
    browser = client()

    assert browser.get("/api/status").json()["counts"] == {"queued": 2, "succeeded": 1}
    assert browser.get("/api/status?sweep=mine").json()["counts"] == {"succeeded": 1}
    assert browser.get("/api/sweeps").json()[0]["jobs"] == {"succeeded": 1}
    assert [(host["host"], host["running"], host["runs"]) for host in browser.get("/api/workers").json()] == [
        ("w1", 0, 1)
    ]
    (grid,) = browser.get("/api/report/mine?view=storage").json()
    assert grid["rows"][0]["method"] == "full"
    assert browser.get("/api/jobs/1").json()["state"] == "succeeded"
    assert browser.get("/api/jobs/2/log").json() == {"job": 2, "log": ""}
    described = browser.get("/api/openapi.json").json()["paths"]
    assert set(described["/api/jobs/{job_id}/{action}"]) == {"post"} and "/api/status" in described


def test_the_pages_are_whole_and_ask_only_this_server(client: Open) -> None:
    browser = client(TOKEN)
    for address in ("/", "/jobs/1", "/jobs/2", "/report/mine", "/report", "/report/mine?view=storage", "/login"):
        answer = browser.get(address)
        page = Page(answer.text)

        assert answer.status_code == 200 and page.open == [], address
        assert len(set(page.ids)) == len(page.ids), address
        assert all(link.startswith(("/", "#", "data:,")) and not link.startswith("//") for link in page.links)
        assert "default-src 'none'" in page.policy and "unsafe" not in page.policy
        assert answer.headers["x-frame-options"] == "DENY" and "access-control-allow-origin" not in answer.headers
    assert browser.get("/docs").status_code == browser.get("/redoc").status_code == 404


@pytest.mark.parametrize(
    ("address", "status", "says"),
    [
        ("/api/jobs/99", 404, "there is no job 99"),
        ("/api/jobs/99/log", 404, "there is no job 99"),
        ("/api/jobs/x", 422, "job_id"),
        ("/api/jobs/99999999999999999999", 422, "job_id"),
        ("/api/report/nope", 404, "there is no sweep 'nope'"),
        ("/api/report/mine?view=nope", 404, "there is no view 'nope'"),
        ("/jobs/99", 404, "there is no job 99"),
        ("/report/nope", 404, "there is no sweep"),
        ("/report/mine?view=nope", 404, "there is no view"),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_what_does_not_exist_is_said_in_a_line(client: Open, address: str, status: int, says: str) -> None:
    answer = client().get(address)

    assert answer.status_code == status
    assert says in (answer.json()["error"] if address.startswith("/api") else " ".join(Page(answer.text).words))


@pytest.mark.parametrize("address", ["/api/jobs/2/cancel", "/jobs/2/cancel"])
@pytest.mark.parametrize(
    ("token", "headers"),
    [
        (None, {}),
        (None, BEARER),
        (TOKEN, {}),
        (TOKEN, {"Authorization": "Bearer another-token-here"}),
        (TOKEN, {"Authorization": "Bearer "}),
        (TOKEN, {"Cookie": f"{COOKIE}="}),
        (TOKEN, {"Cookie": f"{COOKIE}={TOKEN}"}),
        (TOKEN, {**BEARER, "Origin": "http://evil.example"}),
        (TOKEN, {**BEARER, "Origin": "null"}),
    ],
)
def test_nothing_changes_without_the_token(
    client: Open, database: Database, address: str, token: str | None, headers: dict[str, str]
) -> None:
    assert client(token).post(address, headers=headers).status_code == 403
    assert state_of(database, 2) == "queued"


def test_the_token_cancels_and_retries(client: Open, database: Database) -> None:
    browser = client(TOKEN)

    assert browser.get("/api/jobs/2/cancel", headers=BEARER).status_code == 405  # a GET changes nothing
    assert state_of(database, 2) == "queued"
    assert browser.post("/api/jobs/2/cancel", headers=BEARER).json() == {"job": 2, "state": "cancelled"}
    assert state_of(database, 2) == "cancelled"
    again = browser.post("/api/jobs/2/cancel", headers=BEARER)
    assert again.status_code == 409 and "only queued and running jobs" in again.json()["error"]
    assert browser.post("/api/jobs/99/retry", headers=BEARER).status_code == 404
    assert browser.post("/api/jobs/2/retry", headers=BEARER).json() == {"job": 2, "state": "queued"}
    assert state_of(database, 2) == "queued"


def test_a_session_lasts_from_login_to_logout(client: Open, database: Database) -> None:
    browser = client(TOKEN)

    assert browser.post("/login", data={"token": "another-token-here"}).status_code == 403
    assert browser.post("/login", data={"token": "x" * 10_000}).status_code == 413
    answer = browser.post("/login", data={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303 and "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert browser.post("/jobs/2/cancel", headers={"Origin": "http://evil.example"}).status_code == 403
    assert browser.post("/jobs/2/cancel", headers={"Origin": "http://127.0.0.1:8642"}).status_code == 303
    assert state_of(database, 2) == "cancelled"
    session = browser.cookies[COOKIE]
    assert browser.post("/logout").status_code == 303
    assert browser.post("/jobs/2/retry", headers={"Cookie": f"{COOKIE}={session}"}).status_code == 403
    assert state_of(database, 2) == "cancelled"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "[bad", ""])
def test_other_names_are_refused(client: Open, host: str) -> None:
    answer = client(TOKEN).get("/api/status", headers={"Host": host, **BEARER})

    assert answer.status_code == 421 and "counts" not in answer.text


@pytest.mark.parametrize("host", ["localhost:8642", "LOCALHOST", "[::1]:8642", "127.0.0.1"])
def test_names_of_this_machine_are_answered(client: Open, host: str) -> None:
    assert client().get("/api/status", headers={"Host": host}).status_code == 200


def test_where_others_can_reach_the_server_only_the_login_is_open(client: Open) -> None:
    browser = client(TOKEN, hosts=())

    assert browser.get("/api/status").status_code == 401
    assert browser.get("/api/openapi.json").status_code == 401
    for page in ("/", "/jobs/1", "/report/mine", "/login/../"):
        answer = browser.get(page)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert browser.get("/login").status_code == 200
    assert browser.get("/api/status", headers=BEARER).status_code == 200
    browser.post("/login", data={"token": TOKEN})
    assert browser.get("/").status_code == 200


def test_hostile_text_stays_text(client: Open, database: Database, tmp_path: Path) -> None:
    hostile = "</pre><script>alert(1)</script>\x1b[31m"
    claim = claimer(database, owner="<img src=x>-1-a")(2)
    assert claim is not None
    with database.session() as session:
        run = session.get(Run, claim.run_id)
        assert run is not None
        run.folder = str(tmp_path)
    (tmp_path / "run.log").write_text(hostile)
    environment = {"device_name": hostile}
    with database.session() as session:
        results.finish(session, claim, RunOutcome("error", message=hostile), RunResults(environment=environment))

    for address in ("/", "/jobs/2"):
        text = client().get(address).text
        words = " ".join(Page(text).words)

        assert "<script>alert" not in text and "<img" not in text and "\x1b" not in text
        assert "<script>alert(1)</script>" in words


def test_a_report_is_built_again_once_a_job_has_changed(client: Open, database: Database) -> None:
    browser = client()
    before = browser.get("/report").text
    assert browser.get("/report").text == before

    store(database, "lora", 0, 0.7, 100)

    after = Page(browser.get("/report").text)
    assert "lora" in after.words and "lora" not in Page(before).words


def test_progress_and_removed_jobs_are_seen(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapeff.cli.serve.live.FRESH_SECONDS", 0.0)
    monkeypatch.setattr("adapeff.cli.serve.live.OVERVIEW_SECONDS", 0.0)
    live = Live(database)
    assert live.snapshot().counts == {"queued": 2, "succeeded": 1}
    claim = claimer(database)(2)
    assert claim is not None
    with database.session() as session:
        progress = {"step": 3, "steps": 9, "eta_s": 4.2}
        jobs.heartbeat(session, claim, lease_seconds=60, stage="train", progress=progress)
        began = now(session)

    seen = live.snapshot()
    assert seen.counts == {"queued": 1, "running": 1, "succeeded": 1} and seen.jobs[-1]["id"] in (1, 2)
    (running,) = [row for row in seen.jobs if row["state"] == "running"]
    assert (progress_of(running).text, progress_of(running).done) == ("step 3 of 9, 4 s left", 3)
    assert seen.hosts[0].running == 1 and seen.hosts[0].last_seen >= began - timedelta(seconds=1)

    with database.session() as session:
        session.delete(job_queries.get_job(session, 3))
    assert live.snapshot().counts == {"running": 1, "succeeded": 1}


def progress_cases() -> list[tuple[dict[str, Any], str]]:
    return [
        ({"state": "queued", "cause": "lost: no heartbeat"}, "lost: no heartbeat"),
        ({"state": "running", "progress": None, "stage": None}, "starting"),
        ({"state": "running", "progress": {}, "stage": "evaluate"}, "evaluate"),
        ({"state": "running", "progress": {"block": 2, "blocks": 5, "eta_s": 1}}, "block 2 of 5, 1 s left"),
        ({"state": "running", "progress": {"step": 1, "steps": 0}, "stage": "train"}, "train"),
    ]


@pytest.mark.parametrize(("row", "text"), progress_cases())
def test_progress_in_words(row: dict[str, Any], text: str) -> None:
    assert progress_of({"cause": "", "stage": "train", **row}).text == text


def test_metrics_are_those_of_the_queue(client: Open, database: Database) -> None:
    before = metrics(client())
    first, second = queue_jobs(database, 2, settings={"batch_size": 3})
    with database.session() as session:
        report_alive(session, WorkerRecord("h-1-a", "h", "cpu", ("cpu:0", "cpu:1"), "1"), next_within_seconds=60)
        steering.hold(session, [second])

    waiting = metrics(client())
    take(database, first, "h-1-a")
    running = metrics(client())

    def change(state: str, later: dict[tuple[str, ...], float]) -> float:
        return later["adapeff_jobs", state] - before["adapeff_jobs", state]

    assert (change("queued", waiting), change("held", waiting), change("running", waiting)) == (1, 1, 0)
    assert (change("queued", running), change("held", running), change("running", running)) == (0, 1, 1)
    assert before["adapeff_workers",] == 0 and waiting["adapeff_workers",] == 1
    assert waiting["adapeff_slots", "cpu", "h"] == running["adapeff_slots", "cpu", "h"] == 2
    assert (waiting["adapeff_slots_busy", "cpu", "h"], running["adapeff_slots_busy", "cpu", "h"]) == (0, 1)
    assert waiting["adapeff_queue_oldest_seconds",] >= 0


def metrics(browser: TestClient) -> dict[tuple[str, ...], float]:
    """The samples by name and labels, as Prometheus's own parser reads them."""
    answer = browser.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_need_the_token_where_others_can_reach_the_server(client: Open) -> None:
    browser = client(TOKEN, hosts=())

    assert browser.get("/metrics").status_code == 401
    assert browser.get("/metrics", headers=BEARER).status_code == 200

"""The report as a page: self-contained, escaped, and the same figures as elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from adapeff.cli.render.page.page import report_page
from adapeff.service.reporting.grids import grid_documents
from adapeff.service.reporting.page_data import MOST_RUNS, load_page
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.views import build_view
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.run_logs import log_tail
from adapeff.service.store.tables import Artifact, Run
from tests.integration.stored import store_profile
from tests.integration.test_claims import curves
from tests.integration.test_report import store

VOID = {"meta", "input", "br", "img", "link"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects ids, links, and the numbers of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.numbers: list[float] = []
        self.words: list[str] = []
        self.policy = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert not any(name.startswith("on") for name in given), f"{tag} has a handler"
        if tag not in VOID:
            self.open.append(tag)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(given["content"])
        assert "style" not in given, f"{tag} has a style, which the policy forbids"
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if given.get("href"):
            self.links.append(str(given["href"]))
        if given.get("data-number"):
            self.numbers.append(float(str(given["data-number"])))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def database() -> Iterator[Database]:
    """An empty migrated database in memory."""
    opened = Database("sqlite://")
    upgrade(opened)
    yield opened
    opened.close()


def page_of(database: Database) -> tuple[str, Page]:
    with database.session(read_only=True) as session:
        report = build_report(session)
        text = report_page(report, load_page(session, report), "test")
    return text, Page(text)


def test_page_is_whole_and_asks_nobody(database: Database) -> None:
    for method in ("full", "lora"):
        for seed in range(3):
            store(database, method, seed, 0.8 + seed / 100, 100, curves=curves(0.5, 0.8))
    store_profile(database, {"lora": (0.7, 0.68, 0.72)})

    text, page = page_of(database)

    assert page.open == [] and len(set(page.ids)) == len(page.ids)
    assert set(page.links) <= {"data:,", *(f"#{one}" for one in page.ids)}
    assert not re.search(r"(src|href|action)=.?(https?:|//)|@import|url\((?!#)", text)
    assert "default-src 'none'" in page.policy and "unsafe" not in page.policy
    assert {f"run-{at}" for at in range(1, 7)} <= set(page.ids)
    assert "learning rate" in page.words and text.count("<polyline") == 6


def test_each_line_leads_to_all_its_runs(database: Database) -> None:
    for method in ("full", "lora"):
        for seed in range(2):
            store(database, method, seed, 0.8 + seed / 100, 100)
    with database.session(read_only=True) as session:
        data = load_page(session, build_report(session))

    assert [group.title.partition(" · ")[0] for group in data.groups] == ["full", "lora"]
    assert [[run.run_id for run in group.runs] for group in data.groups] == [[1, 2], [3, 4]]
    assert data.screens[0].groups == tuple(group.key for group in data.groups)
    assert data.groups[1].runs[1].title == "seed 1 · job 4 · accuracy 81.0 %"
    about = data.views["quality"][0].about
    assert {method: data.group_of[about, method] for method in ("full", "lora")} == {"full": "1-1", "lora": "1-2"}


def test_a_run_is_shown_with_its_files_message_and_the_end_of_its_log(database: Database, tmp_path: Path) -> None:
    store(database, "full", 0, 0.8, 100)
    (tmp_path / "run.log").write_text("first line\n" * 500 + "loaded https://me:hunter2@hub.example/data\n")
    with database.session() as session:
        run = session.get(Run, 1)
        assert run is not None
        run.folder, run.message = str(tmp_path), "went well"
        session.add(
            Artifact(run_id=1, name="predictions", uri="/runs/1/predictions.jsonl", sha256="0" * 64, bytes=2048)
        )
    _, page = page_of(database)
    words = " ".join(page.words)

    assert "predictions, 2.0 KiB:" in words and "/runs/1/predictions.jsonl" in words and "went well" in words
    assert "loaded https://me:***@hub.example/data" in words and "hunter2" not in words
    assert 100 < words.count("first line") < 200  # only its end


def test_a_log_that_is_out_of_reach_is_left_out(database: Database, tmp_path: Path) -> None:
    store(database, "full", 0, 0.8, 100)

    assert log_tail(str(tmp_path / "elsewhere"), 100) == ""
    assert "end of the log" not in " ".join(page_of(database)[1].words)


def test_one_view_can_be_a_page(database: Database) -> None:
    for method in ("full", "lora"):
        store(database, method, 0, 0.8, 100)
    with database.session(read_only=True) as session:
        report = build_report(session)
        page = Page(report_page(report, load_page(session, report, views=["training"]), "test"))

    assert {"training", "runs"} <= set(page.ids) and not {"summary", "quality", "pictures"} & set(page.ids)


def test_figures_are_those_of_the_json(database: Database) -> None:
    for method in ("full", "lora"):
        for seed in range(3):
            store(database, method, seed, 0.8 + seed / 100, 100)
    with database.session(read_only=True) as session:
        report = build_report(session)
        numbers = set(Page(report_page(report, load_page(session, report), "test")).numbers)

    rows = [
        row
        for view in ("summary", "quality", "training")
        for d in grid_documents(build_view(report, view))
        for row in d["rows"]
    ]
    expected = {cell["value"] for row in rows for cell in row.values() if isinstance(cell, dict)}

    assert expected <= numbers and len(expected) > 5


def test_an_interval_may_have_one_bound(database: Database) -> None:
    """The claims say `at least` where a method never reached the quality it is compared at."""
    for method, scores in (("full", (0.5, 0.8)), ("lora", (0.5, 0.6))):
        for seed in range(3):
            store(database, method, seed, 0.8 + seed / 100, 100, curves=curves(*scores))
    store_profile(database, {"lora": (0.7, 0.68, 0.72)})

    text, page = page_of(database)

    assert page.open == [] and "never reached" in text


def test_hostile_names_are_text(database: Database) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m\"'&"
    for method in ("full", "lora"):
        store(
            database, method, 0, 0.8, 100, device_name=hostile, environment={"note": "</details><img src=x onerror=1>"}
        )

    text, page = page_of(database)

    assert page.open == [] and "<script>alert" not in text and "<img src=x" not in text and "\x1b" not in text
    assert any("<script>alert(1)</script>" in words for words in page.words)


def test_a_large_report_stays_small(database: Database) -> None:
    for seed in range(320):
        store(database, "full", seed, 0.8, 100)

    text, page = page_of(database)

    assert text.count('<details class="run"') == MOST_RUNS and "The details of 300 of 320 runs" in text
    assert sum(one.startswith("run-") for one in page.ids) == 320
    assert len(text) < 5_000_000

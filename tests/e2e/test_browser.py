"""The report's page in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapeff.cli.render.page.page import report_page
from adapeff.service.reporting.page_data import load_page
from adapeff.service.reporting.report import build_report
from adapeff.service.store.database import Database, upgrade
from tests.integration.test_report import store

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed (apt-get install chromium-driver)"
)


@pytest.fixture
def browser() -> Iterator[Any]:
    """A headless Chromium with its console and network recorded; its folder's path is short, as its sockets need."""
    options = webdriver.ChromeOptions()
    folder = tempfile.mkdtemp(dir="/tmp")
    for argument in ("--headless=new", "--disable-dev-shm-usage", f"--user-data-dir={folder}/data"):
        options.add_argument(argument)
    if os.getuid() == 0:
        options.add_argument("--no-sandbox")
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    environment = {**os.environ, "TMPDIR": folder}
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER, env=environment))
    yield opened
    opened.quit()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page of a report on three methods."""
    database = Database("sqlite://")
    upgrade(database)
    for method, score in (("full", 0.8), ("lora", 0.7), ("head", 0.6)):
        for seed in range(3):
            store(database, method, seed, score + seed / 1000, 100)
    with database.session(read_only=True) as session:
        report = build_report(session)
        text = report_page(report, load_page(session, report), "test")
    database.close()
    file = tmp_path / "report.html"
    file.write_text(text, encoding="utf-8")
    return file


def methods(browser: Any) -> list[str]:
    """The visible methods of the first table, from the top."""
    rows = browser.find_element("css selector", "table").find_elements("css selector", "tbody tr")
    return [row.find_element("css selector", "th").text for row in rows if row.is_displayed()]


def test_page_sorts_filters_and_leads_to_runs_without_any_request(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    quality = browser.find_elements("css selector", "th button")[1]
    assert methods(browser) == ["full", "lora", "head"]

    quality.click()
    assert methods(browser) == ["head", "lora", "full"]
    quality.send_keys(" ")  # the keyboard sorts too
    assert methods(browser) == ["full", "lora", "head"]
    assert quality.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    difference = browser.find_elements("css selector", "th button")[2]
    difference.click()
    assert methods(browser) == ["head", "lora", "full"]  # the reference has no difference to itself: last
    difference.click()
    assert methods(browser) == ["lora", "head", "full"]

    search = browser.find_element("id", "filter")
    search.send_keys("lora")
    assert methods(browser) == ["lora"]
    assert browser.find_element("id", "filtered").text.endswith(" rows")
    search.clear()
    search.send_keys(" ")

    browser.find_elements("css selector", "td[data-number] a")[0].click()
    group = browser.find_element("css selector", ".group:target")
    assert group.text.startswith("lora ·") and len(group.find_elements("css selector", "details.run")) == 3
    run = group.find_element("css selector", "details.run")
    assert run.get_attribute("open") and "learning rate" in run.text and run.is_displayed()

    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    own = {"file", "data", "chrome", "chrome-untrusted"}  # the browser's first tab loads pages of its own
    assert page.as_uri() in asked and {url.partition(":")[0] for url in asked} <= own


def test_page_fits_a_narrow_dark_screen(browser: Any, page: Path) -> None:
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())

    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert sum(int(part) for part in back.removeprefix("rgb(").removesuffix(")").split(",")) < 150


def test_page_prints_tables_without_controls(browser: Any, page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.get(page.as_uri())

    assert not browser.find_element("id", "filter").is_displayed()
    assert browser.find_element("css selector", "table").is_displayed()
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"

"""The views of mixtures and extensions print the same figures in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from adapeff.service import api
from adapeff.service.store.database import Database, upgrade
from tests.e2e.conftest import Adapeff
from tests.integration.mixture_runs import Interval, Runs, interval, mean, sweep_jobs

TASKS = ["offline_sentiment", "offline_nli"]
EXTENSION = "offline_sentiment + offline_nli, replay 0.1"


def exactly(value: Any) -> Any:
    """The value up to the rounding of its digits."""
    return pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Two tasks, their mixture and an extension of one by the other, in the database that commands use."""
    url = f"sqlite:///{tmp_path / 'own.db'}"
    monkeypatch.setenv("ADAPEFF_DATABASE_URL", url)
    monkeypatch.setenv("ADAPEFF_STATE_DIR", str(tmp_path / "state"))
    database = Database(url)
    upgrade(database)
    runs = Runs(database)
    extend = [{"base": TASKS[0], "add": [TASKS[1]], "replay": [0.1]}]
    runs.finish(sweep_jobs(tasks=TASKS, mixtures=[{"name": "two", "tasks": TASKS}], extend=extend, seeds=[0, 1]))
    database.close()
    return runs


def expected(runs: Runs, view: str) -> dict[str, float]:
    """Figures of the row of `full` on the first task together, or of the extension, by name."""
    if view == "multitask":
        found = _change(runs, _TOGETHER)
        return dict(zip(("difference", "difference_low", "difference_high"), found, strict=True))
    found = _change(runs, _FORGOTTEN)
    flops, retraining = (
        mean(runs[title, "full", seed].figures["train_flops"] for seed in (0, 1)) for title in (EXTENSION, "two")
    )
    return {"worst": found[0], "worst_low": found[1], "worst_high": found[2], "share_of_retraining": flops / retraining}


def _change(runs: Runs, places: tuple[tuple[str, str], tuple[str, str]]) -> Interval:
    ours, theirs = ([runs[title, "full", seed].scores[member, "en"] for seed in (0, 1)] for title, member in places)
    return interval(ours, theirs)


_TOGETHER = (("two", TASKS[0]), (TASKS[0], ""))
_FORGOTTEN = ((EXTENSION, TASKS[0]), (TASKS[0], ""))
_ROW = {"multitask": {"method": "full", "member": TASKS[0]}, "extend": {"way": "extend full, replay 0.1"}}


def printed(adapeff: Adapeff, view: str, form: str) -> str:
    done = adapeff("report", "--all", "--view", view, "--format", form)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.mark.parametrize("view", ["multitask", "extend"])
def test_csv_json_and_notebooks_hold_every_digit(adapeff: Adapeff, runs: Runs, view: str) -> None:
    of_csv = list(csv.DictReader(io.StringIO(printed(adapeff, view, "csv"))))
    documents = json.loads(printed(adapeff, view, "json"))
    of_json: list[dict[str, Any]] = [
        {
            f"{key}{end}": cell.get(part) if isinstance(cell, dict) else cell
            for key, cell in row.items()
            for end, part in _PARTS
        }
        for document in documents
        for row in document["rows"]
    ]
    notebook = api.records(api.load_report(), view)

    for rows in (of_csv, of_json, notebook):
        row: Any = next(row for row in rows if row.items() >= _ROW[view].items())
        for name, number in expected(runs, view).items():
            assert float(row[name]) == exactly(number), name
    assert "nan" not in printed(adapeff, view, "csv").lower()


_PARTS = (("", "value"), ("_low", "low"), ("_high", "high"))


class Numbers(HTMLParser):
    """All numbers of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[float] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if number := dict(attrs).get("data-number"):
            self.found.append(float(number))


@pytest.mark.parametrize("view", ["multitask", "extend"])
def test_the_page_and_tables_for_people_show_them(adapeff: Adapeff, runs: Runs, view: str) -> None:
    wanted = expected(runs, view)
    name = "difference" if view == "multitask" else "worst"
    half = 50 * (wanted[f"{name}_high"] - wanted[f"{name}_low"])
    text = f"{'−' if wanted[name] < 0 else '+'}{abs(100 * wanted[name]):.1f} ± {half:.1f}"

    assert wanted[name] in [exactly(number) for number in Numbers(printed(adapeff, view, "html")).found]
    for form in ("table", "markdown", "latex", "html"):
        found = printed(adapeff, view, form).replace("$-$", "−").replace("$\\pm$", "±")
        assert text in re.sub(r"\s+", " ", found), form

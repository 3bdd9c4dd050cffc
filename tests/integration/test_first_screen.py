"""The first screen as a terminal shows it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from random import Random

import pytest
from rich.console import Console

from adapeff.cli.render import grids as rendering
from adapeff.service.reporting.arrange import AS_BUILT
from adapeff.service.reporting.first_screen import first_screens
from adapeff.service.reporting.report import Report, build_report
from adapeff.service.store.database import Database, upgrade
from tests.integration.stored import store_profile
from tests.integration.test_report import store

MEANS = {"full": 0.95, "lora": 0.94, "ia3": 0.93, "pfeiffer": 0.91, "houlsby": 0.8, "head": 0.79, "bitfit": 0.52}


@pytest.fixture
def report() -> Iterator[Report]:
    """Eight methods on one task, three seeds: some vary much, one is at chance, and the reference was disturbed."""
    database, draw = Database("sqlite://"), Random(3)
    upgrade(database)
    means = {**MEANS, "prefix_tuning": 0.6}
    for method, mean in means.items():
        for seed in range(3):
            score = mean + draw.gauss(0, 0.02 if method in ("lora", "ia3", "pfeiffer") else 0.004)
            disturbed = {"train": "load"} if method == "full" else {}
            store(database, method, seed, score, 100, disturbed=disturbed)
    ratios = dict.fromkeys([method for method in means if method != "full"], (0.7, 0.68, 0.72))
    store_profile(database, ratios, ratios)
    with database.session(read_only=True) as session:
        yield build_report(session)
    database.close()


def printed(report: Report, width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the screen in a terminal of this width."""
    text = io.StringIO()
    monkeypatch.setattr(rendering, "stdout", lambda: Console(file=text, width=width, highlight=False))
    rendering.print_first_screen(report, AS_BUILT)
    return text.getvalue().strip().splitlines()


def test_eight_methods_fit_a_screen_of_25_lines(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(report, 100, monkeypatch)

    said_of_these_runs_only = [line for line in lines if "no scores by example" in line]
    assert len(lines) - len(said_of_these_runs_only) <= 25, "\n".join(lines)
    assert all(len(line.rstrip()) <= 100 for line in lines)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_figure_or_word_of_a_verdict_is_cut(report: Report, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    text = "\n".join(printed(report, width, monkeypatch))

    (screen,) = first_screens(report.decisions).screens
    for row in screen.grid.rows:
        assert all(value.text in text for value in row[1:-1])
        assert set(row[-1].text.split()) <= set(text.split())

"""Pictures of reports: what they contain, that nothing overlaps, and what is said when there is nothing to draw."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy
import pytest

from adapeff.cli.render.pictures.catalog import PICTURES, save_picture, svg_of
from adapeff.cli.render.pictures.style import style_of
from adapeff.service.errors import SpecError
from adapeff.service.reporting.report import Report, build_report
from adapeff.service.store.database import Database, upgrade
from tests.integration.stored import store_profile
from tests.integration.test_claims import curves
from tests.integration.test_report import store


@pytest.fixture
def database() -> Iterator[Database]:
    """An empty migrated database in memory."""
    opened = Database("sqlite://")
    upgrade(opened)
    yield opened
    opened.close()


def report_of(database: Database) -> Report:
    with database.session(read_only=True) as session:
        return build_report(session)


@pytest.fixture
def report(database: Database) -> Report:
    """Three methods on two tasks with two seeds each, their curves, and a profile."""
    for task in ("offline_sentiment", "offline_nli"):
        for method, score in (("full", 0.8), ("lora", 0.75), ("head", 0.6)):
            for seed in range(2):
                store(database, method, seed, score + seed / 100, 100, tasks=[task], curves=curves(0.5, score))
    store_profile(database, {"lora": (0.7, 0.68, 0.72), "head": (0.3, 0.28, 0.32)})
    return report_of(database)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_every_picture_is_saved_in_every_format(report: Report, tmp_path: Path, name: str, suffix: str) -> None:
    file = tmp_path / f"picture{suffix}"

    save_picture(report, name, file)

    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert file.read_bytes().startswith(start) and file.stat().st_size > 3000


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "steps"])
def test_pictures_name_every_method_and_compare_equal_when_drawn_again(report: Report, name: str) -> None:
    svg = svg_of(report, name)

    assert svg is not None and svg == svg_of(report, name)
    assert all(method in svg for method in ("full", "lora", "head") if not (name == "forest" and method == "full"))


def test_differences_are_drawn_where_they_are(report: Report) -> None:
    figure = PICTURES["forest"](report)
    axis: Any = figure.axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    places = [numpy.asarray(container.lines[0].get_xdata()).item() for container in axis.containers]
    drawn = dict(zip(labels, places, strict=True))

    expected = {line.method: 100 * line.difference.value for line in report.decisions[0].lines if line.difference}
    assert {label.partition(":")[0]: value for label, value in drawn.items()} == pytest.approx(expected)


def test_no_two_of_many_methods_look_alike() -> None:
    styles = style_of(f"method{at}" for at in range(40))

    assert len({(style["color"], style["marker"]) for style in styles.values()}) == 40
    assert style_of(["b", "a"]) == style_of(["a", "b"])


def ticks(axis: Any) -> list[Any]:
    """The labels of the ticks in view."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if low <= tick.get_loc() <= high]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pareto", "forest", "curves", "critical-difference"])
def test_labels_of_twenty_methods_do_not_overlap(database: Database, name: str) -> None:
    methods = ["full", *(f"lora[rank={rank}]" for rank in range(1, 20))]
    for task in ("offline_sentiment", "offline_nli"):
        for at, method in enumerate(methods):
            for seed in range(2):
                score = 0.8 - at / 100 + seed / 500
                store(database, method, seed, score, 100 + at, tasks=[task], curves=curves(0.5, score))
    figure = PICTURES[name](report_of(database))
    figure.canvas.draw()

    texts = [
        text
        for axis in figure.axes
        for text in (*axis.texts, *ticks(axis.xaxis), *ticks(axis.yaxis), axis.title, axis.xaxis.label)
        if text.get_text() and text.get_visible()
    ]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in texts]
    inside = figure.bbox.padded(2)

    assert not [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]
    assert not [text for text, box in boxes if box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("languages", "no task was tested in several languages"),
        ("latency", "no profile"),
        ("steps", "no profile"),
        ("curves", "validation curve"),
        ("critical-difference", "two tasks"),
        ("forest", "no method has a difference"),
    ],
)
def test_an_empty_picture_says_why(database: Database, name: str, said: str) -> None:
    store(database, "lora", 0, 0.8, 100, settings={"test_languages": ["en"]})
    report = report_of(database)

    with pytest.raises(SpecError, match=said):
        PICTURES[name](report)
    assert svg_of(report, name) is None

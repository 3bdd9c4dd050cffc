"""Pictures of stored runs: their points are those of the report, files compare equal, empty ones say why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
import typer
from typer.main import get_command

from adapeff.cli.commands.report import Parser
from adapeff.cli.output import check_plot, save_plot
from adapeff.cli.render.pictures.catalog import save_picture, svg_of
from adapeff.service.errors import SpecError
from adapeff.service.reporting import picture_data as data
from adapeff.service.reporting.picture_data_profiles import latency_panels, steps_panels
from adapeff.service.reporting.pictures import PICTURES
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
    """Three methods on two tasks with two seeds each, their curves, and a profile with the parts of a step."""
    for task in ("offline_sentiment", "offline_nli"):
        for method, score in (("full", 0.8), ("lora", 0.75), ("head", 0.6)):
            for seed in range(2):
                store(database, method, seed, score + seed / 100, 100, tasks=[task], curves=curves(0.5, score))
    store_profile(
        database,
        {"lora": (0.7, 0.68, 0.72), "head": (0.3, 0.28, 0.32)},
        parts={"forward": 0.1, "backward": 0.2, "optimizer": 0.05},
    )
    return report_of(database)


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_saved_and_compares_equal_when_drawn_again(report: Report, tmp_path: Path, name: str) -> None:
    first, again = tmp_path / "first.svg", tmp_path / "again.svg"
    save_picture(report, name, first)
    save_picture(report, name, again)

    text = first.read_text()
    assert first.read_bytes() == again.read_bytes()
    assert "<dc:date>" not in text
    words = set(re.sub(r"<[^>]*>", " ", text).split())  # text is stored as text
    assert {"lora", "head"} <= words


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".PDF", b"%PDF")])
def test_the_suffix_decides_the_format(report: Report, tmp_path: Path, suffix: str, start: bytes) -> None:
    for name in ("again", "first"):
        save_picture(report, "pareto", tmp_path / f"{name}{suffix}")

    first = (tmp_path / f"first{suffix}").read_bytes()
    assert first.startswith(start) and first == (tmp_path / f"again{suffix}").read_bytes()


def test_quality_stands_against_paired_times_where_a_profile_has_them(report: Report) -> None:
    panel, _ = data.pareto_panels(report)

    assert {
        point.method: (point.cost.value, point.cost.low, round(point.quality.value, 6)) for point in panel.points
    } == {
        "full": (1.0, None, 80.5),
        "lora": (0.7, 0.68, 75.5),
        "head": (0.3, 0.28, 60.5),
    }
    assert panel.cost_label == "time of a training step, x full (paired)"
    assert [cost for cost, _ in panel.front] == [0.3, 0.7, 1.0]


def test_times_that_are_not_paired_are_labelled_as_such(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "lora", 0, 0.7, 50)

    (panel,) = data.pareto_panels(report_of(database))

    assert [(point.method, point.cost.value) for point in panel.points] == [("full", 100), ("lora", 50)]
    assert "unpaired" in panel.cost_label


def test_differences_and_margin_are_in_points(report: Report) -> None:
    panel, _ = data.forest_panels(report)

    found = {line.method: line.difference for line in report.decisions[0].lines if line.difference}
    assert {row.method: row.difference.value for row in panel.rows} == {
        method: pytest.approx(100 * difference.value) for method, difference in found.items()
    }
    assert panel.margin == 1.0 and "1 point" in panel.caption


def test_curves_are_means_over_the_seeds_at_the_same_steps(database: Database) -> None:
    for seed, last in enumerate((0.7, 0.8)):
        points: dict[str, Any] = {
            "validation_accuracy": [[1, 0.5], [2, last]],
            "train_compute_s": [[1, 10.0 + seed], [2, 20.0 + seed]],
            "train_samples": [[1, 100], [2, 200]],
        }
        store(database, "full", seed, 0.8, 100, curves=points)

    (panel,) = data.curves_panels(report_of(database))  # FLOPs were not counted

    (curve,) = panel.curves
    assert numpy.array(curve.mean) == pytest.approx(numpy.array([[10.5, 50.0], [20.5, 75.0]]))
    assert curve.seeds[1] == ((11.0, 50.0), (21.0, 80.0))
    words, score = panel.targets[0]
    assert words == "90%" and score == pytest.approx(67.5)


def test_gaps_to_the_source_language_are_negative_where_the_score_is_lower(report: Report) -> None:
    panel, _ = data.languages_panels(report)

    assert panel.languages == ("en", "de")
    assert panel.scores["lora", "de"].gap == pytest.approx(51 - 75.5)
    assert panel.scores["lora", "en"].gap is None
    assert panel.scores["lora", "de"].is_at_chance and not panel.scores["lora", "en"].is_at_chance


def test_latency_and_steps_come_from_the_profile(report: Report) -> None:
    times, ratios = latency_panels(report)
    (steps,) = steps_panels(report)

    assert {line.method: line.points[0][1].value for line in times.lines} == {"full": 1000, "lora": 1000, "head": 1000}
    assert {line.method: line.points[0][1].low for line in ratios.lines} == {"lora": 0.68, "head": 0.28}
    assert {bar.method: bar.ratio for bar in steps.bars} == {
        "full": "",
        "lora": "0.70x [0.68, 0.72]",
        "head": "0.30x [0.28, 0.32]",
    }
    assert steps.bars[0].parts == (("forward", 100), ("backward", 200), ("optimizer", 50))


def test_latency_of_runs_stands_in_where_nothing_was_profiled(database: Database) -> None:
    store(database, "lora", 0, 0.8, 100)

    single, large = latency_panels(report_of(database))

    assert "unpaired" in single.caption and "Batch 32" in large.caption
    assert single.lines[0].points == ((64, data.Estimate(20.0)),)


def test_svg_of_a_picture_leads_to_its_runs(report: Report) -> None:
    svg = svg_of(report, "pareto")

    assert svg is not None and svg.startswith("<svg") and " style=" not in svg
    linked = set(map(int, re.findall(r'href="#run-(\d+)"', svg)))
    assert linked == {line.row.run_ids[0] for decision in report.decisions for line in decision.lines}
    assert "<title>lora: 75.5 at 0.7</title>" in svg


def test_pictures_drawn_in_several_threads_are_the_same(report: Report) -> None:
    names = ["forest", "steps", "languages"] * 2
    with ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(lambda name: svg_of(report, name), names))

    assert drawn == [svg_of(report, name) for name in names]


def test_all_pictures_go_to_a_folder(database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "lora", 0, 0.7, 50)
    folder = tmp_path / "pictures"
    folder.mkdir()
    check_plot(folder, "all")

    save_plot(report_of(database), "all", folder)

    assert {path.name for path in folder.iterdir()} == {"pareto.svg", "forest.svg", "languages.svg", "latency.svg"}
    assert "the picture 'steps' would be empty: no profile" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["--plot", "x.png"], ("pareto", Path("x.png"))),
        (["--plot", "x.png", "demo"], ("pareto", Path("x.png"))),
        (["--plot", "forest", "x.png"], ("forest", Path("x.png"))),
        (["--plot", "all", "."], ("all", Path())),
    ],
    ids=str,
)
def test_a_file_alone_is_the_pareto_picture(typed: list[str], read: tuple[str, Path]) -> None:
    app = typer.Typer()

    @app.command(cls=Parser)
    def report(sweep: str = typer.Argument(""), plot: tuple[str, Path] = typer.Option(("", Path()))) -> None:
        assert plot == read

    get_command(app).main(typed, standalone_mode=False)


def test_an_unknown_picture_is_refused_with_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no picture 'forst'; did you mean 'forest'"):
        check_plot(tmp_path / "x.png", "forst")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("languages", "no task was tested in several languages"),
        ("steps", "no profile"),
        ("curves", "validation curve"),
        ("critical-difference", "two tasks"),
        ("forest", "no method has a difference"),
    ],
)
def test_an_empty_picture_says_why(database: Database, tmp_path: Path, name: str, said: str) -> None:
    store(database, "lora", 0, 0.8, 100, settings={"test_languages": ["en"]})
    report = report_of(database)

    with pytest.raises(SpecError, match=said):
        save_picture(report, name, tmp_path / "x.svg")
    assert svg_of(report, name) is None

"""Other shapes of a report's tables: `report --group-by` and `--sort`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.errors import SpecError
from adapeff.service.reporting.arrange import Arrangement, Order, group_grids, sort_grids
from adapeff.service.reporting.first_screen import first_screens
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, grid_rows, number, ratio, words
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.views import build_view
from adapeff.service.store.database import Database, upgrade
from tests.integration.stored import store_profile
from tests.integration.test_report import store


@pytest.fixture
def database() -> Iterator[Database]:
    """Two tasks and three methods; a profile of all but `head`."""
    opened = Database("sqlite://")
    upgrade(opened)
    for task, scores in (
        ("offline_sentiment", {"full": 0.8, "lora": 0.7, "head": 0.6}),
        ("offline_nli", {"full": 0.5, "lora": 0.9, "head": 0.4}),
    ):
        for method, score in scores.items():
            for seed in range(2):
                store(opened, method, seed, score + seed / 1000, 100, tasks=[task])
    store_profile(opened, {"lora": (0.5, 0.4, 0.6)})
    yield opened
    opened.close()


def shape(database: Database, view: str = "summary", **options: str) -> list[Grid]:
    """The grids of a view in another shape."""
    arrangement = Arrangement.parse(options.get("group_by"), options.get("sort"))
    with database.session(read_only=True) as session:
        report = build_report(session)
    if view == "summary" and arrangement.group_by:
        return arrangement.apply(screen.noted_grid() for screen in first_screens(report.decisions).screens)
    return arrangement.apply(build_view(report, view))


def column(grid: Grid, key: str) -> list[str]:
    """The texts of a column."""
    at = [heading.key for heading in grid.headings].index(key)
    return [row[at].text for row in grid.rows]


def test_group_by_method_makes_a_table_for_each_with_a_row_per_task(database: Database) -> None:
    grids = shape(database, group_by="method")

    assert [dict(grid.about)["method"] for grid in grids] == ["full", "lora", "head"]
    assert sorted(column(grids[1], "task")) == ["offline_nli", "offline_sentiment"]
    assert "method" not in [heading.key for heading in grids[1].headings]
    assert {dict(grid.about)["model"] for grid in grids} == {"org/model"}


def test_group_by_model_puts_all_tasks_into_one_table(database: Database) -> None:
    (grid,) = shape(database, group_by="model")

    assert sorted(zip(column(grid, "task"), column(grid, "method"), strict=True)) == [
        (task, method) for task in ("offline_nli", "offline_sentiment") for method in ("full", "head", "lora")
    ]


@pytest.mark.parametrize("view", ["summary", "quality", "training", "inference", "memory", "storage", "pareto"])
@pytest.mark.parametrize("by", ["model", "method", "task", "device", "task,method"])
def test_grouping_keeps_every_row_and_figure(database: Database, view: str, by: str) -> None:
    plain = [row for row in grid_rows(shape(database, view)) if row.get("method")]
    keys = {key for row in plain for key in row} - {"table", "device"}

    grouped = grid_rows(shape(database, view, group_by=by))

    def facts(rows: list[dict[str, object]]) -> list[str]:
        short = [{**row, "model": str(row.get("model")).split("/")[-1]} for row in rows]
        return sorted(json.dumps({key: row.get(key) for key in sorted(keys)}) for row in short)

    assert facts(grouped) == facts(plain)


def test_notes_stand_once_after_the_last_table(database: Database) -> None:
    *first, last = shape(database, group_by="method")

    assert not any(grid.notes for grid in first)
    assert len(last.notes) == len(set(last.notes)) > 0


def test_headings_that_mean_something_else_by_task_are_explained() -> None:
    grids = [
        Grid(
            task,
            (Heading("method", "method"), Heading(f"{metric}\nen, %", "quality")),
            ((words("full"), number(0.5, "%")),),
            about=(("task", task),),
        )
        for task, metric in (("a", "accuracy"), ("b", "F1"))
    ]

    (grid,) = group_grids(grids, ["method"])

    assert [heading.text for heading in grid.headings] == ["task", "quality"]
    assert grid.notes == ("quality: accuracy en, % (a); F1 en, % (b).",)


def test_ratios_sort_with_the_reference_as_one_and_times_without_a_pair_last(database: Database) -> None:
    (grid,) = shape(database, group_by="model", sort="train_time")

    assert column(grid, "method") == ["lora", "lora", "full", "full", "head", "head"]


def test_sort_by_heading_or_key_in_both_directions(database: Database) -> None:
    for name in ("quality", "accuracy"):
        lowest, highest = (shape(database, sort=f"{sign}{name}") for sign in ("", "-"))
        by_title = {grid.title: column(grid, "method") for grid in lowest}
        assert sorted(by_title.values()) == [["head", "full", "lora"], ["head", "lora", "full"]]
        assert {grid.title: column(grid, "method")[::-1] for grid in highest} == by_title


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), max_size=12), st.booleans())
def test_sorting_orders_numbers_and_keeps_the_rest_at_the_end(values: list[float | None], descending: bool) -> None:
    rows = tuple((MISSING if value is None else Value("v", value), words(str(at))) for at, value in enumerate(values))
    grid = Grid("g", (Heading("v", "v"), Heading("at", "at")), rows)

    (found,) = sort_grids([grid], Order("v", descending))

    numbers = [row[0].number for row in found.rows]
    given_numbers = [value for value in values if value is not None]
    assert numbers == sorted(given_numbers, reverse=descending) + [None] * (len(values) - len(given_numbers))
    assert sorted(row[1].text for row in found.rows) == sorted(row[1].text for row in rows)


def test_text_sorts_without_regard_to_case() -> None:
    grid = Grid("g", (Heading("a", "a"),), ((words("b"),), (words("A"),), (words("C"),)))

    (found,) = sort_grids([grid], Order("a"))

    assert [row[0].text for row in found.rows] == ["A", "b", "C"]


def test_unpaired_time_among_ratios_is_no_ratio() -> None:
    rows = ((ratio(1.2),), (number(9.0, "s", mark="unpaired"),), (number(9.0, "s"),), (ratio(0.8),))

    (found,) = sort_grids([Grid("g", (Heading("t", "t"),), rows)], Order("t"))

    assert [row[0].text for row in found.rows] == ["0.80x", "9.00 s", "1.20x", "9.00 s"]
    assert found.rows[-1][0].mark == "unpaired"


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("group_by", "tasks", "unknown 'tasks'; did you mean 'task'?"),
        ("group_by", "", "unknown ''"),
        ("group_by", "method,", "unknown ''"),
        ("sort", "-", "expected a column"),
        ("sort", " ", "expected a column"),
        ("sort", "qualty", "'qualty', which no table shown has; did you mean 'quality'?"),
    ],
)
def test_unknown_names_are_refused(database: Database, option: str, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("?", r"\?")):
        shape(database, **{option: text})


def test_a_dimension_that_a_view_lacks_is_refused(database: Database) -> None:
    with pytest.raises(SpecError, match="--group-by is 'task', which this view does not tell apart"):
        shape(database, "tasks", group_by="task")

"""The ways to add a task: figures of hand-made runs, computed a second time with numpy and scipy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from adapeff.cli.output import print_view
from adapeff.service.reporting.first_screen import first_screens
from adapeff.service.reporting.grids import grid_documents, grid_rows
from adapeff.service.reporting.index import build_index
from adapeff.service.reporting.report import Options, Report, build_report
from adapeff.service.reporting.selection import Selection
from adapeff.service.reporting.views import build_view
from adapeff.service.specs.extensions import on_base
from adapeff.service.specs.job import JobSpec
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.tables import Run
from tests.integration.mixture_runs import BODY, Made, Runs, interval, mean, sweep_jobs

TASKS = ("offline_sentiment", "offline_nli", "offline_ner")
LEAVE_ONE_OUT = {"leave_one_out": "three", "methods": ["full"], "replay": [0, 0.1]}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Cell = Any
"""A cell of a grid as JSON: text, None, or a number with its interval."""


@pytest.fixture
def runs() -> Iterator[Runs]:
    """An empty database in memory."""
    opened = Database("sqlite://")
    upgrade(opened)
    yield Runs(opened)
    opened.close()


@pytest.fixture(params=[(0,), (0, 1)], ids=["one seed", "two seeds"])
def grown(request: pytest.FixtureRequest, any_database_url: str) -> Iterator[Runs]:
    """Three tasks, each of them added to the others in every way."""
    opened = Database(any_database_url)
    runs = Runs(opened)
    runs.finish(every_way(seeds=list(request.param)))
    yield runs
    opened.close()


def every_way(**changes: Any) -> list[JobSpec]:
    given = {
        "tasks": list(TASKS),
        "mixtures": [{"name": "three", "tasks": list(TASKS)}],
        "methods": ["full", "houlsby"],
        "extend": [
            {**LEAVE_ONE_OUT, "fusion": "houlsby"},
            {**LEAVE_ONE_OUT, "replay": ["sized"], "old_heads": "frozen"},
        ],
    }
    return sweep_jobs(**{**given, **changes})


def report_of(runs: Runs, *where: str) -> Report:
    with runs.database.session(read_only=True) as session:
        return build_report(session, options=Options(selection=Selection.parse(where)))


def rows_of(runs: Runs, aspect: str, *where: str) -> dict[Any, dict[str, Cell]]:
    """New task where the grid has it, and way -> the cells of the row."""
    grids = [grid for grid in build_view(report_of(runs, *where), "extend") if grid.aspect == f"extend: {aspect}"]
    rows = [row for document in grid_documents(grids) for row in document["rows"]]
    found = {(row["new"], row["way"]) if "new" in row else row["way"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def seeds_of(runs: Runs) -> list[int]:
    return sorted({made.spec.seed for made in runs.made})


def bounds(cell: Cell) -> tuple[float, float, float]:
    return cell["value"], cell["low"], cell["high"]


def value(cell: Cell) -> float | None:
    return None if cell is None else cell["value"]


WAYS = {
    "one more full": "alone",
    "one more houlsby": "alone",
    "adapterfusion of houlsby": "fusion",
    "extend full, no replay": "extension",
    "extend full, replay 0.1": "extension",
    "extend full, replay sized, frozen heads": "extension",
    "retrain full": "retraining",
    "retrain houlsby": "retraining",
}


def trained(runs: Runs, way: str, new: str, seed: int) -> list[Made]:
    """The runs that a way takes for an addition, the last of which is what it results in."""
    base = f"three without {new}"
    if way.startswith("one more "):
        return [runs[new, way.removeprefix("one more "), seed]]
    if way.startswith("retrain "):
        return [runs["three", way.removeprefix("retrain "), seed]]
    if way.startswith("adapterfusion"):
        fusions = [made for made in runs.made if made.spec.method.name == "adapterfusion"]
        (fusion,) = [each for each in fusions if each.title == new and each.spec.seed == seed]
        return [runs[new, "houlsby", seed], fusion]
    ending = way.removeprefix("extend full").replace(", no replay", "")
    return [runs[f"{base} + {new}{ending}", "full", seed]]


def expected_forgetting(runs: Runs, way: str, new: str, language: str = "en") -> dict[str, tuple[float, float, float]]:
    """Old task -> change with interval."""
    seeds = seeds_of(runs)
    return {
        old: interval(
            [trained(runs, way, new, seed)[-1].scores[old, language] for seed in seeds],
            [before(runs, new, old, seed, language) for seed in seeds],
            goes_on=way.startswith("extend"),
        )
        for old in TASKS
        if old != new
    }


def before(runs: Runs, new: str, old: str, seed: int, language: str) -> Any:
    return runs[f"three without {new}", "full", seed].scores[old, language]


def test_every_way_is_there_for_every_addition(grown: Runs) -> None:
    each, over = rows_of(grown, "each addition"), rows_of(grown, "ways to add a task")

    assert list(over) == list(WAYS) and set(each) == {(task, way) for task in TASKS for way in WAYS}
    assert {row["additions"]["value"] for row in over.values()} == {3}
    assert {row["seeds"]["value"] for row in each.values()} == {len(seeds_of(grown))}


def test_costs_are_of_what_has_to_be_trained(grown: Runs) -> None:
    each, over, seeds = rows_of(grown, "each addition"), rows_of(grown, "ways to add a task"), seeds_of(grown)

    for name, key in (("train_flops", "flops"), ("train_compute_s", "seconds")):
        retraining = mean(grown["three", "full", seed].figures[name] for seed in seeds)
        for way in WAYS:
            costs = {
                new: sum(mean(trained(grown, way, new, seed)[at].figures[name] for seed in seeds) for at in range(part))
                for new in TASKS
                for part in [len(trained(grown, way, new, seeds[0]))]
            }
            assert {new: value(each[new, way][key]) for new in TASKS} == pytest.approx(costs)
            assert value(over[way][key]) == pytest.approx(mean(costs.values()))
            if key == "flops":
                shares = [cost / retraining for cost in costs.values()]
                assert value(over[way]["share_of_retraining"]) == pytest.approx(mean(shares))


def test_the_new_task_is_compared_with_full_on_it_alone(grown: Runs) -> None:
    each, over, seeds = rows_of(grown, "each addition"), rows_of(grown, "ways to add a task"), seeds_of(grown)

    for way, kind in WAYS.items():
        changes = {}
        for new in TASKS:
            member = new if kind in ("extension", "retraining") else ""
            ours = [trained(grown, way, new, seed)[-1].scores[member, "en"] for seed in seeds]
            full = [grown[new, "full", seed].scores["", "en"] for seed in seeds]
            assert value(each[new, way]["score"]) == pytest.approx(mean(one.mean() for one in ours))
            if way != "one more full":
                changes[new] = interval(ours, full)
                assert bounds(each[new, way]["difference"]) == pytest.approx(changes[new])
        if changes:
            found = [change[0] for change in changes.values()]
            assert bounds(over[way]["difference"]) == pytest.approx((mean(found), min(found), max(found)))
        else:
            assert over[way]["difference"] is None


def test_forgetting_is_that_of_the_models_it_started_from(grown: Runs) -> None:
    each, over, old = (
        rows_of(grown, aspect) for aspect in ("each addition", "ways to add a task", "forgetting of each old task")
    )

    for way in [way for way in WAYS if way.startswith("extend")] + ["retrain full"]:
        means: list[float] = []
        every: list[tuple[float, float, float]] = []
        for new in TASKS:
            expected = expected_forgetting(grown, way, new)
            for task, change in expected.items():
                assert bounds(old[new, way][task]) == pytest.approx(change)
            assert old[new, way][new] is None
            worst = min(expected, key=lambda task: expected[task][0])
            halves = [(high - low) / 2 for _, low, high in expected.values()]
            half = math.hypot(*halves) / len(halves) if len(seeds_of(grown)) == 1 else mean(halves)
            middle = mean(one[0] for one in expected.values())
            assert bounds(each[new, way]["forgetting"]) == pytest.approx((middle, middle - half, middle + half))
            assert bounds(each[new, way]["worst"]) == pytest.approx(expected[worst])
            assert each[new, way]["worst_task"] == worst
            means.append(mean(one[0] for one in expected.values()))
            every += expected.values()
        assert bounds(over[way]["forgetting"]) == pytest.approx((mean(means), min(means), max(means)))
        assert value(over[way]["worst"]) == pytest.approx(min(change for change, _, _ in every))


def test_where_the_old_models_stay_nothing_is_forgotten(grown: Runs) -> None:
    each, over = rows_of(grown, "each addition"), rows_of(grown, "ways to add a task")

    for way in ("one more full", "one more houlsby", "adapterfusion of houlsby"):
        assert [value(over[way][key]) for key in ("forgetting", "worst")] == [0, 0]
        assert {value(each[new, way]["forgetting"]) for new in TASKS} == {0}
    assert not {way for _, way in rows_of(grown, "forgetting of each old task")} & {"one more full", "one more houlsby"}


def test_a_retraining_without_the_mixture_of_the_old_tasks_says_nothing_of_forgetting(grown: Runs) -> None:
    """Only `full` has the mixtures of two tasks."""
    each, over = rows_of(grown, "each addition"), rows_of(grown, "ways to add a task")

    assert over["retrain houlsby"]["forgetting"] is None and over["retrain houlsby"]["worst"] is None
    assert {each[new, "retrain houlsby"]["worst_task"] for new in TASKS} == {None}


def test_what_is_stored_has_the_shared_weights_once(grown: Runs) -> None:
    over, seeds = rows_of(grown, "ways to add a task"), seeds_of(grown)

    def kept(title: str, method: str) -> float:
        return mean(grown[title, method, seed].figures["stored_bytes"] for seed in seeds)

    def both(way: str) -> Any:
        return value(over[way]["stored_before"]), value(over[way]["stored_after"])

    for method, shared in (("full", 0), ("houlsby", 4 * BODY)):
        all_three = shared + sum(kept(task, method) for task in TASKS)
        old = mean(all_three - kept(new, method) for new in TASKS)
        assert both(f"one more {method}") == pytest.approx((old, all_three))
    fused = mean(
        trained(grown, "adapterfusion of houlsby", new, seed)[-1].figures["stored_bytes"]
        for new in TASKS
        for seed in seeds
    )
    assert both("adapterfusion of houlsby") == pytest.approx((old, all_three + fused))
    extended = mean(
        trained(grown, "extend full, no replay", new, seed)[-1].figures["stored_bytes"]
        for new in TASKS
        for seed in seeds
    )
    bases = mean(kept(f"three without {new}", "full") for new in TASKS)
    assert both("extend full, no replay") == pytest.approx((bases, extended))
    assert both("retrain full") == pytest.approx((bases, kept("three", "full")))
    assert both("retrain houlsby") == (None, pytest.approx(kept("three", "houlsby") + 4 * BODY))


FORGOTTEN = {"": -0.2, "low": -0.3, "high": -0.1}


def forgetting(task: str) -> list[dict[str, Any]]:
    """What an extension measures of an old task by a bootstrap over its own predictions."""
    return [
        {
            "event": "measurement",
            "name": "forgetting",
            "value": change,
            "unit": "1",
            "statistic": statistic,
            "split": "test",
            "language": "en",
            "task": task,
        }
        for statistic, change in FORGOTTEN.items()
    ]


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_without_its_base_an_extension_says_itself_what_it_forgot(runs: Runs, seeds: list[int]) -> None:
    jobs = every_way(tasks=[], methods=["full"], seeds=seeds, extend=[LEAVE_ONE_OUT])
    runs.finish(job for job in jobs if not job.base)
    runs.finish((job for job in jobs if job.base), more=[event for task in TASKS for event in forgetting(task)])
    extensions = "task=three without * + *"

    old = rows_of(runs, "forgetting of each old task", extensions)[TASKS[0], "extend full, no replay"]
    over = rows_of(runs, "ways to add a task", extensions)["extend full, no replay"]

    for task in TASKS[1:]:
        assert value(old[task]) == pytest.approx(FORGOTTEN[""])
        assert ("low" in old[task]) == (len(seeds) == 1)
    assert over["stored_before"] is None and over["difference"] is None and over["share_of_retraining"] is None


def test_forgetting_in_other_languages_has_rows_of_its_own(grown: Runs) -> None:
    grids = build_view(report_of(grown), "extend")
    (document,) = grid_documents([grid for grid in grids if grid.aspect == "extend: forgetting in other languages"])
    ways = [way for way in WAYS if way.startswith("extend")] + ["retrain full"]

    found = {(row["new"], row["way"], row["member"]): bounds(row["de"]) for row in document["rows"]}

    assert found == {
        (new, way, old): pytest.approx(change)
        for new in TASKS
        for way in ways
        for old, change in expected_forgetting(grown, way, new, "de").items()
    }


def test_an_extension_of_a_job_shows_the_tasks_of_that_job(runs: Runs) -> None:
    """`base: 1` names a job, which only the database knows."""
    (base,) = sweep_jobs(tasks=[], mixtures=[{"name": "two", "tasks": list(TASKS[:2])}])
    base = base.keeping_weights()
    runs.finish([base])
    jobs = sweep_jobs(tasks=[TASKS[2]], extend=[{"base": base.job_hash[:12], "add": [TASKS[2]]}])
    extension = next(job for job in jobs if job.base)
    extension = on_base(extension.model_copy(update={"base": base.job_hash, "sources": (base.job_hash,)}), base)
    made = runs.finish([*(job for job in jobs if not job.base), extension])[-1]

    old = rows_of(runs, "forgetting of each old task")[TASKS[2], "extend full, no replay"]

    for task in TASKS[:2]:
        expected = interval([made.scores[task, "en"]], [runs["two", "full", 0].scores[task, "en"]])
        assert bounds(old[task]) == pytest.approx(expected)


def test_a_single_task_can_be_the_base(runs: Runs) -> None:
    two = {"name": "two", "tasks": list(TASKS[:2])}
    extend = [{"base": TASKS[0], "add": [TASKS[1]], "replay": [0.5]}]
    runs.finish(sweep_jobs(tasks=list(TASKS[:2]), mixtures=[two], extend=extend, seeds=[0, 1]))

    found = report_of(runs)
    each, over = rows_of(runs, "each addition"), rows_of(runs, "ways to add a task")

    extended = [runs[f"{TASKS[0]} + {TASKS[1]}, replay 0.5", "full", seed].scores[TASKS[0], "en"] for seed in (0, 1)]
    alone = [runs[TASKS[0], "full", seed].scores["", "en"] for seed in (0, 1)]
    assert list(over) == ["one more full", "extend full, replay 0.5", "retrain full"]
    expected = interval(extended, alone, goes_on=True)
    assert bounds(each[TASKS[1], "extend full, replay 0.5"]["worst"]) == pytest.approx(expected)
    assert value(over["extend full, replay 0.5"]["stored_before"]) == pytest.approx(
        mean(runs[TASKS[0], "full", seed].figures["stored_bytes"] for seed in (0, 1))
    )
    assert {table.task for table in found.tables} == {TASKS[0], TASKS[1], "two"} and found.apart == 2


def test_two_tasks_added_at_once_have_no_single_model_more(runs: Runs) -> None:
    runs.finish(sweep_jobs(tasks=list(TASKS), extend=[{"base": TASKS[0], "add": list(TASKS[1:])}]))

    assert list(rows_of(runs, "each addition")) == [(" + ".join(TASKS[1:]), "extend full, no replay")]


def test_the_newest_repeats_count_and_still_belong_together(runs: Runs) -> None:
    runs.finish(every_way())
    first = rows_of(runs, "each addition")
    runs.finish(made.spec.model_copy(update={"repeat": 1}) for made in list(runs.made))

    second = rows_of(runs, "each addition")

    assert set(second) == set(first)
    assert all(second[key]["flops"] != first[key]["flops"] for key in first)
    fusion = second[TASKS[0], "adapterfusion of houlsby"]
    new = [made.figures["train_flops"] for made in trained_last(runs, TASKS[0])]
    assert value(fusion["flops"]) == pytest.approx(sum(new))


def trained_last(runs: Runs, new: str) -> list[Made]:
    fusions = [made for made in runs.made if made.spec.method.name == "adapterfusion" and made.title == new]
    return [runs[new, "houlsby", 0], fusions[-1]]


def test_runs_under_other_conditions_are_other_additions(runs: Runs) -> None:
    """Extensions and retrainings on fewer examples, and a mixture drawn in another way."""
    settings = {"test_languages": ["en", "de"], "train_size": 100}
    only = {"methods": ["full"], "extend": [{**LEAVE_ONE_OUT, "replay": [0]}]}
    runs.finish(every_way(**only))
    first = rows_of(runs, "each addition")
    runs.finish(sweep_jobs(tasks=[], mixtures=[{"name": "even", "tasks": list(TASKS), "sampling": "equal"}]))
    assert rows_of(runs, "each addition") == first
    runs.finish(every_way(**only, settings=settings))

    found = report_of(runs).additions

    assert len(found) == 2 * len(first)
    flops = {each.cost.flops for each in found if each.way.kind == "retraining"}
    assert flops == {made.figures["train_flops"] for made in runs.made if made.title == "three"}


def test_learning_rates_are_told_apart(runs: Runs) -> None:
    rates = {"test_languages": ["en", "de"], "learning_rate": [1e-5, 1e-4]}
    runs.finish(every_way(methods=["full"], settings=rates, extend=[{**LEAVE_ONE_OUT, "replay": [0]}]))

    over = rows_of(runs, "ways to add a task")

    assert [*over][1:] == [
        *("extend full lr 1e-05, no replay", "extend full lr 0.0001, no replay"),
        *("retrain full lr 1e-05", "retrain full lr 0.0001"),
    ]
    assert {row["additions"]["value"] for row in over.values()} == {3}


@pytest.mark.parametrize(
    "without",
    [(), ("train_flops",), ("stored_bytes",), ("total_parameters",), ("accuracy", "entity_f1"), ("train_compute_s",)],
    ids=str,
)
@pytest.mark.parametrize("examples", [True, False], ids=["examples", "no examples"])
def test_what_is_not_known_is_missing_and_no_figure_is_nan(runs: Runs, without: Sequence[str], examples: bool) -> None:
    runs.finish(every_way(), without=without, examples=examples)

    found = report_of(runs)

    for view in ("extend", "multitask", "claims"):
        grids = build_view(found, view)
        numbers = [cell for row in grid_rows(grids) for cell in row.values() if isinstance(cell, float)]
        assert grid_documents(grids) and all(map(math.isfinite, numbers))
    over = rows_of(runs, "ways to add a task")
    for name, key in (("train_flops", "flops"), ("stored_bytes", "stored_after"), ("total_parameters", "stored_after")):
        if name in without:
            assert {row[key] for row in over.values()} == {None}
    if "accuracy" in without:
        assert {over[way]["forgetting"] for way in over if way.startswith(("extend", "retrain"))} == {None}


def test_a_task_that_was_tested_in_no_language_is_missing(runs: Runs) -> None:
    def untested(job: JobSpec) -> JobSpec:
        if job.task_title.startswith("three without") and not job.base:
            return job  # another job needs it under its hash
        members = tuple(member.model_copy(update={"test_languages": ()}) for member in job.members)
        return job.model_copy(update={"members": members})

    runs.finish(map(untested, every_way(methods=["full"], extend=[LEAVE_ONE_OUT])))

    found = report_of(runs)

    extended = [row for (_, way), row in rows_of(runs, "each addition").items() if way.startswith("extend")]
    assert len(extended) == 6
    for row in extended:
        assert [row[key] for key in ("score", "difference", "forgetting", "worst", "worst_task")] == [None] * 5
        assert value(row["flops"]) is not None
    (claim,) = [grid for grid in grid_documents(build_view(found, "claims")) if "multi-task" in grid["title"]]
    verdicts = {row["verdict"] for row in claim["rows"] if str(row["method"]).startswith("extend")}
    assert verdicts == {"not measured"}


def test_scores_that_are_no_shares_are_not_averaged_with_others(runs: Runs) -> None:
    tasks = ["offline_sentiment", "offline_similarity", "offline_nli"]
    extend = [{"base": "two", "add": ["offline_nli"]}]
    runs.finish(sweep_jobs(tasks=tasks, mixtures=[{"name": "two", "tasks": tasks[:2]}], extend=extend))

    row = rows_of(runs, "forgetting of each old task")["offline_nli", "extend full, no replay"]
    over = rows_of(runs, "ways to add a task")["extend full, no replay"]

    expected = runs["two + offline_nli", "full", 0].score(member=tasks[1]) - runs["two", "full", 0].score(
        member=tasks[1]
    )
    assert value(row[tasks[1]]) == pytest.approx(expected)
    assert f"{abs(expected):.3g}" in row[tasks[1]]["text"]
    assert over["forgetting"] is None and over["worst"] is not None


def test_first_screens_leave_extensions_and_what_was_made_for_them_out(
    grown: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report_of(grown)
    seeds = len(seeds_of(grown))

    print_view(found, "summary", "table")

    assert {table.task for table in found.tables} == {*TASKS, "three"}
    assert {line.method for decision in found.decisions for line in decision.lines} == {"full", "houlsby"}
    assert len(first_screens(found.decisions).screens) == 4
    # Extensions, the mixtures they start from, and a fusion for each new task.
    assert found.apart == seeds * (3 * 3 + 3 + 3)
    assert f"{found.apart} runs of extensions" in capsys.readouterr().err
    assert [each.title for each in found.mixtures] == ["three", "three"]


def test_the_index_leaves_them_out(grown: Runs) -> None:
    with grown.database.session(read_only=True) as session:
        index = build_index(session)

    assert {line.task for line in index.lines} == {*TASKS, "three"}


def test_a_condition_on_the_method_or_the_mixture_keeps_what_it_names(grown: Runs) -> None:
    by_method = rows_of(grown, "ways to add a task", "method=full")

    every = rows_of(grown, "ways to add a task")
    assert by_method == {way: row for way, row in every.items() if "houlsby" not in way}
    assert rows_of(grown, "ways to add a task", "task=three") == {}
    named = rows_of(grown, "each addition", f"task=three without {TASKS[0]} + *")
    assert {way for _, way in named} == {way for way in WAYS if way.startswith("extend")}


def test_a_report_takes_as_many_queries_for_many_mixtures_as_for_one(runs: Runs) -> None:
    asked: list[str] = []
    with runs.database.session() as session:
        event.listen(session.get_bind(), "before_cursor_execute", lambda *given: asked.append(given[2]))
    counts = []
    for seed in range(2):
        runs.finish(every_way(seeds=[seed]))
        asked.clear()
        report_of(runs)
        counts.append(len(asked))

    assert counts[0] == counts[1]


def test_a_run_beside_an_extension_is_not_undisturbed(runs: Runs) -> None:
    """All these runs are of one host; the extension has begun before the task alone ends."""
    jobs = every_way(methods=["full"], extend=[{**LEAVE_ONE_OUT, "replay": [0]}])
    made = runs.finish(jobs)
    with runs.database.session() as session:
        for position, each in enumerate(made):
            run = session.get_one(Run, each.run_id)
            at = 1 if each.spec.base else 3 * position + 10
            run.started_at = NOON + timedelta(minutes=at)
            run.finished_at = NOON + timedelta(minutes=at + 1)
        alone, extension = (session.get_one(Run, each.run_id) for each in (made[0], made[-1]))
        extension.started_at, extension.finished_at = alone.started_at, alone.finished_at

    (doubt,) = {
        row.cells["train_compute_s"].doubt
        for table in report_of(runs).tables
        if table.task == made[0].title
        for row in table.rows
    }

    assert "another run" in str(doubt)

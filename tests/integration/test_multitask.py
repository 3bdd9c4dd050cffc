"""Mixtures against their tasks alone: figures of hand-made runs, computed a second time with numpy and scipy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from adapeff.service.reporting.grids import Grid, grid_documents
from adapeff.service.reporting.report import Options, Report, build_report
from adapeff.service.reporting.selection import Selection
from adapeff.service.reporting.views import build_view
from adapeff.service.specs.job import JobSpec
from adapeff.service.store.database import Database, upgrade
from tests.integration.mixture_runs import BODY, Runs, flops_per_step, interval, mean, sweep_jobs

TASKS = ("offline_sentiment", "offline_nli", "offline_ner")
NAMED = [{"name": "three", "tasks": list(TASKS)}]
Cell = Any
"""A cell of a grid as JSON: text, None, or a number with its interval."""


@pytest.fixture
def runs() -> Iterator[Runs]:
    """An empty database in memory."""
    opened = Database("sqlite://")
    upgrade(opened)
    yield Runs(opened)
    opened.close()


@pytest.fixture
def filled(any_database_url: str) -> Iterator[Runs]:
    """Two methods on three tasks alone and on their mixture, two seeds."""
    opened = Database(any_database_url)
    runs = Runs(opened)
    runs.finish(three_tasks())
    yield runs
    opened.close()


def three_tasks(**changes: Any) -> list[JobSpec]:
    given = {"tasks": list(TASKS), "mixtures": NAMED, "methods": ["full", "lora"], "seeds": [0, 1]}
    return sweep_jobs(**{**given, **changes})


def report_of(runs: Runs, *where: str) -> Report:
    with runs.database.session(read_only=True) as session:
        return build_report(session, options=Options(selection=Selection.parse(where)))


def grids_of(runs: Runs, *where: str) -> Sequence[Grid]:
    return build_view(report_of(runs, *where), "multitask")


def rows_of(runs: Runs, aspect: str, *where: str) -> dict[Any, dict[str, Cell]]:
    """Method, and task and language where the grid has them -> the cells of the row."""
    found = [grid for grid in grids_of(runs, *where) if grid.aspect == f"multitask: {aspect}"]
    rows = [row for document in grid_documents(found) for row in document["rows"]]
    return {tuple(row[key] for key in ("method", "member", "language") if key in row): row for row in rows}


def notes_of(runs: Runs, aspect: str) -> str:
    return " ".join(note for grid in grids_of(runs) if grid.aspect == f"multitask: {aspect}" for note in grid.notes)


def value(cell: Cell) -> float | None:
    return None if cell is None else cell["value"]


def bounds(cell: Cell) -> tuple[float, float, float]:
    return cell["value"], cell["low"], cell["high"]


@pytest.mark.parametrize(("aspect", "language"), [("quality", "en"), ("other languages", "de")])
def test_each_task_is_compared_with_itself_alone_paired_by_seed_and_example(
    filled: Runs, aspect: str, language: str
) -> None:
    rows = rows_of(filled, aspect)

    for method in ("full", "lora"):
        for task in TASKS:
            row = rows[(method, task) if language == "en" else (method, task, language)]
            together = [filled["three", method, seed].scores[task, language] for seed in (0, 1)]
            alone, full = (
                [filled[task, each, seed].scores["", language] for seed in (0, 1)] for each in (method, "full")
            )
            assert value(row["mixture"]) == pytest.approx(mean(each.mean() for each in together))
            assert value(row["alone"]) == pytest.approx(mean(each.mean() for each in alone))
            assert value(row["full"]) == pytest.approx(mean(each.mean() for each in full))
            assert bounds(row["difference"]) == pytest.approx(interval(together, alone))
            assert bounds(row["difference_to_full"]) == pytest.approx(interval(together, full))


def test_the_last_row_is_the_mean_over_the_tasks(filled: Runs) -> None:
    rows = rows_of(filled, "quality")

    for method in ("full", "lora"):
        together, alone = (
            mean(filled[title, method, seed].score(member=member) for title, member in places for seed in (0, 1))
            for places in ([("three", task) for task in TASKS], [(task, "") for task in TASKS])
        )
        row = rows[method, "mean"]
        assert value(row["mixture"]) == pytest.approx(together)
        assert value(row["alone"]) == pytest.approx(alone)
        assert value(row["difference"]) == pytest.approx(together - alone)
        assert "low" not in row["difference"]


def test_costs_are_those_of_the_mixture_and_the_sum_over_its_tasks(filled: Runs) -> None:
    rows = rows_of(filled, "costs")

    for method in ("full", "lora"):
        row, together = rows[(method,)], {}
        alone = {}
        for name in ("train_steps", "train_flops", "train_compute_s", "stored_bytes"):
            together[name] = mean(filled["three", method, seed].figures[name] for seed in (0, 1))
            alone[name] = sum(mean(filled[task, method, seed].figures[name] for seed in (0, 1)) for task in TASKS)
        for key, name in (("steps", "train_steps"), ("flops", "train_flops"), ("seconds", "train_compute_s")):
            assert value(row[key]) == pytest.approx(together[name])
            assert value(row[f"{key}_alone"]) == pytest.approx(alone[name])
        ratio = together["train_flops"] / alone["train_flops"]
        assert value(row["flops_ratio"]) == pytest.approx(ratio)
        per_step = ratio / (together["train_steps"] / alone["train_steps"])
        assert value(row["flops_per_step_ratio"]) == pytest.approx(per_step)
        shared = 0 if method == "full" else 4 * BODY  # full stores a whole model for each task
        assert value(row["stored"]) == pytest.approx(together["stored_bytes"] + shared)
        assert value(row["stored_alone"]) == pytest.approx(alone["stored_bytes"] + shared)
        assert row["seconds"]["mark"] == "unpaired"


CURVES = {
    ("offline_sentiment", "full"): (0.5, 0.9, 1.0),  # best 1.0
    ("offline_nli", "full"): (0.6, 0.8, 0.8),  # best 0.8
    ("offline_ner", "full"): (0.5, 0.5, 0.5),
}


def learning(spec: JobSpec, member: str) -> tuple[float, ...]:
    """Curves with known times: every task of the mixture is at 98 % of full's best after 20 steps, one not at 99 %."""
    if not spec.members:
        return CURVES[str(spec.task), "full"]
    together = {"offline_sentiment": (0.96, 0.985, 0.985), "offline_nli": (0.7, 0.8, 0.81)}
    return together.get(member, (0.5, 0.5, 0.5))


def test_a_target_is_reached_when_every_task_is_there(runs: Runs) -> None:
    runs.finish(three_tasks(methods=["full"], seeds=[0]), curves=learning)

    (row,) = rows_of(runs, "FLOPs to targets").values()

    per_step = flops_per_step(runs["three", "full", 0].spec)
    alone = {task: flops_per_step(runs[task, "full", 0].spec) for task in TASKS}
    for share, steps in (("0.95", (30, 20, 10)), ("0.98", (30, 20, 10)), ("0.99", (30, 20, 10))):
        expected = sum(at * alone[task] for at, task in zip(steps, TASKS, strict=True))
        assert value(row[f"flops_alone_{share}"]) == pytest.approx(expected)
        if share == "0.99":
            assert row["flops_0.99"] == "– (0 of 1)"
            assert row["ratio_0.99"] is None
        else:
            assert value(row[f"flops_{share}"]) == pytest.approx(20 * per_step)
            assert value(row[f"ratio_{share}"]) == pytest.approx(20 * per_step / expected)


def test_seeds_that_never_get_there_are_counted(runs: Runs) -> None:
    def some_learn(spec: JobSpec, member: str) -> tuple[float, ...]:
        return (0.5, 0.4) if spec.members and spec.seed == 1 else (0.5, 0.8)

    runs.finish(three_tasks(methods=["full"]), curves=some_learn)

    (row,) = rows_of(runs, "FLOPs to targets").values()

    expected = 20 * flops_per_step(runs["three", "full", 0].spec)
    assert value(row["flops_0.95"]) == pytest.approx(expected)
    assert row["flops_0.95"]["text"].endswith(" (1 of 2)")
    assert row["ratio_0.95"] is None


def test_a_task_alone_that_not_every_seed_learns_has_no_time_to_the_target(runs: Runs) -> None:
    def alone_fails(spec: JobSpec, member: str) -> tuple[float, ...]:
        is_slow = str(spec.task) == "offline_nli" and spec.method.name == "lora" and spec.seed == 1
        return (0.5, 0.5) if is_slow else (0.5, 0.8)

    runs.finish(three_tasks(), curves=alone_fails)

    rows = rows_of(runs, "FLOPs to targets")

    assert value(rows["full",]["flops_alone_0.95"]) is not None
    assert rows["lora",]["flops_alone_0.95"] is None
    assert rows["lora",]["ratio_0.95"] is None


def test_flops_that_were_not_counted_are_not_taken_for_none(runs: Runs) -> None:
    jobs = three_tasks(methods=["full"], seeds=[0])
    runs.finish([job for job in jobs if job.members])
    runs.finish([job for job in jobs if not job.members], without=["train_flops"])

    (costs,), (targets,) = (rows_of(runs, aspect).values() for aspect in ("costs", "FLOPs to targets"))

    assert costs["flops_alone"] is None and costs["flops_ratio"] is None
    assert targets["flops_alone_0.95"] is None and targets["ratio_0.95"] is None
    assert targets["flops_0.95"] is not None


def test_missing_runs_of_single_tasks_are_named(runs: Runs) -> None:
    runs.finish(job for job in three_tasks() if job.members or (str(job.task), job.method.name) != (TASKS[1], "lora"))

    rows, costs = rows_of(runs, "quality"), rows_of(runs, "costs")

    assert f"No runs alone with equal settings: lora on {TASKS[1]}." in notes_of(runs, "quality")
    assert rows["lora", TASKS[1]]["alone"] is None and rows["lora", TASKS[1]]["difference"] is None
    assert rows["lora", TASKS[1]]["difference_to_full"] is not None
    assert rows["lora", "mean"]["alone"] is None and rows["lora", "mean"]["difference_to_full"] is not None
    assert costs["lora",]["steps_alone"] is None and costs["lora",]["stored_alone"] is None


def test_missing_runs_of_full_are_named(runs: Runs) -> None:
    runs.finish(job for job in three_tasks() if job.members or (str(job.task), job.method.name) != (TASKS[1], "full"))

    assert f"equal settings: full on {TASKS[1]}." in notes_of(runs, "quality")
    assert rows_of(runs, "quality")["lora", "mean"]["difference_to_full"] is None


@pytest.mark.parametrize(
    ("settings", "stored"),
    [
        ({"batch_size": 16}, {}),
        ({"precision": "bf16"}, {}),
        ({"epochs": 1.0}, {}),
        ({"train_size": 100}, {}),
        ({}, {"environment": {"device_name": "Other CPU"}}),
        ({}, {"environment": {"torch": "2.14.0"}}),
        ({}, {"resolved": {"model_revision": "def"}}),
        ({}, {"resolved": {"data_revision:nli": "def"}}),
    ],
    ids=str,
)
def test_runs_under_other_conditions_are_not_those_of_the_task_alone(
    runs: Runs, settings: dict[str, Any], stored: dict[str, Any]
) -> None:
    known: dict[str, Any] = {"resolved": {"model_revision": "abc"}}
    runs.finish((job for job in three_tasks(methods=["full"]) if job.members), **known)
    languages = {"test_languages": ["en", "de"]}
    alone = three_tasks(methods=["full"], settings={**languages, **settings}, mixtures=[])
    runs.finish(alone, **{**known, **stored})

    rows = rows_of(runs, "quality")

    assert all(row["alone"] is None and row["difference"] is None for row in rows.values())


def test_the_newest_repeat_of_a_run_counts(runs: Runs) -> None:
    jobs = three_tasks(methods=["full"], seeds=[0])
    runs.finish(jobs)
    first = rows_of(runs, "quality")
    repeated = [job.model_copy(update={"repeat": 1}) for job in jobs if str(job.task) == TASKS[0] or job.members]
    new = {made.title: made for made in runs.finish(repeated)}

    row = rows_of(runs, "quality")["full", TASKS[0]]

    assert value(row["alone"]) == pytest.approx(new[TASKS[0]].score())
    assert value(row["mixture"]) == pytest.approx(new["three"].score(member=TASKS[0]))
    assert row["alone"] != first["full", TASKS[0]]["alone"]


def test_seeds_that_differ_are_paired_where_both_have_run(runs: Runs) -> None:
    jobs = three_tasks(methods=["full"], seeds=[0, 1, 2])
    runs.finish(job for job in jobs if job.seed < 2 or not job.members)
    runs.finish(three_tasks(methods=["full"], seeds=[3], tasks=[]))  # the mixture alone has this one

    row = rows_of(runs, "quality")["full", TASKS[0]]

    pairs = [
        (runs["three", "full", seed].scores[TASKS[0], "en"], runs[TASKS[0], "full", seed].scores["", "en"])
        for seed in (0, 1)
    ]
    assert bounds(row["difference"]) == pytest.approx(interval(*zip(*pairs, strict=True)))
    assert value(row["mixture"]) == pytest.approx(
        mean(runs["three", "full", seed].score(member=TASKS[0]) for seed in (0, 1, 3))
    )


def test_without_scores_by_example_one_seed_has_no_interval(runs: Runs) -> None:
    runs.finish(three_tasks(methods=["full"], seeds=[0]), examples=False)

    row = rows_of(runs, "quality")["full", TASKS[0]]

    assert row["difference"]["value"] == pytest.approx(
        runs["three", "full", 0].score(member=TASKS[0]) - runs[TASKS[0], "full", 0].score()
    )
    assert "low" not in row["difference"]


def test_scores_that_are_no_shares_have_no_mean(runs: Runs) -> None:
    tasks = ["offline_sentiment", "offline_similarity"]
    runs.finish(sweep_jobs(tasks=tasks, mixtures=[{"name": "two", "tasks": tasks}]))

    rows = rows_of(runs, "quality")

    found = runs["two", "full", 0].score(member="offline_similarity")
    assert rows["full", "offline_similarity"]["mixture"]["text"] == f"{found:.3g}"
    assert rows["full", "mean"]["mixture"] is None and rows["full", "mean"]["difference"] is None


def test_a_size_that_was_not_measured_is_missing(runs: Runs) -> None:
    runs.finish(three_tasks(methods=["lora"], seeds=[0]), without=["total_parameters"])

    (row,) = rows_of(runs, "costs").values()

    assert row["stored"] is None and row["stored_alone"] is None


def test_learning_rates_and_settings_are_told_apart(runs: Runs) -> None:
    """Also where `full` ran alone for one of them only, so that only one has targets."""
    languages = {"test_languages": ["en", "de"]}
    runs.finish(three_tasks(methods=["full"], settings={**languages, "learning_rate": [1e-5, 1e-4]}))
    runs.finish(three_tasks(methods=["full"], settings={**languages, "learning_rate": 1e-4, "epochs": 1.0}, tasks=[]))

    quality = [grid for grid in grids_of(runs) if grid.aspect == "multitask: quality"]

    assert [sorted({row[0].text for row in grid.rows}) for grid in quality] == [
        ["full lr 0.0001", "full lr 1e-05"],
        ["full"],
    ]
    assert len({grid.title for grid in quality}) == 2 and "epochs" in quality[1].title
    assert grid_documents(grids_of(runs))


def test_a_search_for_a_learning_rate_is_not_compared_with_a_fixed_one(runs: Runs) -> None:
    languages = {"test_languages": ["en", "de"]}
    tuned = {**languages, "tuning": {"learning_rate": [1e-5, 1e-4], "trials": 2}}
    runs.finish(three_tasks(methods=["full"], seeds=[0]))
    runs.finish(three_tasks(methods=["full"], seeds=[0], settings=tuned, mixtures=[]))

    row = rows_of(runs, "quality")["full", TASKS[0]]

    fixed = next(each for each in runs.made if each.title == TASKS[0] and each.spec.training.tuning is None)
    assert value(row["alone"]) == pytest.approx(fixed.score())


def test_a_member_without_test_languages_has_no_scores(runs: Runs) -> None:
    jobs = three_tasks(methods=["full"], seeds=[0])
    runs.finish(_untested(job, TASKS[1]) if job.members else job for job in jobs)

    rows = rows_of(runs, "quality")

    assert ("full", TASKS[1]) not in rows and ("full", TASKS[0]) in rows


def _untested(job: JobSpec, task: str) -> JobSpec:
    members = [
        member.model_copy(update={"test_languages": ()}) if str(member.task) == task else member
        for member in job.members
    ]
    return job.model_copy(update={"members": tuple(members)})


def test_the_same_figures_are_selected_by_the_mixtures_name_and_by_method(filled: Runs) -> None:
    every = rows_of(filled, "quality")

    by_name, by_method = rows_of(filled, "quality", "task=three"), rows_of(filled, "quality", "method=full")

    assert {key: row["mixture"] for key, row in by_name.items()} == {key: row["mixture"] for key, row in every.items()}
    assert all(row["alone"] is None for row in by_name.values())
    assert by_method == {key: row for key, row in every.items() if key[0] == "full"}


def test_a_report_without_mixtures_has_nothing_of_them(runs: Runs) -> None:
    runs.finish(three_tasks(mixtures=[]))

    found = report_of(runs)

    assert (found.mixtures, found.additions, found.apart) == ((), (), 0)
    assert build_view(found, "multitask") == [] and build_view(found, "extend") == []

"""The study's claim on multi-task training, judged on hand-made runs with known answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import pytest

from adapeff.service.reporting.claims import MULTITASK, Judgement, judge
from adapeff.service.reporting.report import Options, build_report
from adapeff.service.specs.job import JobSpec
from adapeff.service.store.database import Database, upgrade
from tests.integration.mixture_runs import EXAMPLES, Runs, sweep_jobs
from tests.integration.stored import store_profile

TASKS = ["offline_sentiment", "offline_nli"]
TWO = {"name": "two", "tasks": TASKS}
RIGHT, WRONG = (1.0,) * EXAMPLES, (0.0,) * EXAMPLES


@pytest.fixture
def runs() -> Iterator[Runs]:
    """An empty database in memory."""
    opened = Database("sqlite://")
    upgrade(opened)
    yield Runs(opened)
    opened.close()


def jobs(**changes: Any) -> list[JobSpec]:
    return sweep_jobs(**{"tasks": TASKS, "mixtures": [TWO], "methods": ["full", "lora"], **changes})


def judged(runs: Runs, margin: float | None = 0.1) -> dict[Any, Judgement]:
    """Method, and share of the target if there is one -> judgement."""
    with runs.database.session(read_only=True) as session:
        report = build_report(session, options=Options(margin=margin))
    found = [each for each in judge(report) if each.claim == MULTITASK]
    return {(each.method, each.target) if each.target else each.method: each for each in found}


def all_right(_: JobSpec, __: str) -> tuple[float, ...]:
    return RIGHT


@pytest.mark.parametrize(
    ("in_mixture", "margin", "outcome", "counts"),
    [
        (RIGHT, 0.1, "supported", "2 of 2 tasks within 10 points of full alone, 0 clearly below"),
        (WRONG, 0.1, "contradicted", "0 of 2 tasks within 10 points of full alone, 2 clearly below"),
        (RIGHT, None, "undecided", "0 of 2 tasks within 1 point of full alone, 0 clearly below"),
    ],
)
def test_quality_is_judged_by_the_margin(
    runs: Runs, in_mixture: tuple[float, ...], margin: float | None, outcome: str, counts: str
) -> None:
    """40 equal answers show that at most 6 points are lost."""
    runs.finish(jobs(), correct=lambda spec, _: in_mixture if spec.members else RIGHT)

    found = judged(runs, margin)["full on the mixture"]

    assert (found.outcome, found.test) == (outcome, counts)


def test_one_task_that_is_clearly_below_contradicts(runs: Runs) -> None:
    runs.finish(jobs(), correct=lambda spec, member: WRONG if member == TASKS[1] else RIGHT)

    assert judged(runs)["full on the mixture"].outcome == "contradicted"


def test_without_full_on_a_task_alone_nothing_is_measured(runs: Runs) -> None:
    runs.finish((job for job in jobs() if str(job.task) != TASKS[0] or job.method.name == "lora"), correct=all_right)

    assert judged(runs)["full on the mixture"].outcome == "not measured"


def test_a_report_without_mixtures_says_how_to_make_them(runs: Runs) -> None:
    runs.finish(jobs(mixtures=[]), correct=all_right)

    (found,) = judged(runs).values()

    assert found.outcome == "not measured" and "`mixtures:`" in found.test


STEP = (0.7, 0.65, 0.75)
"""A step of lora over one of full."""
PAIR = "full on the mixture, lora alone"


def learning(**steps: int) -> Any:
    """Curves over 60 steps that reach the target at a step: of `mixture`, or of a method alone."""

    def curves(spec: JobSpec, _: str) -> list[float]:
        at = steps["mixture" if spec.members else spec.method.name]
        return [0.5 if 10 * position < at else 1.0 for position in range(1, 7)]

    return curves


@pytest.mark.parametrize(("mixture", "outcome"), [(10, "supported"), (60, "contradicted"), (30, "undecided")])
def test_time_to_a_target_is_steps_times_the_paired_time_of_a_step(runs: Runs, mixture: int, outcome: str) -> None:
    runs.finish(jobs(), correct=all_right, curves=learning(mixture=mixture, full=20, lora=20))
    store_profile(runs.database, {"lora": STEP if mixture != 30 else (0.75, 0.7, 0.8)})

    found = judged(runs)[PAIR, 0.99]

    steps = mixture / 40  # lora takes 20 steps on each of two tasks
    low, high = (0.65, 0.75) if mixture != 30 else (0.7, 0.8)
    assert found.outcome == outcome
    assert astuple(found.found)[1:] == pytest.approx((steps / high, steps / low))
    assert found.test == f"{mixture} steps, lora alone 40, x paired time of a step"


def test_a_mixture_that_never_gets_there_is_said_to(runs: Runs) -> None:
    runs.finish(jobs(), correct=all_right, curves=learning(mixture=99, full=20, lora=20))
    store_profile(runs.database, {"lora": STEP})

    found = judged(runs)[PAIR, 0.95]

    assert (found.outcome, found.test) == ("never reached", "0 of 1 seeds of the mixture reach it")


def test_a_mixture_of_which_some_seeds_get_there_is_undecided(runs: Runs) -> None:
    early, never = learning(mixture=10, full=20, lora=20), learning(mixture=99, full=20, lora=20)
    for seed, curves in enumerate((early, never)):
        runs.finish(jobs(seeds=[seed]), correct=all_right, curves=curves)
    store_profile(runs.database, {"lora": STEP})

    found = judged(runs)[PAIR, 0.95]

    assert (found.outcome, found.test) == ("undecided", "1 of 2 seeds of the mixture reach it")


def test_an_adapter_that_never_gets_there_and_one_that_did_not_run_are_told_apart(runs: Runs) -> None:
    every = jobs(methods=["full", "lora", "houlsby"])
    ran = [job for job in every if job.method.name != "houlsby" or str(job.task) == TASKS[0]]
    runs.finish(ran, correct=all_right, curves=learning(mixture=10, full=20, lora=99, houlsby=20))
    store_profile(runs.database, {"lora": STEP, "houlsby": STEP})

    found = judged(runs)

    assert found[PAIR, 0.95].outcome == "never reached"
    assert found["full on the mixture, houlsby alone", 0.95].outcome == "not measured"


def test_the_time_of_a_step_is_that_of_the_mixtures_device(runs: Runs) -> None:
    learned: Any = {"correct": all_right, "curves": learning(mixture=10, full=20, lora=20)}
    runs.finish(jobs(), **learned)
    runs.finish(jobs(mixtures=[], seeds=[1]), **learned, environment={"device_name": "Other CPU"})
    store_profile(runs.database, {"lora": STEP})
    store_profile(runs.database, {"lora": (2.0, 1.9, 2.1)}, device="Other CPU", batch=16)

    assert judged(runs)[PAIR, 0.99].found.value == pytest.approx(10 / 40 / 0.7)


def test_without_a_profile_no_time_is_measured(runs: Runs) -> None:
    runs.finish(jobs(), correct=all_right, curves=learning(mixture=10, full=20, lora=20))

    found = judged(runs)[PAIR, 0.95]

    assert (found.outcome, found.test) == ("not measured", "no paired time of a step")


@pytest.mark.parametrize(
    ("old", "new", "margin", "outcome"),
    [
        (RIGHT, RIGHT, 0.1, "supported"),
        (WRONG, RIGHT, 0.1, "contradicted"),
        (RIGHT, WRONG, 0.1, "contradicted"),
        (RIGHT, RIGHT, None, "undecided"),
    ],
)
def test_an_extension_is_judged_by_what_it_keeps_and_learns(
    runs: Runs, old: tuple[float, ...], new: tuple[float, ...], margin: float | None, outcome: str
) -> None:
    def correct(spec: JobSpec, member: str) -> tuple[float, ...]:
        return RIGHT if not spec.base else new if member == TASKS[1] else old

    runs.finish(jobs(methods=["full"], extend=[{"base": TASKS[0], "add": [TASKS[1]]}]), correct=correct)

    found = judged(runs, margin)["extend full, no replay"]

    assert (found.outcome, found.task) == (outcome, "1 addition")


def test_an_extension_without_full_on_the_new_task_is_undecided(runs: Runs) -> None:
    every = jobs(methods=["full"], mixtures=[], extend=[{"base": TASKS[0], "add": [TASKS[1]]}])
    runs.finish((job for job in every if str(job.task) != TASKS[1]), correct=all_right)

    assert judged(runs)["extend full, no replay"].outcome == "undecided"

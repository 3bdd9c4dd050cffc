"""The study's claims judged on stored runs with known answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from datetime import UTC, datetime
from typing import Any

import pytest

from adapeff.service.plugins.plugin_reference import PluginReference
from adapeff.service.reporting.claims import CLAIMS, DEARER, MULTITASK, SLOWER, Judgement, is_adapter, judge
from adapeff.service.reporting.report import Options, build_report
from adapeff.service.reporting.views import build_view
from adapeff.service.store import job_queries
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.tables import Sweep, SweepJob
from tests.integration.stored import store_profile
from tests.integration.test_report import store


@pytest.fixture
def database() -> Iterator[Database]:
    """An empty migrated database in memory."""
    opened = Database("sqlite://")
    upgrade(opened)
    yield opened
    opened.close()


def curves(*scores: float) -> dict[str, list[list[float]]]:
    """Validation every 10 steps, with these scores; a step costs 1 s, 1 FLOP and 1 example."""
    steps = [10.0 * (at + 1) for at in range(len(scores))]
    return {
        "validation_accuracy": [list(point) for point in zip(steps, scores, strict=True)],
        **{name: [[step, step] for step in steps] for name in ("train_samples", "train_compute_s", "train_flops")},
    }


def store_learning(
    database: Database, scores: dict[str, tuple[float, ...]], *, seeds: int = 2, accuracy: float = 0.8, **changes: Any
) -> None:
    for method, of_method in scores.items():
        for seed in range(seeds):
            store(database, method, seed, accuracy, 100, curves=curves(*of_method), **changes)


def judged(database: Database) -> dict[tuple[str, str, str], Judgement]:
    """(Claim, method, shape or share of the target) -> judgement."""
    with database.session(read_only=True) as session:
        found = judge(build_report(session))
    return {(each.claim, each.method, share(each)): each for each in found}


def share(judgement: Judgement) -> str:
    """The target's share for the first claim, the shape for the others."""
    return f"{judgement.target:.0%}" if judgement.target else judgement.regime


def test_dearer_is_steps_to_the_target_times_the_paired_time_of_a_step(database: Database) -> None:
    store_learning(
        database,
        {
            "full": (*[0.8] * 19, 1.0, *[1.0] * 20),  # 99 % after 200 steps
            "lora": (*[0.5] * 39, 1.0),  # after 400: twice the steps
            "houlsby": (*[0.8] * 19, 1.0, *[1.0] * 20),  # after 200
            "compacter": tuple([0.6] * 40),  # never
            "head": tuple([0.5] * 40),  # adds no modules
        },
    )
    store_profile(database, {"lora": (0.7, 0.65, 0.75), "houlsby": (0.8, 0.7, 0.9)})

    found = judged(database)
    lora, houlsby = found[DEARER, "lora", "99%"], found[DEARER, "houlsby", "99%"]

    assert (lora.outcome, lora.regime) == ("supported", "32x64, eager")
    assert astuple(lora.found) == pytest.approx((1.4, 390 / 200 * 0.65, 400 / 190 * 0.75))
    assert houlsby.outcome == "contradicted" and houlsby.found.value == pytest.approx(0.8)
    assert found[DEARER, "compacter", "99%"].outcome == "never reached"
    assert found[DEARER, "compacter", "99%"].test == "no seed of 2 reaches 99% of full's best score within 400 steps"
    assert not any(method in ("head", "full") for _, method, _ in found)


def test_an_interval_that_holds_one_decides_nothing(database: Database) -> None:
    store_learning(database, {"full": (0.8, *[1.0] * 9), "lora": (0.8, *[1.0] * 9)})
    store_profile(database, {"lora": (1.0, 0.9, 1.1)}, {"lora": (1.01, 0.95, 1.07)})

    found = judged(database)

    assert {each.outcome for each in found.values() if each.claim != MULTITASK} == {"undecided"}


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [((1.3, 1.2, 1.4), "supported"), ((0.9, 0.85, 0.95), "contradicted"), ((1.1, 0.9, 1.3), "undecided")],
)
def test_slower_is_a_paired_forward_pass_at_its_shape(
    database: Database, interval: tuple[float, float, float], outcome: str
) -> None:
    store_learning(database, {"full": (1.0,), "lora": (1.0,)})
    store_profile(database, {"lora": (0.7, 0.6, 0.8)}, {"lora": interval}, shape=(8, 128))

    found = judged(database)[SLOWER, "lora", "8x128, eager"]

    assert (found.outcome, astuple(found.found)) == (outcome, interval)


def test_a_target_that_only_some_seeds_reach_is_undecided(database: Database) -> None:
    late, never = (*[0.5] * 39, 1.0), tuple([0.5] * 40)
    store_learning(database, {"full": (*[0.8] * 9, *[1.0] * 31)})
    for seed, scores in enumerate((late, never)):
        store(database, "lora", seed, 0.8, 100, curves=curves(*scores))
    store_profile(database, {"lora": (1.0, 0.9, 1.1)})

    found = judged(database)[DEARER, "lora", "99%"]

    assert found.outcome == "undecided" and found.found.value == pytest.approx(4.0)
    assert found.test.startswith("1 of 2 seeds reach 99%")


def test_seeds_that_learn_at_different_speeds_widen_the_interval(database: Database) -> None:
    """full after 90 to 110 steps, lora after 100 to 200: 0.9 / 1.1 at the least."""
    for method, when in (("full", (9, 11)), ("lora", (10, 20))):
        for seed, at in enumerate(when):
            store(database, method, seed, 0.8, 100, curves=curves(*[0.5] * (at - 1), *[1.0] * (41 - at)))
    store_profile(database, {"lora": (1.0, 1.0, 1.0)})

    found = judged(database)[DEARER, "lora", "99%"]

    assert found.outcome == "undecided"
    assert astuple(found.found) == pytest.approx((1.5, 90 / 110, 200 / 80))


def test_a_target_reached_by_the_first_validation_has_no_upper_bound(database: Database) -> None:
    store_learning(database, {"full": (1.0, 1.0, 1.0, 1.0), "lora": (0.5, 0.5, 0.5, 1.0), "houlsby": (1.0,) * 4})
    store_profile(database, {"lora": (1.0, 0.9, 1.1), "houlsby": (0.7, 0.6, 0.8)})

    found = judged(database)
    lora, houlsby = found[DEARER, "lora", "99%"], found[DEARER, "houlsby", "99%"]

    assert (lora.outcome, lora.found.high) == ("supported", None)
    assert lora.found.low == pytest.approx(3 * 0.9)
    assert (houlsby.outcome, houlsby.found.high) == ("undecided", None)
    assert "validate more often" in houlsby.test


def test_a_profile_made_apart_from_the_sweep_counts_at_every_shape(database: Database) -> None:
    store_learning(database, {"full": (1.0,), "lora": (1.0,)})
    for shape, interval in (((1, 64), (1.3, 1.2, 1.4)), ((256, 128), (0.8, 0.7, 0.9))):
        store_profile(database, {"lora": (0.7, 0.6, 0.8)}, {"lora": interval}, shape=shape, latency_batches=[shape[0]])
    with database.session() as session:
        jobs = [job.id for job in job_queries.list_jobs(session, kinds=("train",))]
        session.add(Sweep(id=99, name="mine", spec={}, created_at=datetime.now(UTC)))
        session.flush()
        session.add_all(SweepJob(sweep_id=99, job_id=job_id) for job_id in jobs)
    with database.session(read_only=True) as session:
        found = {
            each.regime: each.outcome for each in judge(build_report(session, sweep_ids=[99])) if each.claim == SLOWER
        }

    assert found == {"1x64, eager": "supported", "256x128, eager": "contradicted"}


def test_the_step_is_that_of_the_profile_closest_to_the_trainings_batch(database: Database) -> None:
    """Whichever profile is newer: the runs train with batches of 32."""
    store_learning(database, {method: (*[0.8] * 19, 1.0) for method in ("full", "lora")})
    for batch, step in ((1, (1.3, 1.2, 1.4)), (32, (0.7, 0.65, 0.75)), (256, (1.2, 1.1, 1.3))):
        store_profile(database, {"lora": step}, batch=batch)

    assert judged(database)[DEARER, "lora", "99%"].regime == "32x64, eager"


@pytest.mark.parametrize(
    ("seconds_of_32", "regime"),
    [
        (1.0, "1x64, eager, launch-bound"),  # the forward pass takes 1 s at batch 1
        (1.4, "1x64, eager, launch-bound"),
        (3.0, "1x64, eager"),
        (6.0, "1x64, eager, compute-bound"),
        (32.0, "1x64, eager, compute-bound"),
    ],
)
def test_a_shape_is_launch_bound_where_the_time_does_not_grow_with_the_batch(
    database: Database, seconds_of_32: float, regime: str
) -> None:
    store_learning(database, {"full": (1.0,), "lora": (1.0,)})
    store_profile(database, {"lora": (1.3, 1.2, 1.4)}, batches={32: seconds_of_32})
    with database.session(read_only=True) as session:
        _, slower, _ = build_view(build_report(session), "claims")

    assert {regime for _, regime in rates_and_regimes(database)} == {regime}
    assert any(note.startswith("Launch-bound: ") for note in slower.notes) == regime.endswith("launch-bound")


def test_the_regime_is_that_of_the_neighbouring_batches_and_splits_the_family(database: Database) -> None:
    store_learning(database, {"full": (1.0,), "lora": (1.0,)})
    store_profile(database, {"lora": (1.3, 1.2, 1.4)}, batches={8: 1.1, 256: 16.0})
    store_profile(database, {"lora": (0.8, 0.7, 0.9)}, shape=(256, 64), batches={8: 1.0 / 16}, latency_batches=[8, 256])
    with database.session(read_only=True) as session:
        _, slower, _ = build_view(build_report(session), "claims")

    assert set(slower.notes[:2]) == {
        "As a family, launch-bound: supported. Rows: 1 supported.",
        "As a family, compute-bound: contradicted. Rows: 1 contradicted.",
    }


def test_a_forward_pass_is_judged_once_for_all_tasks(database: Database) -> None:
    for task in ("offline_sentiment", "offline_nli"):
        store_learning(database, {"full": (1.0,), "lora": (1.0,)}, tasks=[task])
    store_profile(database, {"lora": (1.3, 1.2, 1.4)})
    with database.session(read_only=True) as session:
        found = [each for each in judge(build_report(session)) if each.claim == SLOWER]

    assert [each.task for each in found] == ["offline_sentiment, offline_nli"]


def rates_and_regimes(database: Database) -> set[tuple[str, str]]:
    with database.session(read_only=True) as session:
        return {(each.rates, each.regime) for each in judge(build_report(session)) if each.claim == SLOWER}


def test_tuned_and_default_rates_and_compiled_models_are_told_apart(database: Database) -> None:
    store_learning(database, {"full": (1.0,), "lora": (1.0,)})
    tuned = {"tuning": {"learning_rate": [1e-4, 1e-3], "trials": 2}, "test_languages": ["en", "de"]}
    store_learning(database, {"full": (1.0,), "lora": (1.0,)}, settings=tuned)
    store_profile(database, {"lora": (0.7, 0.6, 0.8)}, compile=True)

    assert rates_and_regimes(database) == {("default", "1x64, compiled"), ("tuned", "1x64, compiled")}


def test_a_rate_of_the_sweep_is_not_called_the_default(database: Database) -> None:
    settings = {"learning_rate": 3e-5, "test_languages": ["en", "de"]}
    store_learning(database, {"full": (1.0,), "lora": (1.0,)}, settings=settings)
    store_profile(database, {"lora": (0.7, 0.6, 0.8)})

    assert rates_and_regimes(database) == {("set", "1x64, eager")}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        *((name, True) for name in ("houlsby", "pfeiffer", "houlsby_parallel", "pfeiffer_parallel", "parallel_scaled")),
        *((name, True) for name in ("compacter", "compacter++", "lora", "prefix_tuning", "mam", "unipelt", "ia3")),
        *((name, False) for name in ("full", "head", "bitfit", "layernorm", "top_k_layers")),
        ("method-of-a-package-that-is-gone", True),
    ],
)
def test_methods_declare_whether_they_are_adapters(name: str, *, counts: bool) -> None:
    assert is_adapter(PluginReference(name=name)) is counts


def test_adapterdrop_is_an_adapter() -> None:
    assert is_adapter(PluginReference(name="adapterdrop", parameters={"method": "houlsby"}))


def test_what_no_profile_measured_is_not_guessed_from_unpaired_times(database: Database) -> None:
    store_learning(database, {"full": (0.8, 1.0), "lora": (0.8, 1.0)})

    found = judged(database)

    assert {each.outcome for each in found.values()} == {"not measured"}
    with database.session(read_only=True) as session:
        grids = build_view(build_report(session), "claims")
    command = "To measure what is missing: adapeff profile --model org/model --method 'lora'"
    assert [command in grid.notes for grid in grids] == [True, True, False]


def test_view_has_a_grid_per_claim_and_counts_the_outcomes(database: Database) -> None:
    store_learning(database, {method: (*[0.8] * 19, 1.0) for method in ("full", "lora")})
    store_profile(database, {"lora": (0.7, 0.6, 0.8)}, {"lora": (1.3, 1.2, 1.4)})
    with database.session(read_only=True) as session:
        grids = build_view(build_report(session), "claims")

    assert [grid.title for grid in grids] == [f"claim: {claim}" for claim in CLAIMS]
    assert [grid.notes[0] for grid in grids] == [
        "As a family at 99% of the reference's best score: contradicted. Rows: 1 contradicted.",
        "As a family: supported. Rows: 1 supported.",
        "As a family: not measured. Rows: 1 not measured.",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 1}, "its only seed reaches 99% of full's best score"),
        ({"accuracy": 0.5, "noise": 0.05}, "near chance"),
    ],
)
def test_one_seed_or_a_reference_near_chance_decides_nothing_about_training(
    database: Database, changes: Any, said: str
) -> None:
    store_learning(database, {method: (*[0.8] * 19, 1.0) for method in ("full", "lora")}, **changes)
    store_profile(database, {"lora": (0.7, 0.6, 0.8)})

    found = judged(database)[DEARER, "lora", "99%"]

    assert found.outcome == "undecided" and said in found.test


def test_another_reference_is_named(database: Database) -> None:
    store_learning(database, dict.fromkeys(("full", "lora", "houlsby"), (1.0,)))
    with database.session(read_only=True) as session:
        grids = build_view(build_report(session, options=Options(reference="lora")), "claims")

    assert all("Compared with lora, not with full as in the study." in grid.notes for grid in grids)


def test_a_family_whose_methods_disagree_is_mixed(database: Database) -> None:
    store_learning(database, {"full": (1.0,), "lora": (1.0,), "houlsby": (1.0,), "pfeiffer": (1.0,)})
    latency = {"lora": (0.9, 0.8, 0.95), "houlsby": (1.3, 1.2, 1.4), "pfeiffer": (1.0, 0.9, 1.1)}
    store_profile(database, dict.fromkeys(latency, (0.7, 0.6, 0.8)), latency)
    with database.session(read_only=True) as session:
        _, slower, _ = build_view(build_report(session), "claims")

    assert slower.notes[0] == (
        "As a family: mixed (supported: houlsby; contradicted: lora). Rows: 1 supported, 1 contradicted, 1 undecided."
    )

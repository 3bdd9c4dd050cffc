"""The study's claims judged on stored runs with known answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from adapeff.service.reporting.claims import CLAIMS, DEARER, MULTITASK, SLOWER, Judgement, judge
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.views import build_view
from adapeff.service.store.database import Database, upgrade
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


def store_learning(database: Database, scores: dict[str, tuple[float, ...]], **changes: Any) -> None:
    for method, of_method in scores.items():
        for seed in range(2):
            store(database, method, seed, 0.8, 100, curves=curves(*of_method), **changes)


def judged(database: Database) -> dict[tuple[str, str, str], Judgement]:
    """(Claim, method, shape or share of the target) -> judgement."""
    with database.session(read_only=True) as session:
        found = judge(build_report(session))
    return {(each.claim, each.method, share(each)): each for each in found}


def share(judgement: Judgement) -> str:
    """The target's share for the first claim, the shape for the others."""
    words = [word for word in judgement.test.split() if word.endswith("%")]
    return words[0] if words else judgement.regime


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
    assert (lora.value, lora.low, lora.high) == pytest.approx((1.4, 390 / 200 * 0.65, 400 / 190 * 0.75))
    assert houlsby.outcome == "contradicted" and houlsby.value == pytest.approx(0.8)
    assert found[DEARER, "compacter", "99%"].outcome == "undecided"
    assert "never reaches 99% of full's best score" in found[DEARER, "compacter", "99%"].test
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

    assert (found.outcome, (found.value, found.low, found.high)) == (outcome, interval)


def test_what_no_profile_measured_is_not_guessed_from_unpaired_times(database: Database) -> None:
    store_learning(database, {"full": (0.8, 1.0), "lora": (0.8, 1.0)})

    found = judged(database)

    assert {each.outcome for each in found.values()} == {"not measured"}
    assert "adapeff profile --model org/model --method 'lora'" in found[SLOWER, "lora", "–"].test


def test_view_has_a_grid_per_claim_and_counts_the_outcomes(database: Database) -> None:
    store_learning(database, {method: (*[0.8] * 19, 1.0) for method in ("full", "lora")})
    store_profile(database, {"lora": (0.7, 0.6, 0.8)}, {"lora": (1.3, 1.2, 1.4)})
    with database.session(read_only=True) as session:
        grids = build_view(build_report(session), "claims")

    assert [grid.title for grid in grids] == [f"claim: {claim}" for claim in CLAIMS]
    assert [grid.notes[0] for grid in grids] == ["2 contradicted.", "1 supported.", "1 not measured."]

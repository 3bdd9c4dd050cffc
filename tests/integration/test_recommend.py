"""`adapeff recommend` on stored runs with known answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from adapeff.service.errors import SpecError
from adapeff.service.reporting.quantities import read_bytes, read_latency, read_price, read_rate
from adapeff.service.reporting.recommend import Life, Limits, Recommendation, recommend, recommendation_grid
from adapeff.service.reporting.report import build_report
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


def advised(database: Database, limits: Limits | None = None, life: Life | None = None) -> Recommendation:
    with database.session(read_only=True) as session:
        (decision,) = build_report(session).decisions
    return recommend(decision, limits or Limits(), life or Life())


def standings(found: Recommendation) -> dict[str, str]:
    return {choice.line.method: choice.standing for choice in found.choices}


@pytest.fixture
def trained(database: Database) -> Database:
    """full takes 100 s; lora as good in 50 s; houlsby scattered in 60 s; head 20 points worse in 10 s."""
    for method, seconds, scores in (
        ("full", 100, [0.800, 0.801, 0.799]),
        ("lora", 50, [0.800, 0.799, 0.801]),
        ("houlsby", 60, [0.77, 0.82, 0.79]),
        ("head", 10, [0.600, 0.601, 0.599]),
    ):
        for seed, score in enumerate(scores):
            store(database, method, seed, score, seconds)
    return database


def test_methods_rank_by_the_limits_they_hold_then_by_hours(trained: Database) -> None:
    found = advised(trained, life=Life(tasks=36))

    assert standings(found) == {"lora": "for sure", "full": "for sure", "houlsby": "perhaps", "head": "not"}
    assert [choice.hours for choice in found.choices] == pytest.approx([0.5, 1.0, 0.6, 0.1])
    assert found.choices[0].stored_bytes == 36 * 2**15
    assert found.sentence == "lora holds the limits for sure at the least cost (0.50 device hours)."


def test_quality_may_be_a_share_of_the_references_score(trained: Database) -> None:
    assert standings(advised(trained, Limits(min_quality=0.7)))["head"] == "for sure"
    assert standings(advised(trained, Limits(min_quality=0.9)))["head"] == "not"


def test_memory_is_that_of_the_runs(trained: Database) -> None:
    """full 1 GiB, houlsby 0.6 GiB, lora half a GiB, head a tenth."""
    found = advised(trained, Limits(max_memory_bytes=0.55 * 2**30))

    assert standings(found) == {"lora": "for sure", "full": "not", "houlsby": "not", "head": "not"}


def test_a_latency_at_another_shape_is_not_measured_and_the_command_is_given(trained: Database) -> None:
    found = advised(trained, Limits(max_latency_s=1.0, shape="8x128"), Life(requests_per_month=1e6))

    assert standings(found)["lora"] == "perhaps" and found.choices[0].hours is None
    assert "not measured at this shape" in next(c for c in found.choices[0].checks if c.name == "latency").text
    assert found.missing == (
        "adapeff profile --model org/model --method 'lora,houlsby,head' -s latency_batches=8 -s latency_lengths=128",
    )
    assert found.sentence.startswith("No method holds the limits for sure. Perhaps: full, lora, houlsby")


def test_latency_and_serving_come_from_the_shape_that_was_asked(trained: Database) -> None:
    """The runs measured 20 ms at 1x64 and 500 ms at 32x64."""
    limits = Limits(max_latency_s=0.025, shape="1x64")
    found = advised(trained, limits, Life(requests_per_month=3600 * 50, months=2))

    assert standings(found)["lora"] == "for sure"
    (serve,) = [term for term in found.choices[0].terms if term.name == "serve"]
    assert serve.hours == pytest.approx(2 * 3600 * 50 * 0.02 / 3600)
    assert standings(advised(trained, Limits(max_latency_s=0.015, shape="1x64")))["lora"] == "not"


def test_a_profile_gives_the_latency_where_there_is_one(trained: Database) -> None:
    store_profile(trained, {"lora": (0.7, 0.6, 0.8)}, shape=(8, 128))

    found = advised(trained, Limits(max_latency_s=2.0, shape="8x128"))
    lora = next(choice for choice in found.choices if choice.line.method == "lora")

    assert lora.standing == "for sure"
    assert "profile job" in next(check.text for check in lora.checks if check.name == "latency")
    assert standings(found)["houlsby"] == "perhaps"  # the profile did not measure it


def test_the_grid_says_all_of_it_with_the_price(trained: Database) -> None:
    grid = recommendation_grid(advised(trained, life=Life(tasks=36, price_per_hour=2.5)))
    lora = {heading.key: value for heading, value in zip(grid.headings, grid.rows[0], strict=True)}

    assert (lora["method"].text, lora["standing"].text, lora["cost"].number) == ("lora", "for sure", 1.25)
    assert lora["quality"].text.startswith("holds: ") and "3 seeds" in lora["quality"].text


def test_quantities_are_read_as_people_write_them() -> None:
    assert read_latency("--max-latency", "20ms@8x128") == (0.02, "8x128")
    assert read_bytes("--max-memory", "2GiB") == 2 * 2**30
    assert read_rate("--requests", "1e6/month") == 1e6
    assert read_rate("--requests", "1/s") == pytest.approx(365.2425 / 12 * 86400)
    assert read_price("--price", "2.5/h") == read_price("--price", "2.5") == 2.5


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_latency, "20ms", "expected a time at a shape"),
        (read_latency, "20@8x128", "such as 20ms@8x128"),
        (read_latency, "0ms@8x128", "expected more than 0"),
        (read_bytes, "2", "such as 2GiB"),
        (read_rate, "1e6", "such as 1e6/month"),
        (read_price, "two", "such as 2.5/h"),
    ],
)
def test_what_is_no_quantity_is_said(read, text: str, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError, match=said):
        read("--flag", text)

"""`adapeff compare`: paired differences, costs and settings of two sides, on stored runs."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, hypot, log
from typing import Any

import numpy
import pytest
from scipy import stats

from adapeff.service.errors import JobError, SpecError
from adapeff.service.reporting.compare import compare
from adapeff.service.reporting.compare_cells import Side, read_side
from adapeff.service.reporting.grids import Grid, grid_documents
from adapeff.service.statistics.packing import pack
from adapeff.service.store import job_creation, results
from adapeff.service.store.database import Database, now, upgrade
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from adapeff.service.store.tables import Sweep
from tests.factories import claimer, spec
from tests.integration.stored import store_profile
from tests.integration.test_report import store


@pytest.fixture
def database() -> Iterator[Database]:
    """An empty migrated database in memory."""
    opened = Database("sqlite://")
    upgrade(opened)
    yield opened
    opened.close()


def compared(database: Database, first: Side, second: Side) -> list[Grid]:
    with database.session(read_only=True) as session:
        return compare(session, first, second)


def test_methods_are_paired_by_seed_task_and_language(database: Database) -> None:
    lora, houlsby = [0.80, 0.82, 0.79], [0.75, 0.78, 0.77]
    for seed, (a, b) in enumerate(zip(lora, houlsby, strict=True)):
        store(database, "lora", seed, a, 100)
        store(database, "houlsby", seed, b, 50)
    store(database, "lora", 3, 0.1, 100)  # houlsby has no such seed

    quality, costs, settings = grid_documents(compared(database, Side("method", "lora"), Side("method", "houlsby")))
    expected = stats.ttest_rel(houlsby, lora)
    english, german = quality["rows"]

    assert (english["language"], german["language"]) == ("en", "de")
    assert english["difference"]["value"] == pytest.approx(-0.11 / 3)
    assert english["difference"]["low"] == pytest.approx(expected.confidence_interval().low)
    assert english["p"]["value"] == pytest.approx(expected.pvalue)  # the other row has no p to adjust for
    assert german["difference"]["value"] == 0 and german["verdict"] == "equal"
    by_cost = {row["cost"]: row for row in costs["rows"]}
    assert by_cost["peak memory (process)"]["ratio"]["value"] == pytest.approx(0.5)
    assert by_cost["train compute"]["first"]["mark"] == "unpaired" and by_cost["train compute"]["ratio"] is None
    assert [row["condition"] for row in settings["rows"]] == ["learning_rate"]


def costs_by_name(database: Database, first: str, second: str) -> dict[str, Any]:
    for seed in range(2):
        store(database, first, seed, 0.8, 100)
        store(database, second, seed, 0.7, 100)
    _, costs, *_ = grid_documents(compared(database, Side("method", first), Side("method", second)))
    return {row["cost"]: row["ratio"] for row in costs["rows"]} | {"notes": costs["notes"]}


def test_times_of_methods_have_the_ratio_of_a_profile_that_measured_both(database: Database) -> None:
    store_profile(database, {"lora": (0.5, 0.4, 0.6)}, {"lora": (1.2, 1.1, 1.3)})

    costs = costs_by_name(database, "full", "lora")
    step, latency = costs["training step 32x64, paired"], costs["latency 1x64, paired"]

    assert (step["value"], step["low"], step["high"]) == pytest.approx((0.5, 0.4, 0.6))
    assert (latency["value"], latency["low"], latency["high"]) == pytest.approx((1.2, 1.1, 1.3))
    assert costs["train compute"] is None
    assert "measured interleaved by profile 1" in costs["notes"][0]


def test_the_ratio_of_two_methods_that_were_paired_with_a_third_is_the_quotient(database: Database) -> None:
    store_profile(database, {"lora": (0.5, 0.4, 0.6), "houlsby": (0.6, 0.55, 0.65)})

    step = costs_by_name(database, "lora", "houlsby")["training step 32x64, paired"]

    assert step["value"] == pytest.approx(1.2)
    assert step["low"] == pytest.approx(1.2 * exp(-hypot(log(0.60 / 0.55), log(0.6 / 0.5))))
    assert step["high"] == pytest.approx(1.2 * exp(hypot(log(0.65 / 0.60), log(0.5 / 0.4))))


@pytest.mark.parametrize(
    ("device", "profiled"), [("Other CPU", {"lora": (0.5, 0.4, 0.6)}), ("Test CPU", {"ia3": (0.5, 0.4, 0.6)})]
)
def test_a_profile_of_other_hardware_or_other_methods_gives_no_ratio(
    database: Database, device: str, profiled: dict[str, tuple[float, float, float]]
) -> None:
    store_profile(database, profiled, device=device)

    costs = costs_by_name(database, "full", "lora")

    assert not [name for name in costs if name.endswith("paired")]
    assert "`adapeff profile` measures methods in pairs" in costs["notes"][0]


def test_the_profile_whose_batch_is_closest_to_training_gives_the_ratio(database: Database) -> None:
    for batch, value in ((16, 0.3), (32, 0.5), (128, 0.9)):
        store_profile(database, {"lora": (value, value - 0.1, value + 0.1)}, batch=batch)

    costs = costs_by_name(database, "full", "lora")

    assert [name for name in costs if name.startswith("training step")] == ["training step 32x64, paired"]


def test_hosts_are_compared_method_by_method_and_say_what_differs(database: Database) -> None:
    for device, score in (("Test CPU", 0.8), ("Other CPU", 0.7)):
        for method in ("full", "lora"):
            for seed in range(3):
                is_other = device == "Other CPU"
                noisy = score + seed / 100 + is_other * seed / 1000
                store(database, method, seed, noisy, 100, device_name=device, repeat=is_other)

    quality, _, settings = grid_documents(compared(database, Side("host", "Test CPU"), Side("host", "Other CPU")))

    assert quality["rows"][0]["basis"] == "6 pairs" and quality["rows"][0]["verdict"] == "Test CPU is better"
    assert {"condition": "device_name", "first": "Test CPU", "second": "Other CPU"}.items() <= settings["rows"][
        0
    ].items()


def test_names_alone_are_sweeps_if_there_are_any_else_methods(database: Database) -> None:
    store(database, "lora", 0, 0.8, 100)
    with database.session() as session:
        session.add(Sweep(name="demo", spec={}, created_at=now(session)))
    with database.session(read_only=True) as session:
        assert read_side(session, "demo") == Side("sweep", "demo")
        assert read_side(session, "lora[rank=4]") == Side("method", "lora[rank=4]")
        assert read_side(session, "host=gpu1") == Side("host", "gpu1")


@pytest.mark.parametrize(
    ("first", "second", "error", "said"),
    [
        ("method=lora", "sweep=s", SpecError, "'lora' is a method and 's' a sweep; compare two of a kind"),
        ("lora", "lora", SpecError, "'lora' is compared with itself"),
        ("lora", "ia3", JobError, "no finished run of method 'ia3'"),
        ("lora", "houlsby", JobError, "no model, task and seed with equal settings in common"),
        ("hosts=a", "hosts=b", SpecError, "'hosts=a' compares by 'hosts'; did you mean 'host'?"),
        ("host=", "host=b", SpecError, "'host=' has no name"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(
    database: Database, first: str, second: str, error: type[Exception], said: str
) -> None:
    store(database, "lora", 0, 0.8, 100)
    store(database, "houlsby", 1, 0.8, 100)
    with database.session(read_only=True) as session, pytest.raises(error, match=said):
        compare(session, read_side(session, first), read_side(session, second))


def test_runs_on_different_test_data_are_not_paired_by_example(database: Database) -> None:
    draw = numpy.random.default_rng(0)
    for method, data, share in (("full", {}, 0.6), ("lora", {"test_fingerprint": "f" * 64}, 0.75)):
        wanted = spec(0, methods=[method])
        wanted = wanted.model_copy(update={"data": wanted.data.model_copy(update=data)})
        with database.session() as session:
            (job_id,), _ = job_creation.create_jobs(session, [wanted], priority=5, max_failures=3)
        claim = claimer(database)(job_id)
        assert claim is not None
        values = (draw.random(400) < share).astype(float)
        found = RunResults(environment={"device_name": "Test CPU"})
        score = {"event": "measurement", "name": "accuracy", "unit": "1", "language": "en", "split": "test"}
        found.take({**score, "value": float(values.mean())})
        found.take({"event": "example_scores", "language": "en", "metric": "accuracy", "values": pack(values)})
        ending = RunOutcome("succeeded", resolved={"metric": "accuracy", "source_language": "en"})
        with database.session() as session:
            results.finish(session, claim, ending, found)

    quality, *_ = grid_documents(compared(database, Side("method", "full"), Side("method", "lora")))

    assert (quality["rows"][0]["basis"], quality["rows"][0]["verdict"]) == ("1 pair", "undecided: too few runs")

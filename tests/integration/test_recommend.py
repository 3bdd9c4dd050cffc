"""`adapeff recommend` on stored runs with known answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy
import pytest
from scipy import stats

from adapeff.service.errors import SpecError
from adapeff.service.reporting.decision import decide
from adapeff.service.reporting.pscp import pscp
from adapeff.service.reporting.quantities import (
    read_bytes,
    read_latency,
    read_price,
    read_rate,
    read_shape,
    read_storage_price,
)
from adapeff.service.reporting.recommend import Life, Limits, Recommendation, recommend
from adapeff.service.reporting.recommend_grids import recommendation_grids
from adapeff.service.reporting.report import Options, build_report
from adapeff.service.reporting.selection import Selection
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
    assert found.sentence == (
        "lora holds the limits for sure at the least cost (0.50 device hours). "
        "Perhaps also: houlsby; more seeds or measurements would tell."
    )


def test_quality_may_be_a_share_of_the_references_score(trained: Database) -> None:
    assert standings(advised(trained, Limits(min_quality=0.7)))["head"] == "for sure"
    assert standings(advised(trained, Limits(min_quality=0.9)))["head"] == "not"


def test_memory_is_that_of_the_runs(trained: Database) -> None:
    """full 1 GiB, houlsby 0.6 GiB, lora half a GiB, head a tenth."""
    found = advised(trained, Limits(max_memory_bytes=0.55 * 2**30))

    assert standings(found) == {"lora": "for sure", "full": "not", "houlsby": "not", "head": "not"}


def test_memory_is_held_by_its_interval_and_never_for_sure_with_one_seed(database: Database) -> None:
    for method, seconds in (("full", [100, 100, 100]), ("lora", [48, 50, 53])):  # memory is that share of a GiB / 100
        for seed, value in enumerate(seconds):
            store(database, method, seed, 0.8, value)
    interval = stats.t.interval(0.95, 2, 0.503333, stats.sem([0.48, 0.50, 0.53]))

    def held(share: float, *where: str) -> str:
        limits = Limits(max_memory_bytes=share * 2**30)
        with database.session(read_only=True) as session:
            report = build_report(session, options=Options(selection=Selection.parse(list(where))))
            found = recommend(report.decisions[0], limits, Life())
        (check,) = [
            check for c in found.choices if c.line.method == "lora" for check in c.checks if check.name == "memory"
        ]
        return check.state

    assert interval[1] > 0.54
    assert [held(share) for share in (0.40, 0.54, 0.60)] == ["fails", "perhaps", "holds"]
    assert held(0.60, "seed=0") == "perhaps"


def test_a_latency_at_another_shape_is_not_measured_and_the_command_is_given(trained: Database) -> None:
    found = advised(trained, Limits(max_latency_s=1.0, shape="8x128"), Life(requests_per_month=1e6))

    assert standings(found)["lora"] == "perhaps" and found.choices[0].hours is None
    assert next(c for c in found.choices[0].checks if c.name == "latency").state == "not measured"
    assert found.missing == (
        "To measure the latency at 8x128: adapeff profile --model org/model --method 'lora,houlsby,head' "
        "-s latency_batches=8 -s latency_lengths=128",
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
    assert "profile job" in next(check.source for check in lora.checks if check.name == "latency")
    assert standings(found)["houlsby"] == "perhaps"  # the profile did not measure it


def test_the_printed_command_measures_what_was_missing(trained: Database) -> None:
    """The profile is no part of the runs' sweep, and has fewer methods than the sweep's own."""
    steps = dict.fromkeys(("lora", "houlsby", "head"), (0.7, 0.6, 0.8))
    store_profile(trained, steps, shape=(1, 64))
    store_profile(trained, {"lora": (0.7, 0.6, 0.8)}, shape=(8, 128), latency_batches=[8])
    with trained.session() as session:
        jobs = [job.id for job in job_queries.list_jobs(session, kinds=("train",))]
        session.add(Sweep(id=99, name="mine", spec={}, created_at=datetime.now(UTC)))
        session.flush()
        session.add_all(SweepJob(sweep_id=99, job_id=job_id) for job_id in jobs)
    with trained.session(read_only=True) as session:
        (decision,) = build_report(session, sweep_ids=[99]).decisions

    found = recommend(decision, Limits(max_latency_s=2.0, shape="8x128"), Life())

    assert standings(found) == {"lora": "for sure", "full": "for sure", "houlsby": "perhaps", "head": "not"}
    assert "--method 'houlsby,head'" in found.missing[0]


@pytest.mark.parametrize(
    ("limit", "standing"), [(1.15, "for sure"), (1.0, "perhaps"), (0.85, "not")], ids=["above", "inside", "below"]
)
def test_a_latency_is_judged_by_its_interval(trained: Database, limit: float, standing: str) -> None:
    store_profile(trained, {"lora": (0.7, 0.6, 0.8)}, shape=(8, 128), latency_of={"lora": (0.9, 1.1)})

    assert standings(advised(trained, Limits(max_latency_s=limit, shape="8x128")))["lora"] == standing


def test_one_seed_is_never_sure(database: Database) -> None:
    for method in ("full", "lora"):
        store(database, method, 0, 0.8, 100)
    scores = numpy.full(400, 0.8)
    with database.session(read_only=True) as session:
        (decision,) = build_report(session).decisions
    certain = decide(decision.table, (), lambda run_id: scores)

    (_, lora) = recommend(certain, Limits(), Life()).choices

    assert (lora.line.method, lora.standing) == ("lora", "perhaps")
    assert lora.line.difference is not None and lora.line.difference.examples == 400


def test_without_a_reference_nothing_is_sure(database: Database) -> None:
    for seed in range(3):
        store(database, "lora", seed, 0.8, 100)

    (lora,) = advised(database).choices

    assert (lora.standing, lora.checks[0].state) == ("perhaps", "not measured")


def test_cost_adds_trials_training_serving_and_storage(database: Database) -> None:
    """lora: 36 x (300 s of trials + 100 s) = 4 h; 720,000 requests x 0.02 s at 1x64 = 4 h; 36 x 32 KiB for 2 months."""
    for seed in range(3):
        store(database, "full", seed, 0.8, 100)
        store(database, "lora", seed, 0.8, 100, figures={"tuning_compute_s": (300.0, "s")})
    life = Life(36, requests_per_month=360_000, months=2, price_per_hour=2.5, price_per_gib_month=1000.0)

    found = {choice.line.method: choice for choice in advised(database, Limits(shape="1x64"), life).choices}

    assert [term.name for term in found["lora"].terms] == ["tune", "train", "serve"]
    assert [term.hours for term in found["lora"].terms] == pytest.approx([3.0, 1.0, 4.0])
    assert [term.basis for term in found["lora"].terms] == [
        "36 tasks x 300.0 s of trials",
        "36 tasks x 100.0 s",
        "7.2e+05 passes x 20.0 ms at 1x64 (its training jobs, unpaired)",
    ]
    storage = 36 * 2**15 / 2**30 * 2 * 1000
    assert found["lora"].storage_cost == pytest.approx(storage)
    assert found["lora"].cost == pytest.approx(8 * 2.5 + storage)
    assert found["full"].hours == pytest.approx(5.0)
    assert found["lora"].jobs == (2, 4, 6)


def test_methods_whose_hours_overlap_are_said_to(database: Database) -> None:
    for method, seconds in (("full", [100, 110, 120]), ("lora", [90, 100, 110]), ("ia3", [10, 11, 12])):
        for seed, (score, time) in enumerate(zip([0.800, 0.801, 0.799], seconds, strict=True)):
            store(database, method, seed, score, time)

    assert advised(database).sentence == "ia3 holds the limits for sure at the least cost (0.0031 device hours)."
    without = Options(selection=Selection.parse(["method=full,lora"]))
    with database.session(read_only=True) as session:
        (decision,) = build_report(session, options=without).decisions
    assert recommend(decision, Limits(), Life()).sentence.endswith("The hours of full overlap with its own.")


def test_pscp_takes_flops_only_from_its_own_shape(trained: Database) -> None:
    """lora trains 10 + 5 parameters in half a GiB, and adds 1 TFLOP to the forward pass."""
    flops = {"full": 8e12, "lora": 9e12}
    store_profile(trained, {"lora": (0.7, 0.6, 0.8)}, forward_flops=flops)
    with trained.session(read_only=True) as session:
        (elsewhere,) = build_report(session).decisions
    store_profile(trained, {"lora": (0.7, 0.6, 0.8)}, forward_flops=flops, batch=1, length=512)
    with trained.session(read_only=True) as session:
        (decision,) = build_report(session).decisions

    missing = recommend(elsewhere, Limits(), Life(), with_pscp=True)
    found = recommend(decision, Limits(), Life(), with_pscp=True)
    scores = {choice.line.method: choice.pscp.value for choice in found.choices if choice.pscp}

    assert {choice.pscp.value for choice in missing.choices if choice.pscp} == {None}
    assert missing.missing[0].endswith("--method 'lora,houlsby,head' --batch 1 --length 512")
    assert scores["lora"] == pytest.approx(80.0 / (1 + 15 / 5e8) / 1.1 / (1 + 2**29 / 94e9))
    assert scores["full"] == pytest.approx(80.0 / (1 + 1005 / 5e8) / (1 + 2**30 / 94e9))
    assert scores["head"] is None


def test_pscp_of_lora_in_its_authors_computation() -> None:
    """Their script's LoRA on an 8 B model: 14,680,064 parameters, no extra FLOPs, 27.75 GB, a score of 80.1."""
    cost_parameters, cost_flops, cost_memory = 0.97147669, 1.0, 0.77207392  # by hand: 5e8 / 514680064, 94 / 121.75

    assert pscp(80.1, parameters=14_680_064, extra_flops=0.0, memory_bytes=27.75e9) == pytest.approx(
        80.1 * cost_parameters * cost_flops * cost_memory, rel=1e-6
    )


def test_the_evidence_names_jobs_seeds_and_products(trained: Database) -> None:
    _, evidence = recommendation_grids(advised(trained, life=Life(tasks=36)))
    lora = {heading.key: value.text for heading, value in zip(evidence.headings, evidence.rows[0], strict=True)}

    assert (lora["jobs"], lora["basis"], lora["train_basis"]) == ("4 5 6", "3 seeds", "36 tasks x 50.0 s")


def test_the_grid_says_all_of_it_with_the_price(trained: Database) -> None:
    grid, _ = recommendation_grids(advised(trained, life=Life(tasks=36, price_per_hour=2.5)))
    lora = {heading.key: value for heading, value in zip(grid.headings, grid.rows[0], strict=True)}

    assert (lora["method"].text, lora["standing"].text, lora["cost"].number) == ("lora", "for sure", 1.25)
    assert lora["quality"].text.startswith("holds: ") and "3 seeds" in lora["quality"].text


def test_quantities_are_read_as_people_write_them() -> None:
    assert read_latency("--max-latency", "20ms@8x128") == (0.02, "8x128")
    assert read_bytes("--max-memory", "2GiB") == 2 * 2**30
    assert read_rate("--requests", "1e6/month") == 1e6
    assert read_rate("--requests", "1/s") == pytest.approx(365.2425 / 12 * 86400)
    assert read_storage_price("--storage-price", "0.02/GiB-month") == 0.02
    assert read_storage_price("--storage-price", "0.02/GB-month") == pytest.approx(0.02 * 2**30 / 1e9)
    assert read_price("--price", "2.5/h") == read_price("--price", "2.5") == 2.5


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_shape, "foo", "--flag is 'foo'; expected a shape of batch x tokens, such as 8x128"),
        (read_latency, "20ms", "expected a time at a shape"),
        (read_latency, "20@8x128", "such as 20ms@8x128"),
        (read_latency, "0ms@8x128", "expected more than 0"),
        (read_bytes, "2", "such as 2GiB"),
        (read_rate, "1e6", "such as 1e6/month"),
        (read_price, "two", "such as 2.5/h"),
        (read_storage_price, "0.02/TB", "such as 0.02/GiB-month"),
    ],
)
def test_what_is_no_quantity_is_said(read, text: str, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError, match=said):
        read("--flag", text)

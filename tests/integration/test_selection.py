"""Which runs `report --where` selects."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.errors import JobError, SpecError
from adapeff.service.reporting.report import Options, build_report
from adapeff.service.reporting.selection import Condition, Selection
from adapeff.service.store import sweeps
from adapeff.service.store.database import Database
from adapeff.service.store.tables import Run
from tests.integration.stored import store_profile
from tests.integration.test_report import store
from tests.integration.test_sweep_removal import submit


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    opened = Database(any_database_url)
    yield opened
    opened.close()


def selected(database: Database, *where: str) -> set[str]:
    """Task, method and seed of the selected runs."""
    options = Options(selection=Selection.parse(where))
    with database.session(read_only=True) as session:
        tables = build_report(session, options=options).tables
    return {f"{table.task} {row.method} {seed}" for table in tables for row in table.rows for seed in row.seeds}


def test_conditions_narrow_the_report_in_all_of_their_forms(database: Database) -> None:
    for method in ("full", "lora", "lora[rank=4]", "houlsby"):
        for seed in (0, 1):
            store(database, method, seed, 0.8, 100)
    store(database, "full", 0, 0.8, 100, tasks=["offline_nli"])

    assert selected(database, "task=offline_nli") == {"offline_nli full 0"}
    assert selected(database, "method=lora*", "seed=1") == {
        "offline_sentiment lora 1", "offline_sentiment lora[rank=4] 1",
    }  # fmt: skip
    assert selected(database, "method=lora[rank=4],houlsby", "seed=0") == {
        "offline_sentiment lora[rank=4] 0", "offline_sentiment houlsby 0",
    }  # fmt: skip
    assert selected(database, "method!=lora,houlsby", "seed!=1") == {"offline_sentiment full 0", "offline_nli full 0"}
    assert selected(database, "model=org/*", "task=*nli", "device=Test*") == {"offline_nli full 0"}
    assert selected(database, "method=LORA") == set()


def test_since_counts_from_the_end_of_runs(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "lora", 0, 0.8, 100)
    with database.session() as session:
        session.query(Run).order_by(Run.id).first().finished_at = datetime.now(UTC) - timedelta(days=10)  # type: ignore[union-attr]

    assert selected(database, "since=7d") == {"offline_sentiment lora 0"}
    assert len(selected(database, "since=2w")) == len(selected(database, "since=2020-01-31")) == 2


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("tsk=sst2", "unknown key 'tsk'; did you mean 'task'"),
        ("lora", "--where is 'lora'; expected KEY=VALUE"),
        ("method=", "expected KEY=VALUE"),
        ("since=soon", "expected a date such as 2026-01-31"),
        ("since!=7d", "since takes ="),
        ("since=0001-01-01T00:00+23:00", "expected a date such as 2026-01-31"),
        ("seed=0,first", "'first' is no seed; expected whole numbers, such as seed=0,1"),
        ("seed=1*", "'1\\*' is no seed"),
        ("method=,", "without a value"),
    ],
)
def test_what_is_no_condition_is_said(where: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Selection.parse([where])


def test_seeds_are_numbers_and_the_latest_since_counts() -> None:
    now = datetime(2026, 1, 31, tzinfo=UTC)

    assert Selection.parse(["seed=01,0"]).conditions[0].patterns == ("1", "0")
    assert Selection.parse(["since=7d", "since=2w", "since=2025-01-01"], now=now).since == now - timedelta(days=7)


def test_profiles_are_selected_by_model_and_device(database: Database) -> None:
    store_profile(database, {"lora": (0.7, 0.68, 0.72)}, device="Test GPU")

    def profiles(*where: str) -> int:
        options = Options(selection=Selection.parse(where))
        with database.session(read_only=True) as session:
            return len(build_report(session, options=options).profiles)

    assert profiles("model=org/model", "device=*GPU") == profiles("method=houlsby", "task=sst2", "seed=3") == 1
    assert profiles("model=other") == profiles("device!=*GPU") == 0


def test_a_report_knows_that_its_conditions_select_nothing(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)

    def selects_nothing(*where: str) -> bool:
        with database.session(read_only=True) as session:
            return build_report(session, options=Options(selection=Selection.parse(where))).selects_nothing

    assert selects_nothing("method=lora") and not selects_nothing("method=full") and not selects_nothing()


def test_several_sweeps_are_found_and_all_unknown_ones_named(database: Database) -> None:
    submit(database, "monday", 0)
    submit(database, "tuesday", 1)
    submit(database, "monday", 2)

    with database.session(read_only=True) as session:
        monday, tuesday = (sweeps.find_sweep_ids(session, name) for name in ("monday", "tuesday"))
        assert sweeps.find_sweeps(session, ["monday", "tuesday", str(monday[0])]) == [*monday, *tuesday]
        assert sweeps.find_sweeps(session, None) == monday
        with pytest.raises(JobError, match="no sweep 'friday' and no sweep '99'; known: monday, tuesday"):
            sweeps.find_sweeps(session, ["friday", "monday", "99"])


_NAMES = st.text(alphabet="lora[]=48*?,!", min_size=1, max_size=8)


@given(name=_NAMES)
def test_a_name_without_wildcards_selects_exactly_itself(name: str) -> None:
    pattern = name.replace("*", "").replace("?", "") or "x"
    condition = Condition("method", (pattern,), excludes=False)

    assert condition.accepts([pattern])
    assert not condition.accepts([f"{pattern}x"]) and not condition.accepts([pattern.upper() + "y"])
    assert Condition("method", (f"{pattern}*",), excludes=True).accepts([f"{pattern}z"]) is False

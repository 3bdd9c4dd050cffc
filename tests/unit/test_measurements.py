"""The registry of measurements, and a measurement's way from the runner's event to the report's look-up."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service import measurements
from adapeff.service.measured import Dimensions, Key, Measured, canonical_variant
from adapeff.service.measurements import (
    LATENCY_S,
    MAJORITY,
    MEASUREMENTS,
    STEP_RATIO,
    TRAIN_COMPUTE_S,
    changed_versions,
    measurement_table,
    report_columns,
)

texts = st.text(max_size=12)
variants = st.dictionaries(st.text(min_size=1, max_size=6), st.booleans() | st.integers() | texts, max_size=3)
keys = st.builds(
    Key,
    name=st.text(min_size=1, max_size=20),
    statistic=texts,
    phase=texts,
    language=texts,
    split=texts,
    batch=st.integers(0, 2**31),
    length=st.integers(0, 2**31),
    dtype=texts,
    variant=variants.map(canonical_variant),
    task=texts,
)


@given(keys, st.none() | st.floats(allow_nan=False, allow_infinity=False), st.text(min_size=1, max_size=6), texts)
def test_measurement_survives_the_event_and_its_json(key: Key, value: float | None, unit: str, reason: str) -> None:
    measured = Measured(key, value, unit, reason)

    event = json.loads(json.dumps({"event": "measurement", **measured.event()}))

    assert Measured.from_event(event) == measured


def test_event_names_a_member_of_a_mixture_and_omits_the_whole_job() -> None:
    whole = TRAIN_COMPUTE_S.measured(3.0, where={})
    member = TRAIN_COMPUTE_S.measured(1.0, where={"task": "offline_sentiment[difficulty=0.5]"})

    assert "task" not in whole.event()
    assert member.event()["task"] == "offline_sentiment[difficulty=0.5]"
    assert Measured.from_event(whole.event()).key.task == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 3}, {"name": ""}, {"unit": None}, {"unit": ""}, {"value": "1"}, {"batch": "8"}, {"batch": True},
        {"phase": 1}, {"task": None}, {"reason": []}, {"colour": "red"},
    ],
    ids=str,
)  # fmt: skip
def test_event_of_another_form_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Measured.from_event({"name": "wall_s", "value": 1.0, "unit": "s", **wrong})


def test_event_without_a_value_is_refused() -> None:
    with pytest.raises(KeyError):
        Measured.from_event({"name": "wall_s", "unit": "s"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="train_compute_s"):
        TRAIN_COMPUTE_S.measured(value, where={})


def test_null_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="null without a reason"):
        TRAIN_COMPUTE_S.measured(None, where={})
    assert TRAIN_COMPUTE_S.measured(None, reason="no clock", where={}).reason == "no clock"


def test_dimension_that_a_measurement_does_not_have_is_refused() -> None:
    where: Dimensions = {"language": "en"}

    with pytest.raises(ValueError, match="no dimension language"):
        LATENCY_S.measured(0.1, where=where)


def test_definition_of_a_metric_names_the_metric() -> None:
    measured = MAJORITY.of("accuracy").measured(0.5, where={"split": "test", "language": "en"})

    assert measured == Measured(Key("majority_accuracy", split="test", language="en"), 0.5, "1")


def test_a_metric_with_a_backslash_in_its_name_is_taken_literally() -> None:
    assert MAJORITY.of(r"a\g<0>\1").name == r"majority_a\g<0>\1"


def test_names_and_columns_are_unique_and_dimensions_exist() -> None:
    headings = [column.key or definition.name for definition, column in report_columns()]

    assert len(set(headings)) == len(headings)
    for name, definition in MEASUREMENTS.items():
        assert definition.name == name
        assert set(definition.dimensions) < set(Key._fields), name


def test_runs_record_the_new_versions_of_the_figures_they_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "MEASUREMENTS", {"latency_s": LATENCY_S})
    assert changed_versions("train") == changed_versions("profile") == {}

    changed = {"train_compute_s": replace(TRAIN_COMPUTE_S, version=2), "step_ratio": replace(STEP_RATIO, version=3)}
    monkeypatch.setattr(measurements, "MEASUREMENTS", {"latency_s": LATENCY_S, **changed})

    assert changed_versions("train") == {"measurement_versions": {"train_compute_s": 2}}
    assert changed_versions("profile") == {"measurement_versions": {"train_compute_s": 2, "step_ratio": 3}}


def test_table_of_the_docs_has_every_measurement_with_its_unit() -> None:
    rows = [line.split(" | ") for line in measurement_table().splitlines()[2:]]

    assert [row[0].strip("| `") for row in rows] == list(MEASUREMENTS)
    assert [row[1] for row in rows] == [definition.unit for definition in MEASUREMENTS.values()]
    assert all(len(row) == 4 for row in rows)

"""The profiles that sweeps request for their methods."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.cli.submission import counted
from adapeff.service.errors import SpecError
from adapeff.service.specs.auto_profile import profiles_of
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.profile import ProfileSpec
from adapeff.service.specs.sweep_file import parse_sweep

RAW = {
    "name": "s",
    "models": ["org/model"],
    "tasks": ["offline_sentiment", "offline_nli"],
    "methods": ["lora", "full", "lora[rank=4]"],
    "seeds": [0, 1],
}


def requested(**changes: Any) -> list[ProfileSpec]:
    sweep = parse_sweep({**RAW, **changes})
    return profiles_of(sweep, expand(sweep, data_root=None))


def test_a_sweep_requests_one_profile_of_its_methods_with_the_shapes_of_its_jobs() -> None:
    settings = {"batch_size": 16, "latency_length": 32, "latency_batches": [1, 8], "device": "cpu", "cpu_threads": 2}

    (profile,) = requested(settings=settings)

    assert [str(method) for method in profile.methods] == ["full", "lora", "lora[rank=4]"]
    shape = profile.settings
    assert (shape.batch, shape.length, shape.latency_batches, shape.latency_lengths) == (16, 32, (1, 8), (32,))
    assert (shape.device, shape.cpu_threads) == ("cpu", 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "12 jobs and 1 profile"),
        ({"models": ["a/b", "a/c"]}, "24 jobs and 2 profiles"),
        ({"profile": "off"}, "12 jobs"),
    ],
)
def test_a_submission_counts_profiles_apart(changes: dict[str, Any], said: str) -> None:
    sweep = parse_sweep({**RAW, **changes})
    jobs = expand(sweep, data_root=None)

    assert counted([*jobs, *profiles_of(sweep, jobs)]) == said


def test_each_model_and_shape_has_its_own_and_seeds_tasks_and_rates_have_none() -> None:
    assert len(requested(settings={"learning_rate": [1e-4, 1e-3]})) == 1
    assert len(requested(models=["org/model", "org/other"])) == 2
    assert [profile.settings.batch for profile in requested(settings={"batch_size": [8, 32]})] == [8, 32]
    assert requested()[0].job_hash == requested(seeds=[5])[0].job_hash


def test_longer_shapes_than_the_jobs_are_not_profiled() -> None:
    (profile,) = requested(settings={"max_length": 32, "latency_length": 64, "batch_tokens": 256})

    assert (profile.settings.length, profile.settings.batch) == (32, 8)


@given(
    max_length=st.integers(8, 512),
    latency_lengths=st.lists(st.integers(1, 512), max_size=3, unique=True),
    latency_batches=st.lists(st.integers(1, 64), max_size=3, unique=True),
    batch_tokens=st.none() | st.integers(1, 4096),
)
def test_whatever_shapes_jobs_may_have_can_be_profiled(**settings: Any) -> None:
    (profile,) = requested(settings=settings)

    shape = profile.settings
    assert 8 <= shape.length <= settings["max_length"]
    if tokens := settings["batch_tokens"]:
        assert shape.batch == 1 or shape.batch * shape.length <= tokens < (shape.batch + 1) * shape.length
    assert shape.latency_batches == tuple(settings["latency_batches"])
    assert shape.latency_lengths == (tuple(settings["latency_lengths"]) or (64,))


def test_without_full_the_first_method_is_the_reference_and_one_method_has_nothing_to_compare() -> None:
    (profile,) = requested(methods=["lora", "houlsby"])

    assert str(profile.methods[0]) == "lora"
    assert requested(methods=["lora"]) == []


@pytest.mark.parametrize("off", ["off", False])
def test_off_requests_none_and_settings_replace_the_defaults(off: Any) -> None:
    assert requested(profile=off) == []
    assert requested(profile={"blocks": 30, "variants": True})[0].settings.blocks == 30


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({"blocks": 3}, "'blocks' is 3"),
        ({"block": 30}, "unknown setting 'block'; did you mean 'blocks'"),
        ("sometimes", "'profile' is 'sometimes': input should be 'auto' or 'off'"),
    ],
)
def test_what_is_no_profile_is_said(profile: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        requested(profile=profile)

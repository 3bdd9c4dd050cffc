"""How long a worker works: durations, numbers of runs, and jobs that would not end in time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.errors import ConfigError
from adapeff.worker.daemon.limits import Limits, parse_duration


@given(st.integers(0, 9999), st.integers(0, 99999), st.integers(0, 999_999))
def test_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: int) -> None:
    total = 3600 * hours + 60 * minutes + seconds
    if total:
        assert parse_duration(f"{hours}h{minutes}m{seconds}s") == total
        parts = [f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n]
        assert parse_duration("".join(parts)) == total


@pytest.mark.parametrize("text", ["", "3", "h", "55m3h", "-1h", "0s", "1.5h", "3h 55m", "3 days", "1e3s"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ConfigError, match=f"'{text}' is not a duration; expected .* such as 3h55m, 90m or 30s"):
        parse_duration(text)


def test_runs_are_counted_over_all_threads() -> None:
    limits = Limits(max_jobs=100)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: limits.take(), range(300)))
    assert sum(taken) == 100 and limits.is_used_up


def test_run_that_did_not_start_is_given_back() -> None:
    limits = Limits(max_jobs=1)
    assert limits.take() and limits.is_used_up and not limits.take()
    limits.give_back()
    assert limits.take() and not limits.take()
    free = Limits()
    assert free.take() and not free.is_used_up and free.seconds_left is None and free.fits(1e9)


def test_job_fits_if_similar_runs_took_less_than_what_is_left() -> None:
    moment = 0.0
    limits = Limits(seconds=3600, now=lambda: moment)
    assert limits.seconds_left == 3570, "half a minute to write checkpoints"
    assert limits.fits(3570) and not limits.fits(3571) and limits.fits(None)
    moment = 3500.0
    assert limits.fits(70) and not limits.fits(71)
    moment = 4000.0
    assert limits.seconds_left == 0 and not limits.fits(1)

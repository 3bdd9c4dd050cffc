"""How many seeds would decide: t quantiles from the tables of any text on statistics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.statistics.differences import Comparison, Difference, compare_methods
from adapeff.service.statistics.planning import MOST_SEEDS, seeds_to_decide


def difference(value: float, seed_error: float | None = 0.01, *, error: float = 0.01, seeds: int = 3) -> Comparison:
    """A difference with the degrees of freedom of its seeds."""
    found = Difference(value, -1, 1, error, seeds - 1, 0.5, seeds, 0, "seeds", seed_error)
    return Comparison(found, found)


@pytest.mark.parametrize(
    ("found", "level", "expected"),
    [
        # 2.776 x 0.01 sqrt(3 / 5) = 0.0215 for 5 seeds, 2.571 x 0.01 sqrt(3 / 6) = 0.0182 for 6
        pytest.param(difference(-0.02), 0.05, 6, id="significant"),
        pytest.param(difference(0.02), 0.05, 4, id="within: 0.02 - 2.353 x 0.01 sqrt(3 / 4) > -0.01"),
        # 3.365 x 0.00707 = 0.0238 for 6, 3.143 x 0.00655 = 0.0206 for 7, 2.998 x 0.00612 = 0.0184 for 8
        pytest.param(difference(-0.02), 0.02, 8, id="at a level shared with other methods"),
        # -0.002 - 1.771 x 0.00463 = -0.0102 for 14, -0.002 - 1.761 x 0.00447 = -0.0099 for 15
        pytest.param(difference(-0.002), 0.05, 15, id="within"),
        # 2.262 x 0.00548 = 0.0124 for 10, 2.228 x 0.00522 = 0.0116 for 11
        pytest.param(difference(-0.012), 0.05, 11, id="significant, nearer to nothing"),
    ],
)
def test_seeds_are_those_of_the_table_of_t(found: Comparison, level: float, expected: int) -> None:
    assert seeds_to_decide(found, 0.01, level=level) == expected


def test_test_examples_do_not_multiply_with_seeds() -> None:
    assert seeds_to_decide(difference(-0.012, 0.001, error=0.012), 0.01, level=0.05) == MOST_SEEDS + 1


def test_one_seed_tells_nothing_of_others() -> None:
    assert seeds_to_decide(compare_methods([0.8], [0.7]), 0.01, level=0.05) is None
    assert seeds_to_decide(difference(-0.02, None), 0.01, level=0.05) is None
    assert seeds_to_decide(difference(-0.02, seeds=MOST_SEEDS), 0.01, level=0.05) is None


@given(st.floats(-0.1, 0.1), st.floats(0.001, 0.1), st.integers(2, 10), st.floats(1.5, 4))
def test_a_wider_spread_needs_as_many_seeds_or_more(value: float, error: float, seeds: int, wider: float) -> None:
    few, many = (
        seeds_to_decide(difference(value, of_seeds, error=of_seeds, seeds=seeds), 0.01, level=0.05)
        for of_seeds in (error, wider * error)
    )

    assert few is not None and many is not None and seeds < few <= many <= MOST_SEEDS + 1

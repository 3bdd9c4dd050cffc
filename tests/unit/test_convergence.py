"""Time to target and its three factors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.reporting.convergence import TARGETS, Curves, best_score, to_targets, when_reached


def run(scores: list[float], *, every: int = 10, flops: float = 100.0, seconds: float = 0.5) -> Curves:
    steps = [every * (at + 1) for at in range(len(scores))]
    return {
        "validation_accuracy": list(zip(steps, scores, strict=True)),
        "train_samples": [(step, step * 32) for step in steps],
        "train_compute_s": [(step, step * seconds) for step in steps],
        "train_flops": [(step, step * flops) for step in steps],
    }


def test_a_target_is_reached_at_the_first_validation_not_below_it() -> None:
    reached = when_reached(run([0.5, 0.8, 0.7, 0.9]), "accuracy", 0.8)

    assert reached is not None
    assert (reached.steps, reached.samples, reached.compute_s, reached.flops) == (20, 640, 10, 2000)
    assert when_reached(run([0.5, 0.8]), "accuracy", 0.81) is None
    assert when_reached({}, "accuracy", 0.1) is None


def test_targets_are_shares_of_the_references_mean_best() -> None:
    runs = {"full": [run([0.7, 0.9]), run([0.7, 0.7])], "lora": [run([0.6, 0.72, 0.8]), run([0.6, 0.6, 0.6])]}

    found = to_targets(runs, reference="full", metric="accuracy")
    ninety = found["lora"][0]

    assert ninety.score == pytest.approx(0.9 * 0.8)
    assert (ninety.seeds, ninety.reached) == (2, 1)
    assert ninety.mean is not None and ninety.mean.steps == 20
    assert found["lora"][-1].reached == 1
    assert to_targets(runs, reference="houlsby", metric="accuracy") == {}


@given(st.lists(st.floats(0.1, 1), min_size=1, max_size=8), st.floats(1, 1e6), st.floats(1e-3, 10), st.integers(1, 50))
def test_steps_and_flops_per_step_multiply_to_the_flops(
    scores: list[float], flops: float, seconds: float, every: int
) -> None:
    found = to_targets(
        {"full": [run(scores, every=every, flops=flops, seconds=seconds)]}, reference="full", metric="accuracy"
    )["full"]

    assert len(found) == len(TARGETS)
    for cell in found:
        assert cell.mean is not None and cell.flops_per_step is not None
        assert cell.mean.steps * cell.flops_per_step == pytest.approx(cell.mean.flops)


def test_lower_scores_are_reached_from_above() -> None:
    """For a metric such as an error rate: half of the reference's best is twice the error."""
    curves: Curves = {
        "validation_error": [[10, 0.5], [20, 0.2], [30, 0.1]],
        **{name: [[10, 10], [20, 20], [30, 30]] for name in ("train_samples", "train_compute_s", "train_flops")},
    }

    found = to_targets({"full": [curves]}, reference="full", metric="error", higher_is_better=False)["full"]

    assert found[-1].score == 0.1 and found[-1].mean is not None and found[-1].mean.steps == 30
    assert found[0].score == pytest.approx(0.1 / 0.9) and found[0].mean is not None and found[0].mean.steps == 30
    assert best_score(curves, "error", higher_is_better=False) == 0.1

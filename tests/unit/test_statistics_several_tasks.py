"""Methods over several tasks: agreement with scipy and with the published worked example, and laws."""

from __future__ import annotations

from itertools import combinations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from adapeff.service.statistics.ranks import critical_difference, friedman, mean_ranks, wilcoxon
from adapeff.service.statistics.several_tasks import interquartile_mean, probability_of_improvement

SCORE = st.integers(0, 100).map(lambda value: value / 100)

DEMSAR = {
    "C4.5": [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1, 0.940, 0.619, 0.972, 0.957],
    "C4.5+m": [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1, 0.962, 0.666, 0.981, 0.978],
    "C4.5+cf": [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1, 0.965, 0.614, 0.9751, 0.946],
    "C4.5+m+cf": [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1, 0.962, 0.669, 0.975, 0.970],
}
"""Demšar 2006, table 6; the table ranks 0.975 of C4.5+cf in `voting` above the other 0.975."""


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[float]]:
    """Scores of 2 to 5 methods on 1 to 8 tasks, with ties."""
    tasks = draw(st.integers(1, 8))
    names = [f"method{at}" for at in range(draw(st.integers(2, 5)))]
    return {name: draw(st.lists(SCORE, min_size=tasks, max_size=tasks)) for name in names}


def test_ranks_and_tests_of_the_published_example() -> None:
    """Mean ranks 3.143, 2.000, 2.893, 1.964; T = 12 between C4.5 and C4.5+m, rejected at 5 %."""
    assert mean_ranks(DEMSAR) == pytest.approx(
        {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}, abs=5e-4
    )
    expected = stats.wilcoxon(numpy.subtract(DEMSAR["C4.5"], DEMSAR["C4.5+m"]), zero_method="zsplit")
    assert expected.statistic == 12
    assert wilcoxon(DEMSAR["C4.5"], DEMSAR["C4.5+m"]) == pytest.approx(expected.pvalue, abs=0.005)
    assert wilcoxon(DEMSAR["C4.5"], DEMSAR["C4.5+m"]) < 0.05
    assert friedman(DEMSAR) == pytest.approx(stats.friedmanchisquare(*DEMSAR.values()).pvalue)


@given(st.lists(st.integers(-500, 500).filter(bool), min_size=1, max_size=25, unique_by=abs))
def test_signed_rank_test_without_ties_is_scipys(differences: list[int]) -> None:
    scores = [value / 1000 for value in differences]

    expected = stats.wilcoxon(differences, method="exact").pvalue if len(scores) > 1 else 1.0

    assert wilcoxon(scores, [0.0] * len(scores)) == pytest.approx(expected)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_signed_rank_test_with_ties_counts_all_signs(differences: list[int]) -> None:
    sizes = stats.rankdata(numpy.abs(differences))
    moved = sizes[numpy.array(differences) != 0]
    signs = (numpy.arange(2 ** len(moved))[:, None] >> numpy.arange(len(moved))) & 1
    sums, own = signs @ moved, sizes[numpy.array(differences) > 0].sum()

    expected = min(1.0, 2 * min((sums <= own + 1e-9).mean(), (sums >= own - 1e-9).mean()))

    assert wilcoxon([value / 7 for value in differences], [0.0] * len(differences)) == pytest.approx(expected)


@given(tables())
def test_friedmans_test_is_scipys(table: dict[str, list[float]]) -> None:
    alike = all(len(set(of_task)) == 1 for of_task in zip(*table.values(), strict=True))
    if len(table) < 3 or alike:
        return

    assert friedman(table) == pytest.approx(stats.friedmanchisquare(*table.values()).pvalue, abs=1e-9)


@given(tables(), st.floats(0.01, 100), st.floats(-5, 5))
def test_cliques_hold_methods_that_do_not_differ_and_units_do_not_matter(
    table: dict[str, list[float]], scale: float, shift: float
) -> None:
    found = critical_difference(table)
    together = {pair for clique in found.cliques for pair in combinations(clique, 2)}

    assert sum(found.ranks) == pytest.approx(len(table) * (len(table) + 1) / 2)
    assert list(found.ranks) == sorted(found.ranks)
    assert sorted(found.methods) == sorted(table)
    alike = found.friedman_p is not None and found.friedman_p >= 0.05
    assert together == {pair for pair, p in found.p_values.items() if alike or p >= 0.05}
    assert found.tasks >= found.tasks_needed or min(found.p_values.values()) >= 0.05
    moved = {name: [scale * score + shift for score in scores] for name, scores in table.items()}
    assert critical_difference(moved).ranks == pytest.approx(found.ranks)


def test_two_groups_of_methods_are_two_cliques() -> None:
    draw = numpy.random.default_rng(0)
    base = {"a": 0.9, "b": 0.9, "c": 0.6, "d": 0.6}
    found = critical_difference({name: (level + 0.01 * draw.random(20)).tolist() for name, level in base.items()})

    assert [set(clique) for clique in found.cliques] == [{"a", "b"}, {"c", "d"}]
    assert found.friedman_p is not None and found.friedman_p < 0.001
    assert (found.tasks, found.tasks_needed) == (20, 8)


def test_best_possible_scores_differ_from_tasks_needed_on() -> None:
    def differs(tasks: int) -> bool:
        return not critical_difference({"a": [0.9 + at / 1000 for at in range(tasks)], "b": [0.5] * tasks}).cliques

    needed = critical_difference({"a": [0.9], "b": [0.5]}).tasks_needed
    assert (differs(needed - 1), differs(needed)) == (False, True)


def test_ranks_need_the_same_tasks() -> None:
    tables_without_ranks: list[dict[str, list[float]]] = [
        {"a": [0.5]},
        {"a": [0.5], "b": [0.5, 0.6]},
        {"a": [], "b": []},
    ]
    for table in tables_without_ranks:
        with pytest.raises(ValueError, match="same tasks"):
            mean_ranks(table)


@given(st.lists(st.lists(SCORE, min_size=4, max_size=4), min_size=1, max_size=5))
def test_interquartile_mean_is_the_trimmed_mean(scores: list[list[float]]) -> None:
    found = interquartile_mean(scores)

    assert found.value == pytest.approx(stats.trim_mean(numpy.ravel(scores), 0.25))
    assert found.low is None or found.high is None or found.low <= found.value <= found.high


def test_tasks_weigh_the_same_whatever_their_seeds() -> None:
    assert interquartile_mean([[0.2], [0.4] * 9]).value == pytest.approx(0.3)
    assert interquartile_mean([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]]).value == pytest.approx(0.5)


@given(st.lists(st.tuples(*[st.lists(SCORE, min_size=1, max_size=4)] * 2), min_size=1, max_size=4))
def test_probability_of_improvement_is_mann_whitneys_and_antisymmetric(tasks: list[tuple[list[float], ...]]) -> None:
    ours, theirs = [task[0] for task in tasks], [task[1] for task in tasks]
    found, other = probability_of_improvement(ours, theirs), probability_of_improvement(theirs, ours)

    expected = [stats.mannwhitneyu(a, b).statistic / len(a) / len(b) for a, b in tasks]

    assert found.value == pytest.approx(float(numpy.mean(expected)))
    assert other.value == pytest.approx(1 - found.value)
    assert found.low is None or found.high is None or 0 <= found.low <= found.value <= found.high <= 1


def test_figures_over_tasks_have_intervals_only_where_the_seeds_vary() -> None:
    one_seed, clear = [[0.5], [0.6, 0.7]], [[0.8, 0.9], [0.9, 0.95]]

    assert interquartile_mean(one_seed).low is None
    assert probability_of_improvement(clear, [[0.1, 0.2], [0.3, 0.4]]) == probability_of_improvement(
        clear, [[0.0, 0.1], [0.2, 0.2]]
    )
    assert probability_of_improvement(clear, [[0.1, 0.2], [0.3, 0.4]]).low is None
    assert interquartile_mean(clear).low is not None


@pytest.mark.parametrize(("seeds", "tasks"), [(3, 6), (5, 4)])
def test_intervals_of_few_seeds_hold(seeds: int, tasks: int) -> None:
    """Equal tasks: the interquartile mean of normal scores is their mean, and improvement is as likely as not."""
    draw, sweeps, middle, improved = numpy.random.default_rng(0), 150, 0, 0
    for _ in range(sweeps):
        ours, theirs = draw.normal(0.8, 0.02, (2, tasks, seeds)).tolist()
        mean, wins = interquartile_mean(ours), probability_of_improvement(ours, theirs)
        middle += mean.low is not None and mean.high is not None and mean.low <= 0.8 <= mean.high
        improved += wins.low is not None and wins.high is not None and wins.low <= 0.5 <= wins.high

    assert 0.88 <= middle / sweeps <= 1 and 0.90 <= improved / sweeps <= 1

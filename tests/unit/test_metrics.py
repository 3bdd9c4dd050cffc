"""Metrics against independent implementations: scikit-learn, SciPy, seqeval, SQuAD's rules worked by hand."""

from __future__ import annotations

import string
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, matthews_corrcoef

from adapeff.worker.metrics import METRICS
from adapeff.worker.metrics.entities import entities
from adapeff.worker.metrics.multi_label import LabelScores
from adapeff.worker.metrics.squad import normalise
from adapeff.worker.training.evaluate import bootstrap

Pairs = list[tuple[int, int]]
labels = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60)


@given(labels)
def test_scores_of_labels_equal_scikit_learns(pairs: Pairs) -> None:
    gold, predicted = zip(*pairs, strict=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that never occur
        theirs = {
            "accuracy": accuracy_score(gold, predicted),
            "macro_f1": f1_score(gold, predicted, average="macro", zero_division=0),
            "weighted_f1": f1_score(gold, predicted, average="weighted", zero_division=0),
            "matthews_correlation": matthews_corrcoef(gold, predicted),
        }

    assert {name: METRICS[name].compute(gold, predicted) for name in theirs} == pytest.approx(theirs, abs=1e-12)


TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-PER", "S-LOC", "E-LOC", "B-a-b", "I-a-b")


@st.composite
def sentences(draw: st.DrawFn) -> list[tuple[list[str], list[str]]]:
    """Gold and predicted tags of some sentences: any tag may follow any other."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    tag = st.sampled_from(TAGS)
    return [(draw(st.lists(tag, min_size=n, max_size=n)), draw(st.lists(tag, min_size=n, max_size=n))) for n in lengths]


@given(sentences())
def test_scores_of_entities_equal_seqevals(pairs: list[tuple[list[str], list[str]]]) -> None:
    """Of any tags whatever, in order or not: as seqeval counts by default."""
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

    gold, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sentences without an entity
        theirs = {
            "entity_f1": f1_score(gold, predicted),
            "entity_precision": precision_score(gold, predicted),
            "entity_recall": recall_score(gold, predicted),
            "token_accuracy": accuracy_score(gold, predicted),
        }

    assert {name: METRICS[name].compute(gold, predicted) for name in theirs} == pytest.approx(theirs, abs=1e-12)


@given(sentences())
def test_macro_f1_of_plain_tags_equals_scikit_learns(pairs: list[tuple[list[str], list[str]]]) -> None:
    gold, predicted = [tag for a, _ in pairs for tag in a], [tag for _, b in pairs for tag in b]
    theirs = f1_score(gold, predicted, average="macro")

    ours = METRICS["token_macro_f1"].compute([a for a, _ in pairs], [b for _, b in pairs])

    assert ours == pytest.approx(theirs, abs=1e-12)


@given(sentences())
def test_entities_equal_seqevals(pairs: list[tuple[list[str], list[str]]]) -> None:
    from seqeval.metrics.sequence_labeling import get_entities

    for tags, _ in pairs:
        assert entities(tags) == set(get_entities(tags))


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (["B-PER", "I-PER", "O", "B-LOC"], {("PER", 0, 1), ("LOC", 3, 3)}),
        (["I-PER", "I-PER", "I-LOC"], {("PER", 0, 1), ("LOC", 2, 2)}),
        (["B-PER", "B-PER"], {("PER", 0, 0), ("PER", 1, 1)}),
        (["B-PER", "I-LOC", "I-PER"], {("PER", 0, 0), ("LOC", 1, 1), ("PER", 2, 2)}),
        (["B-PER", "E-PER", "I-PER", "S-PER"], {("PER", 0, 1), ("PER", 2, 2), ("PER", 3, 3)}),
        (["O", "O"], set()),
    ],
)
def test_entities_by_hand(tags: list[str], found: set[tuple[str, int, int]]) -> None:
    assert entities(tags) == found


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Apollo-11 mission,", "apollo11 mission"),
        ("a an the", ""),
        ("Theatre of an Anthem", "theatre of anthem"),
        ("U.S.", "us"),
        ("l'an 2000", "lan 2000"),
        ("«Ça»", "«ça»"),
    ],
)
def test_answers_are_normalised_as_squad_says(text: str, normal: str) -> None:
    """Lower case, ASCII punctuation out, the articles a, an, the out as whole words, white space made single."""
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("golds", "predicted", "exact", "f1"),
    [
        (("Denver Broncos",), "The Denver Broncos!", 1, 1),
        (("Denver Broncos",), "Denver", 0, 2 / 3),  # precision 1, recall 1/2
        (("gold", "the golden anniversary"), "golden", 0, 2 / 3),  # the best of several gold answers
        (("a b c d",), "b d e", 0, 2 * (2 / 3) * (2 / 3) / (4 / 3)),  # "a" is an article: gold has b c d
        (
            ("to be or not to be",),
            "be be be",
            0,
            2 * (2 / 3) * (2 / 6) / (2 / 3 + 2 / 6),
        ),  # each word as often as it is
        (("yes",), "no", 0, 0),
        (("yes",), "", 0, 0),
        (("the",), "a", 1, 0),  # nothing is left of both: equal texts, no common word
        (("北京",), "北京市", 0, 0),  # split at white space alone
    ],
)
def test_squad_scores_by_hand(golds: tuple[str, ...], predicted: str, exact: float, f1: float) -> None:
    assert METRICS["exact_match"].compute([golds], [predicted]) == exact
    assert METRICS["squad_f1"].compute([golds], [predicted]) == pytest.approx(f1)


words = st.lists(st.sampled_from(["the", "The", "cat", "sat,", "on", "mat", "a", "---", "été"]), max_size=6).map(
    " ".join
)


@given(st.lists(st.tuples(st.lists(words, min_size=1, max_size=3), words), min_size=1, max_size=10))
def test_laws_of_squad_scores(pairs: list[tuple[list[str], str]]) -> None:
    """Scores lie in 0..1; a gold text in other case and punctuation is exact; more gold answers never hurt."""
    golds, predicted = [gold for gold, _ in pairs], [text for _, text in pairs]
    exact, f1 = METRICS["exact_match"], METRICS["squad_f1"]

    assert 0 <= f1.compute(golds, predicted) <= 1
    assert exact.compute(golds, [gold[-1].upper() + " ." for gold in golds]) == 1
    fewer = [gold[:1] for gold in golds]
    for metric in (exact, f1):
        assert metric.compute(golds, predicted) >= metric.compute(fewer, predicted)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_no_answers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="0 gold and 0 predicted"):
        METRICS[name].compute([], [])
    with pytest.raises(ValueError, match="1 gold and 2 predicted"):
        METRICS[name].compute([0], [0, 1])


@given(labels)
def test_scores_do_not_depend_on_the_order_of_the_examples(pairs: Pairs) -> None:
    shuffled = sorted(pairs)
    for name in ("accuracy", "macro_f1", "weighted_f1", "matthews_correlation"):
        metric = METRICS[name]
        both = [metric.compute(*zip(*some, strict=True)) for some in (pairs, shuffled)]
        assert both[0] == pytest.approx(both[1], abs=1e-12)


def test_bootstrap_has_the_spread_that_the_binomial_predicts() -> None:
    """300 answers, two thirds of them right: the standard error is sqrt(p (1 - p) / n) = 2.72 points."""
    gold, predicted = [0] * 300, [0] * 200 + [1] * 100

    (samples,) = bootstrap(METRICS["accuracy"], gold, [predicted])

    assert samples.mean() == pytest.approx(2 / 3, abs=0.005)
    assert samples.std(ddof=1) == pytest.approx((2 / 9 / 300) ** 0.5, rel=0.1)


def test_bootstrap_draws_the_same_samples_for_both_of_a_pair() -> None:
    """Two ways right on the same examples and one wrong there: no spread between the equal ones, a constant sum."""
    gold = [0, 1] * 50
    one, other = [0] * 100, [1] * 100

    same, again, opposite = bootstrap(METRICS["accuracy"], gold, [one, one, other])

    assert numpy.array_equal(same, again)
    assert same + opposite == pytest.approx(1)
    assert same.std() > 0.03


WORDS = ("the red", "cat", "Cat!", "a dog", "the", "")
answers = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS[:-2]), max_size=3), st.sampled_from(WORDS)), min_size=1, max_size=20
)


def official(golds: Sequence[str], answer: str) -> tuple[float, float]:
    """Exact match and F1 of one question by SQuAD 2.0's definition: no answer is right where there is none.

    Rajpurkar et al. 2018, section 2.2; the answers are normalised as in Rajpurkar et al. 2016, section 6.1.
    """

    def tokens(text: str) -> list[str]:
        lowered = "".join(sign for sign in text.lower() if sign not in string.punctuation)
        return [word for word in lowered.split() if word not in ("a", "an", "the")]

    predicted, best_exact, best_f1 = tokens(answer), 0.0, 0.0
    for gold in map(tokens, golds or [""]):
        best_exact = max(best_exact, float(gold == predicted))
        same = sum((Counter(gold) & Counter(predicted)).values())
        f1 = 2 * same / (len(gold) + len(predicted)) if gold and predicted else float(gold == predicted)
        best_f1 = max(best_f1, f1)
    return best_exact, best_f1


@given(answers)
def test_scores_of_questions_without_an_answer_are_squad_2s(found: list[tuple[list[str], str]]) -> None:
    golds, predicted = [tuple(gold) for gold, _ in found], [answer for _, answer in found]
    each = [official(gold, answer) for gold, answer in found]
    of_those = {
        some: [pair for gold, pair in zip(golds, each, strict=True) if bool(gold) is some] for some in (True, False)
    }

    def mean(pairs: list[tuple[float, float]], at: int) -> float:
        return sum(pair[at] for pair in pairs) / len(pairs) if pairs else 0.0

    theirs = {
        "exact_match": mean(each, 0),
        "squad_f1": mean(each, 1),
        "has_answer_exact": mean(of_those[True], 0),
        "has_answer_f1": mean(of_those[True], 1),
        "no_answer_accuracy": mean(of_those[False], 0),
    }
    assert {name: METRICS[name].compute(golds, predicted) for name in theirs} == pytest.approx(theirs, abs=1e-12)


number = st.sampled_from([0.0, 0.5, 1.0, 2.5]) | st.floats(-5, 5).map(lambda value: round(value, 3))
pairs = st.lists(st.tuples(number, number), min_size=2, max_size=60)


@given(pairs)
def test_correlations_equal_scipys(found: list[tuple[float, float]]) -> None:
    """With ties, which share their mean rank; where SciPy says that a constant has none, ours is 0."""
    gold, predicted = zip(*found, strict=True)
    constant = len(set(gold)) == 1 or len(set(predicted)) == 1

    for name, theirs in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of constants
            expected = 0.0 if constant else float(theirs(gold, predicted).statistic)
        assert METRICS[name].compute(gold, predicted) == pytest.approx(expected, abs=1e-10)


def test_scores_by_hand() -> None:
    gold, predicted = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 6.0]

    assert METRICS["mse"].compute(gold, predicted) == (0 + 1 + 1 + 4) / 4
    assert METRICS["spearman"].compute(gold, predicted) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert METRICS["pearson"].compute(gold, predicted) == pytest.approx(7 / (5 * 14) ** 0.5)
    assert METRICS["pearson"].compute(gold, [0.1] * 4) == METRICS["spearman"].compute(gold, [0.1] * 4) == 0
    assert [METRICS[name].unit for name in ("pearson", "spearman", "mse")] == ["", "", ""]


@given(pairs)
def test_correlations_do_not_depend_on_scale(found: list[tuple[float, float]]) -> None:
    gold, predicted = zip(*found, strict=True)
    scaled = [3 * value + 2 for value in predicted]

    for name in ("pearson", "spearman"):
        assert -1 <= METRICS[name].compute(gold, predicted) <= 1
        assert METRICS[name].compute(gold, scaled) == pytest.approx(METRICS[name].compute(gold, predicted), abs=1e-6)


def test_metric_picks_the_better_of_scores() -> None:
    assert METRICS["mse"].best([2.0, 0.5, 1.0]) == 0.5
    assert METRICS["pearson"].best([0.2, -0.5]) == 0.2


def test_bootstrap_recomputes_what_is_no_function_of_sums() -> None:
    """The standard error of a correlation r of n normal pairs is about (1 - r^2) / sqrt(n)."""
    draw = numpy.random.default_rng(0)
    gold = draw.normal(size=400)
    predicted = 0.6 * gold + 0.8 * draw.normal(size=400)

    same, again, _ = bootstrap(METRICS["pearson"], gold.tolist(), [predicted.tolist()] * 2 + [gold.tolist()])

    assert numpy.array_equal(same, again)
    assert same.std(ddof=1) == pytest.approx((1 - 0.6**2) / 20, rel=0.25)


K = 4
sets = st.sets(st.integers(0, K - 1)).map(lambda found: tuple(sorted(found)))
graded = st.tuples(*[st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])] * K)
scored = st.lists(st.tuples(sets, graded), min_size=1, max_size=30)


@given(scored)
def test_scores_of_several_labels_equal_scikit_learns(found: list[tuple[tuple[int, ...], tuple[float, ...]]]) -> None:
    """Labels are those of at least 0.5. Of a label that is never gold, average precision is not defined."""
    golds = [gold for gold, _ in found]
    answers = [LabelScores(tuple(at for at in range(K) if scores[at] >= 0.5), scores) for _, scores in found]
    is_gold = numpy.array([[at in gold for at in range(K)] for gold in golds])
    graded_by = numpy.array([scores for _, scores in found])
    is_predicted = graded_by >= 0.5
    occurring, ever = (is_gold | is_predicted).any(axis=0), is_gold.any(axis=0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that never occur
        each = f1_score(is_gold, is_predicted, average=None, zero_division=0)
        precisions = average_precision_score(is_gold, graded_by, average=None)
        theirs = {
            "micro_f1": f1_score(is_gold, is_predicted, average="micro", zero_division=0),
            "multi_label_macro_f1": each[occurring].mean() if occurring.any() else 0.0,
            "mean_average_precision": numpy.atleast_1d(precisions)[ever].mean() if ever.any() else 0.0,
        }

    assert {name: METRICS[name].compute(golds, answers) for name in theirs} == pytest.approx(theirs, abs=1e-12)


def test_average_precision_by_hand() -> None:
    """Gold at ranks 1 and 3 of 4: (1/1 + 2/3) / 2; all of one score: the share of gold examples."""
    golds = [(0,), (), (0,), ()]
    metric = METRICS["mean_average_precision"]

    ranked = [LabelScores((), (score,)) for score in (0.9, 0.8, 0.7, 0.6)]
    assert metric.compute(golds, ranked) == pytest.approx((1 + 2 / 3) / 2)
    assert metric.compute(golds, [LabelScores((), (0.3,))] * 4) == 0.5

"""SQuAD's exact match and F1 (Rajpurkar et al. 2016, section 6.1): of several gold answers the best counts.

A question without an answer is right where none is given, and only then (SQuAD 2.0: Rajpurkar et al. 2018,
arXiv:1806.03822, section 5; an empty prediction to a question that has one scores 0).

Texts are compared in lower case, without ASCII punctuation and English articles, and split at white space; so Chinese
F1 is close to exact match, as in XQuAD's published figures.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from adapeff.service.plugins.contracts import Metric

Golds = Sequence[Sequence[str]]
Counts = list[tuple[float, ...]]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, then no punctuation, then no articles, then single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


NONE = ""
"""The answer that there is none."""


def _best(score: Callable[[str, str], float], golds: Sequence[str], predicted: str) -> float:
    if not golds:  # an answer of which nothing is left counts as none, as in SQuAD 2.0's script
        return float(normalise(predicted) == NONE)
    return max(score(gold, predicted) for gold in golds)


def _exact(gold: str, predicted: str) -> float:
    return float(normalise(gold) == normalise(predicted))


def _overlap(gold: str, predicted: str) -> float:
    """F1 of two bags of words; 0 without a common word, so also where nothing is left of both."""
    ours, theirs = normalise(predicted).split(), normalise(gold).split()
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _exact_counts(golds: Golds, predicted: Sequence[str]) -> Counts:
    return [(_best(_exact, some, text), 1.0) for some, text in zip(golds, predicted, strict=True)]


def _f1_counts(golds: Golds, predicted: Sequence[str]) -> Counts:
    return [(_best(_overlap, some, text), 1.0) for some, text in zip(golds, predicted, strict=True)]


def _of_those(counts: Callable[[Golds, Sequence[str]], Counts], *, with_answer: bool) -> Callable[..., Counts]:
    """The counts of the questions that have an answer, or of those that have none; nothing of the others."""

    def chosen(golds: Golds, predicted: Sequence[str]) -> Counts:
        found = counts(golds, predicted)
        return [pair if bool(some) == with_answer else (0.0, 0.0) for some, pair in zip(golds, found, strict=True)]

    return chosen


def _mean(sums: Sequence[float]) -> float:
    return sums[0] / sums[1] if sums[1] else 0.0


_FAMILIES: tuple[str, ...] = ("question_answering",)
SQUAD_F1 = Metric(
    "squad_f1",
    "word overlap with the best gold answer, averaged over questions",
    True,
    _f1_counts,
    _mean,
    _FAMILIES,
)
SQUAD_METRICS = (
    SQUAD_F1,
    Metric("exact_match", "share of the answers equal to a gold one", True, _exact_counts, _mean, _FAMILIES),
    Metric(
        "has_answer_f1",
        "squad_f1 over the questions that have an answer",
        True,
        _of_those(_f1_counts, with_answer=True),
        _mean,
        _FAMILIES,
    ),
    Metric(
        "has_answer_exact",
        "exact_match over the questions that have an answer",
        True,
        _of_those(_exact_counts, with_answer=True),
        _mean,
        _FAMILIES,
    ),
    Metric(
        "no_answer_accuracy",
        "share of the questions without an answer that are given none",
        True,
        _of_those(_exact_counts, with_answer=False),
        _mean,
        _FAMILIES,
    ),
)

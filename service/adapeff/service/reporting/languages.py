"""A method's score in one language, and whether it beats the trivial baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapeff.service.measurements import EXAMPLES, MAJORITY, NOISE
from adapeff.service.reporting.columns import MetricView
from adapeff.service.reporting.runs import Result
from adapeff.service.statistics.summaries import Summary, summarise, within_noise


@dataclass(frozen=True)
class LanguageCell:
    """A method's score in one language; `at_chance` if it is within noise of the trivial baseline."""

    summary: Summary
    baseline: float
    """The trivial baseline's score."""
    at_chance: bool


def language_cell(ordered: Sequence[Result], metric: MetricView, language: str, variant: str) -> LanguageCell | None:
    """Summarise a score over the seeds and compare it with the trivial baseline; None if either is missing."""
    trained = ordered[0]
    baseline = trained.read(MAJORITY.of(metric.name).name, split="test", language=language).value
    examples = trained.read(EXAMPLES.name, split="test", language=language).value
    readings = [r.as_variant(variant).read(metric.name, split="test", language=language) for r in ordered]
    scores = [reading.value for reading in readings if reading.value is not None]
    if not scores or baseline is None or not examples:
        return None
    summary = summarise(scores)
    noise = trained.read(NOISE.of(metric.name).name, split="test", language=language).value
    if noise is not None:
        above = summary.mean - baseline if metric.higher_is_better else baseline - summary.mean
        return LanguageCell(summary, baseline, above <= noise)
    # Runs of older versions did not measure the noise. Their scores are accuracies, whose noise is binomial.
    return LanguageCell(summary, baseline, within_noise(summary.mean, baseline, int(examples)))

"""The study's claim on multi-task training, judged on a report: as good to extend as adapters, and cheaper to train.

Its model is `full` on a mixture of tasks. It is compared with one adapter per task in three respects: the quality of
each task next to `full` on the task alone, the time until every task reaches a share of that quality, and what the old
tasks lose and the new one gains when a task is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from adapeff.service.reporting.costs import Cost
from adapeff.service.reporting.decision import MARGIN
from adapeff.service.reporting.growth import Addition
from adapeff.service.reporting.growth_grids import way_words
from adapeff.service.reporting.members import FULL
from adapeff.service.reporting.multitask import MixtureComparison
from adapeff.service.statistics.equivalence import is_non_inferior

if TYPE_CHECKING:
    from adapeff.service.reporting.report import Report

Ratio = tuple[float, float, float]
"""A ratio with its 95 % interval."""


def multitask_facts(report: Report, is_adapter: Callable[[Any], bool]) -> Iterator[dict[str, Any]]:
    """What the report shows on the claim: the fields of a `Judgement` for each row.

    Intervals are not adjusted for the number of tasks.

    Args:
        is_adapter: whether a method, by its reference, is an adapter.
    """
    margin = next((each.margin for each in report.decisions if each.table.metric.unit == "%"), MARGIN)
    for found in report.mixtures:
        if str(found.plugin) == FULL:
            about = {"model": found.model, "task": found.title, "device": found.device}
            outcome, test = _quality(found, margin)
            yield {**about, "method": f"{found.method} on the mixture", "outcome": outcome, "test": test}
            for each in _times(report, found, is_adapter):
                yield {**about, **each}
    ways: dict[tuple[str, str, str], list[Addition]] = {}
    for addition in report.additions:
        if addition.way.kind == "extension" and addition.way.method == FULL:
            ways.setdefault((addition.model, addition.device, way_words(addition.way)), []).append(addition)
    for (model, device, way), additions in ways.items():
        outcome, test = _extension(additions, margin)
        tasks = f"{len(additions)} addition{'' if len(additions) == 1 else 's'}"
        yield {"model": model, "task": tasks, "device": device, "method": way, "outcome": outcome, "test": test}


def _quality(found: MixtureComparison, margin: float) -> tuple[str, str]:
    """Whether every task is within the margin of `full` alone."""
    differences = [task.to_full for task in found.tasks if task.is_first]
    known = [each for each in differences if each is not None]
    if not known or len(known) < len(differences):
        return "not measured", f"{FULL} did not run on each task alone with equal settings"
    within = sum(bool(is_non_inferior(each, margin)) for each in known)
    below = sum(each.high is not None and each.high < -margin for each in known)
    test = f"{within} of {len(known)} tasks within {_points(margin)} of {FULL} alone, {below} clearly below"
    return _of_counts(within, below, len(known)), test


def _of_counts(held: int, broken: int, total: int) -> str:
    return "contradicted" if broken else "supported" if held == total else "undecided"


def _points(margin: float) -> str:
    points = f"{100 * margin:.3g}"
    return f"{points} point{'' if points == '1' else 's'}"


def _times(report: Report, mixture: MixtureComparison, is_adapter: Callable[[Any], bool]) -> Iterator[dict[str, Any]]:
    """The time to targets of the mixture over the sum of the times of an adapter per task."""
    for method, step in _adapters(report, mixture, is_adapter).items():
        own = next((each for each in report.mixtures if _is_same(each, mixture) and each.method == method), None)
        for number, target in enumerate(mixture.targets):
            about = {"method": f"{mixture.method} on the mixture, {method} alone", "target": target.share}
            alone = own.targets[number].alone if own is not None and own.targets else None
            if target.mixture is None or target.reached < len(mixture.seeds):
                outcome = "undecided" if target.reached else "never reached"
                test = f"{target.reached} of {len(mixture.seeds)} seeds of the mixture reach it"
                yield {**about, "outcome": outcome, "test": test}
            elif own is None or own.alone is None:
                test = f"{method} did not run on each task alone and on the mixture"
                yield {**about, "outcome": "not measured", "test": test}
            elif alone is None or alone.steps is None or target.mixture.steps is None:
                test = f"not every seed of {method} reaches it on every task alone"
                yield {**about, "outcome": "never reached", "test": test}
            elif step.ratio is None or step.low is None or step.high is None:
                yield {**about, "outcome": "not measured", "test": "no paired time of a step"}
            else:
                steps = target.mixture.steps / alone.steps
                found = (steps / step.ratio, steps / step.high, steps / step.low)
                test = f"{target.mixture.steps:.0f} steps, {method} alone {alone.steps:.0f}, x paired time of a step"
                yield {**about, "outcome": _cheaper(found), "test": test, "found": found}


def _adapters(report: Report, mixture: MixtureComparison, is_adapter: Callable[[Any], bool]) -> dict[str, Cost]:
    """The adapters of a mixture's model and device, with the times of a step: paired ones where a task has them."""
    found: dict[str, Cost] = {}
    for decision in report.decisions:
        environment = decision.table.environment
        device = f"{environment.get('device_name')} {environment.get('precision')}"
        for line in decision.lines:
            is_other = (decision.table.model, device) != (mixture.model, mixture.device) or line.method == FULL
            if is_other or not is_adapter(line.row.plugin):
                continue
            if line.method not in found or found[line.method].ratio is None:
                found[line.method] = line.costs["train"]
    return found


def _is_same(one: MixtureComparison, other: MixtureComparison) -> bool:
    return one.place == other.place


def _cheaper(found: Ratio) -> str:
    _, low, high = found
    return "supported" if high < 1 else "contradicted" if low > 1 else "undecided"


def _extension(additions: Sequence[Addition], margin: float) -> tuple[str, str]:
    """Whether no old task loses more than the margin, and every new task is within it of `full` alone."""
    old = [each for addition in additions for each in addition.forgetting]
    new = [addition.to_full for addition in additions]
    kept = sum(each.low is not None and each.low > -margin for each in old)
    lost = sum(each.high is not None and each.high < -margin for each in old)
    learned = sum(each is not None and bool(is_non_inferior(each, margin)) for each in new)
    missed = sum(each is not None and each.high is not None and each.high < -margin for each in new)
    points = _points(margin)
    test = (
        f"old tasks: {kept} of {len(old)} lose at most {points}, {lost} clearly more; "
        f"new tasks: {learned} of {len(new)} within {points} of {FULL} alone, {missed} clearly below"
    )
    if not old or None in new:
        return "not measured" if not old else "undecided", test
    return _of_counts(kept + learned, lost + missed, len(old) + len(new)), test

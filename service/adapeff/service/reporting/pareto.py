"""The Pareto front: methods that no other method beats in both quality and training cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from adapeff.service.measurements import TRAIN_COMPUTE_S
from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.first_screen import about, screen_title
from adapeff.service.reporting.grids import MISSING, Grid, Heading, number, ratio, words

CostKind = Literal["paired", "flops", "seconds"]


@dataclass(frozen=True)
class TrainingCost:
    """A cost of training with its 95 % interval, if it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ParetoPoint:
    """A method with a score and a cost."""

    line: Line
    cost: TrainingCost
    is_on_front: bool


@dataclass(frozen=True)
class ParetoFront:
    """The methods of a table by quality and training cost, best by evidence first."""

    kind: CostKind
    """What the costs are: ratios of step times (paired), or FLOPs or compute seconds of the runs."""
    points: tuple[ParetoPoint, ...]
    left_out: tuple[str, ...]
    """Methods without a score or a cost of this kind."""


def pareto_front(decision: Decision) -> ParetoFront:
    """Quality against the best kind of cost that two methods have: paired times, else FLOPs, else compute seconds."""
    kinds: tuple[CostKind, ...] = ("paired", "flops", "seconds")
    by_kind = {kind: _costs(decision.lines, kind) for kind in kinds}
    kind: CostKind = next((kind for kind, costs in by_kind.items() if len(costs) > 1), "flops")
    costs = by_kind[kind]
    sign = 1.0 if decision.table.metric.higher_is_better else -1.0
    plotted = [
        (line, line.quality, costs[line.method]) for line in decision.lines if line.quality and line.method in costs
    ]
    on_front = front([(cost.value, sign * quality.mean) for _, quality, cost in plotted])
    points = tuple(ParetoPoint(line, cost, is_on) for (line, _, cost), is_on in zip(plotted, on_front, strict=True))
    shown = {point.line.method for point in points}
    return ParetoFront(kind, points, tuple(line.method for line in decision.lines if line.method not in shown))


def _costs(lines: Sequence[Line], kind: CostKind) -> dict[str, TrainingCost]:
    return {line.method: cost for line in lines if (cost := _cost(line, kind)) is not None}


def _cost(line: Line, kind: CostKind) -> TrainingCost | None:
    if kind == "paired":
        cost = line.costs["train"]
        if line.verdict.kind == "reference":
            return TrainingCost(1.0)
        return None if cost.ratio is None else TrainingCost(cost.ratio, cost.low, cost.high)
    if kind == "flops":
        value = line.costs["flops"].value
        return None if value is None else TrainingCost(value)
    seconds = line.row.cells[TRAIN_COMPUTE_S.name].summary
    return None if seconds is None else TrainingCost(seconds.mean, seconds.low, seconds.high)


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For points of (cost, quality, higher is better), whether none is at least as good in both and better in one."""
    return [
        not any(
            other[0] <= cost and other[1] >= quality and (other[0] < cost or other[1] > quality) for other in points
        )
        for cost, quality in points
    ]


def cost_heading(kind: CostKind, reference: str) -> str:
    """What the costs are, in words."""
    return {
        "paired": f"step time, x {reference} (paired)",
        "flops": "train FLOPs",
        "seconds": "train compute, s (unpaired)",
    }[kind]


def pareto_grid(decision: Decision) -> Iterator[Grid]:
    """Quality, cost, and whether the method is on the front."""
    table, found = decision.table, pareto_front(decision)
    yield Grid(
        f"Pareto front · {screen_title(table)}",
        (
            Heading("method", "method"),
            Heading(f"{table.metric.name}{', %' if table.metric.unit == '%' else ''}", "quality"),
            Heading(cost_heading(found.kind, table.reference), "cost"),
            Heading("on the front", "on_front"),
        ),
        tuple(
            (
                words(point.line.method),
                number(quality.mean, table.metric.unit, quality.low, quality.high)
                if (quality := point.line.quality)
                else MISSING,
                ratio(point.cost.value)
                if found.kind == "paired"
                else number(point.cost.value, "FLOPs" if found.kind == "flops" else "s"),
                words("yes" if point.is_on_front else ""),
            )
            for point in found.points
        ),
        ("By means alone: neighbours on the front may not differ significantly; see the verdicts.",),
        about(table),
        "Pareto front",
    )

"""The Pareto front: methods that no other method beats in both quality and training cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.first_screen import screen_title
from adapeff.service.reporting.grids import MISSING, Grid, Heading, number, ratio, words


def training_cost(line: Line) -> float | None:
    """The ratio of training time to the reference if it was measured in pairs (1 for the reference), else None."""
    return 1.0 if line.verdict.kind == "reference" else line.costs["train"].ratio


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For points of (cost, quality, higher is better), whether none is at least as good in both and better in one."""
    return [
        not any(
            other[0] <= cost and other[1] >= quality and (other[0] < cost or other[1] > quality) for other in points
        )
        for cost, quality in points
    ]


def pareto_grid(decision: Decision) -> Iterator[Grid]:
    """Quality, cost, and whether the method is on the front; FLOPs stand in where no paired times exist."""
    table = decision.table
    is_paired = sum(training_cost(line) is not None for line in decision.lines) > 1
    sign = 1.0 if table.metric.higher_is_better else -1.0

    def cost(line: Line) -> float | None:
        return training_cost(line) if is_paired else line.costs["flops"].value

    plotted = [line for line in decision.lines if line.quality is not None and cost(line) is not None]
    on_front = front([(cost(line) or 0.0, sign * line.quality.mean) for line in plotted if line.quality])
    kind = f"step time, x {table.reference} (paired)" if is_paired else "train FLOPs"
    yield Grid(
        f"Pareto front · {screen_title(table)}",
        (
            Heading("method", "method"),
            Heading(f"{table.metric.name}{', %' if table.metric.unit == '%' else ''}", "quality"),
            Heading(kind, "cost"),
            Heading("on the front", "on_front"),
        ),
        tuple(
            (
                words(line.method),
                number(line.quality.mean, table.metric.unit, line.quality.low, line.quality.high)
                if line.quality
                else MISSING,
                ratio(cost(line)) if is_paired else number(cost(line), "FLOPs"),
                words("yes" if is_on else ""),
            )
            for line, is_on in zip(plotted, on_front, strict=True)
        ),
        ("By means alone: neighbours on the front may not differ significantly; see the verdicts.",),
        (("model", table.model), ("task", table.task)),
    )

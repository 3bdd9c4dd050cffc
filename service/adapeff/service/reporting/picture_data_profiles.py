"""What the pictures of latency and training steps show; from profiles, and latency also from the runs themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adapeff.service.reporting.decision import Decision
from adapeff.service.reporting.first_screen import screen_title, short_model
from adapeff.service.reporting.numbers import ratio_text
from adapeff.service.reporting.picture_data import Estimate, Panel
from adapeff.service.reporting.profiles import Figure, ProfileRow, ProfileTable
from adapeff.service.reporting.report import Report

STEP_PARTS = ("forward", "backward", "optimizer")
_DISTURBED = ", some disturbed"


@dataclass(frozen=True)
class LatencyLine:
    """The latency of a method, or of one of its inference variants, over the length."""

    method: str
    variant: str
    """Its inference variant, such as merged; '' for the model as trained."""
    points: tuple[tuple[int, Estimate], ...]
    """By tokens."""


@dataclass(frozen=True)
class LatencyPanel(Panel):
    """Latency over the length for one batch size: times in ms, or paired ratios to the reference."""

    label: str
    is_ratio: bool
    lines: tuple[LatencyLine, ...]


@dataclass(frozen=True)
class StepBar:
    """What a training step of a method consists of."""

    method: str
    parts: tuple[tuple[str, float], ...]
    """Part -> ms, in the order of `STEP_PARTS`."""
    ratio: str
    """The paired ratio to the reference in words, with its interval; '' for the reference."""


@dataclass(frozen=True)
class StepsPanel(Panel):
    """The parts of a training step, the fastest method first."""

    label: str
    bars: tuple[StepBar, ...]


def latency_panels(report: Report) -> list[LatencyPanel]:
    """Two panels for each profile and batch size, times and ratios; without profiles, times of the runs."""
    profiled = [panel for profile in report.profiles for panel in _of_profile(profile)]
    return profiled or [panel for decision in report.decisions for panel in _of_runs(decision)]


def _of_profile(profile: ProfileTable) -> Iterator[LatencyPanel]:
    shapes = [_shape(column) for column in profile.latency_columns if not column.endswith(" ratio")]
    for batch in sorted({batch for batch, _ in shapes}):
        for is_ratio in (False, True):
            lines = [_line(row, profile, batch, is_ratio=is_ratio) for row in profile.latency]
            what = "Paired ratios" if is_ratio else "Medians of interleaved measurements"
            doubts = any(figure.problems for row in profile.latency for figure in row.figures.values())
            yield LatencyPanel(
                profile_heading(profile),
                f"{what} with 95 % intervals{_DISTURBED if doubts else ''}. Batch {batch}.",
                f"latency, x {profile.reference} (paired)" if is_ratio else "latency, ms",
                is_ratio,
                tuple(line for line in lines if line.points),
            )


def _line(row: ProfileRow, profile: ProfileTable, batch: int, *, is_ratio: bool) -> LatencyLine:
    methods = [trained.label for trained in profile.training]
    method = next((name for name in methods if row.label == name or row.label.startswith(f"{name} (")), row.label)
    scale = 1.0 if is_ratio else 1000.0
    points = [
        (_shape(column)[1], _scaled(figure.value, figure, scale))
        for column, figure in row.figures.items()
        if column.endswith(" ratio") == is_ratio and _shape(column)[0] == batch and figure.value is not None
    ]
    return LatencyLine(
        method, row.label.removeprefix(method).strip(" ()"), tuple(sorted(points, key=lambda point: point[0]))
    )


def _scaled(value: float, figure: Figure, scale: float) -> Estimate:
    low, high = (None if bound is None else scale * bound for bound in (figure.low, figure.high))
    return Estimate(scale * value, low, high)


def _of_runs(decision: Decision) -> Iterator[LatencyPanel]:
    table = decision.table
    columns = {
        column.key: _shape(column.heading.split()[1]) for column in table.columns if column.key.startswith("latency_b")
    }
    for batch in sorted({batch for batch, _ in columns.values()}):
        lengths = sorted((length, key) for key, (of_batch, length) in columns.items() if of_batch == batch)
        lines = [
            LatencyLine(
                row.method.removesuffix(f" ({row.variant})"),
                row.variant,
                tuple(
                    (length, Estimate(1000 * found.mean))
                    for length, key in lengths
                    if (found := row.cells[key].summary)
                ),
            )
            for row in table.rows
        ]
        if any(line.points for line in lines):
            is_doubtful = any(row.cells[key].doubt for row in table.rows for _, key in lengths)
            yield LatencyPanel(
                screen_title(table),
                f"Medians of separate runs, unpaired{_DISTURBED if is_doubtful else ''}. Batch {batch}.",
                "latency, ms",
                is_ratio=False,
                lines=tuple(line for line in lines if line.points),
            )


def _shape(column: str) -> tuple[int, int]:
    """Batch and tokens of `32x64` or `32x64 ratio`."""
    batch, _, length = column.removesuffix(" ratio").partition("x")
    return int(batch), int(length)


def steps_panels(report: Report) -> list[StepsPanel]:
    """A panel for each profile whose steps were measured in parts."""
    return [panel for profile in report.profiles if (panel := _steps(profile)).bars]


def _steps(profile: ProfileTable) -> StepsPanel:
    bars = [bar for row in profile.training if (bar := _bar(row, profile.reference)).parts]
    doubts = _DISTURBED if any(row.problems for row in profile.training) else ""
    shape = f"{profile.settings['batch']}x{profile.settings['length']}"
    return StepsPanel(
        profile_heading(profile),
        f"Medians of the parts{doubts}; x: paired ratio of the whole step to {profile.reference}, 95 % interval.",
        f"time of a training step of {shape} tokens, ms",
        tuple(sorted(bars, key=lambda bar: sum(width for _, width in bar.parts))),
    )


def _bar(row: ProfileRow, reference: str) -> StepBar:
    parts = tuple(
        (part, 1000 * figure.value)
        for part in STEP_PARTS
        if (figure := row.figures.get(part)) is not None and figure.value is not None
    )
    ratio = row.figures.get("step ratio")
    if ratio is None or ratio.value is None or row.label == reference:
        return StepBar(row.label, parts, "")
    interval = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return StepBar(row.label, parts, f"{ratio_text(ratio.value)}{interval}")


def profile_heading(profile: ProfileTable) -> str:
    """Profile job, model, device and precision in one line."""
    device = f"{profile.environment.get('device_name')} {profile.environment.get('precision')}"
    weights = " with random weights" if profile.random_weights else ""
    return f"profile job {profile.job_id} · {short_model(profile.model)}{weights} · {device}"

"""What the pictures of latency and training steps show; from profiles, and latency also from the runs themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adapeff.service.reporting.decision import Decision
from adapeff.service.reporting.first_screen import screen_title, short_model
from adapeff.service.reporting.picture_data import Estimate, Panel
from adapeff.service.reporting.profiles import Figure, ProfileRow, ProfileTable
from adapeff.service.reporting.report import Report

STEP_PARTS = ("forward", "backward", "optimizer")


@dataclass(frozen=True)
class LatencyLine:
    """The latency of a method, or of one of its inference variants."""

    method: str
    variant: str
    """Its inference variant, such as merged; '' for the model as trained."""
    points: tuple[tuple[int, Estimate], ...]
    """By tokens: ms."""


@dataclass(frozen=True)
class LatencyPanel(Panel):
    """Latency over the length for one batch size."""

    batch: int
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
    """A panel for each profile and batch size; without profiles, for each table of runs and batch size."""
    profiled = [panel for profile in report.profiles for panel in _of_profile(profile)]
    return profiled or [panel for decision in report.decisions for panel in _of_runs(decision)]


def _of_profile(profile: ProfileTable) -> Iterator[LatencyPanel]:
    shapes = [_shape(column) for column in profile.latency_columns if not column.endswith(" ratio")]
    methods = [row.label for row in profile.training]
    for batch in sorted({batch for batch, _ in shapes}):
        lengths = sorted(length for of_batch, length in shapes if of_batch == batch)
        lines = [_line(row, methods, batch, lengths) for row in profile.latency]
        if len(lengths) > 1:
            yield LatencyPanel(
                profile_heading(profile),
                f"Medians of interleaved measurements, 95 % intervals. Batch {batch}.",
                batch,
                tuple(line for line in lines if line.points),
            )


def _line(row: ProfileRow, methods: Sequence[str], batch: int, lengths: Sequence[int]) -> LatencyLine:
    method = next((name for name in methods if row.label == name or row.label.startswith(f"{name} (")), row.label)
    points = tuple(
        (length, _ms(figure))
        for length in lengths
        if (figure := row.figures.get(f"{batch}x{length}")) is not None and figure.value is not None
    )
    return LatencyLine(method, row.label.removeprefix(method).strip(" ()"), points)


def _ms(figure: Figure) -> Estimate:
    value, low, high = (None if part is None else 1000 * part for part in (figure.value, figure.low, figure.high))
    return Estimate(value or 0.0, low, high)


def _of_runs(decision: Decision) -> Iterator[LatencyPanel]:
    table = decision.table
    columns = {
        _shape(column.heading.split()[1]): column.key for column in table.columns if column.key.startswith("latency_b")
    }
    for batch in sorted({batch for batch, _ in columns}):
        keys = {length: key for (of_batch, length), key in sorted(columns.items()) if of_batch == batch}
        if len(keys) < 2:
            continue
        lines = [
            LatencyLine(
                row.method.removesuffix(f" ({row.variant})"),
                row.variant,
                tuple(
                    (length, Estimate(1000 * found.mean))
                    for length, key in keys.items()
                    if (found := row.cells[key].summary)
                ),
            )
            for row in table.rows
        ]
        yield LatencyPanel(
            screen_title(table),
            f"Medians of separate runs, unpaired. Batch {batch}.",
            batch,
            tuple(line for line in lines if line.points),
        )


def _shape(text: str) -> tuple[int, int]:
    batch, _, length = text.partition("x")
    return int(batch), int(length)


def steps_panels(report: Report) -> list[StepsPanel]:
    """A panel for each profile whose steps were measured in parts."""
    return [panel for profile in report.profiles if (panel := _steps(profile)).bars]


def _steps(profile: ProfileTable) -> StepsPanel:
    bars = [bar for row in profile.training if (bar := _bar(row)).parts]
    shape = f"{profile.settings['batch']}x{profile.settings['length']}"
    return StepsPanel(
        profile_heading(profile),
        f"Medians of the parts; x: paired ratio of the whole step to {profile.reference}, with its 95 % interval.",
        f"time of a training step of {shape} tokens, ms",
        tuple(sorted(bars, key=lambda bar: sum(width for _, width in bar.parts))),
    )


def _bar(row: ProfileRow) -> StepBar:
    parts = tuple(
        (part, 1000 * figure.value)
        for part in STEP_PARTS
        if (figure := row.figures.get(part)) is not None and figure.value is not None
    )
    ratio = row.figures.get("step ratio")
    if ratio is None or ratio.value is None:
        return StepBar(row.label, parts, "")
    interval = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return StepBar(row.label, parts, f"{ratio.value:.2f}x{interval}")


def profile_heading(profile: ProfileTable) -> str:
    """Profile job, model, device and precision in one line."""
    device = f"{profile.environment.get('device_name')} {profile.environment.get('precision')}"
    weights = " with random weights" if profile.random_weights else ""
    return f"profile job {profile.job_id} · {short_model(profile.model)}{weights} · {device}"

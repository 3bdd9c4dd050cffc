"""The columns of a report: which figures a table shows, and how to read each from a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from adapeff.service.measured import Definition, Display
from adapeff.service.measurements import DISTURBANCE, LATENCY_S, TUNING_COMPUTE_S, WALL_S, report_columns
from adapeff.service.plugins import catalog
from adapeff.service.reporting.readings import Reading
from adapeff.service.reporting.runs import Result
from adapeff.service.statistics.summaries import Summary, summarise

Phase = Literal["train", "inference", ""]


@dataclass(frozen=True)
class MetricView:
    """The headline metric of a table: how to show a score, and whether higher is better."""

    name: str
    source_language: str
    unit: Literal["%", ""] = "%"
    higher_is_better: bool = True

    @property
    def baseline(self) -> str:
        """The name of the trivial baseline."""
        return "majority baseline" if self.unit == "%" else "trivial baseline"

    def shown(self, score: float) -> float:
        """A score as printed: shares in percent, other values unchanged."""
        return 100 * score if self.unit == "%" else score


@dataclass(frozen=True)
class Column:
    """A figure of the report, and how it is read from a run."""

    key: str
    heading: str
    unit: Display
    extract: Callable[[Result], Reading]
    time_of: Phase = ""
    """For a time: the phase it belongs to, whose disturbances make it doubtful; '' for other figures."""
    of_variants: bool = False
    """Whether inference variants have their own value; if not, only the method as trained has one."""

    def read(self, result: Result) -> Reading:
        """The figure of one run."""
        return self.extract(result) if self.of_variants or not result.variant else Reading(None)


@dataclass(frozen=True)
class Cell:
    """A figure of a method: its summary over seeds and its ratio to the reference, or why it is missing."""

    summary: Summary | None
    ratio: float | None = None
    reason: str = ""
    doubt: str = ""
    """For a time: why it is unreliable, such as a disturbance or another run on the same host."""


def choose_columns(group: Sequence[Result], metric: MetricView) -> tuple[Column, ...]:
    """The columns of a table of comparable runs."""
    return (*_score_columns(group, metric), *_measured_columns(group), *_latency_columns(group))


def metric_view(name: str, source_language: str, recorded: dict[str, object]) -> MetricView:
    """How to show a metric: as the run recorded it, else as its plug-in declares it, else as a share."""
    plugin = catalog.metrics().get(name)
    unit = recorded.get("metric_unit", plugin.unit if plugin else "%")
    higher = recorded.get("higher_is_better", plugin.higher_is_better if plugin else True)
    return MetricView(name, source_language, "" if unit == "" else "%", bool(higher))


def _score_columns(group: Sequence[Result], metric: MetricView) -> Iterator[Column]:
    languages = group[0].spec.measuring.test_languages or ()
    others = [language for language in languages if language != metric.source_language]
    column = partial(Column, unit=metric.unit, of_variants=True)
    yield column("quality", f"{metric.name} {metric.source_language}", extract=partial(_quality, metric=metric))
    if others:
        heading = f"mean of {len(others)} other language{'s' if len(others) > 1 else ''}"
        yield column("transfer", heading, extract=partial(_transfer, metric=metric))
        yield column("gap", f"gap to {metric.source_language}", extract=partial(_gap, metric=metric))


def _quality(result: Result, *, metric: MetricView) -> Reading:
    return result.read(metric.name, split="test", language=metric.source_language)


def _transfer(result: Result, *, metric: MetricView) -> Reading:
    """The mean over the other languages."""
    scores = [
        reading.value
        for key, reading in result.run.readings.named(metric.name)
        if (key.split, key.variant) == ("test", result.variant)
        and key.language != metric.source_language
        and reading.value is not None
    ]
    return Reading(math.fsum(scores) / len(scores)) if scores else Reading(None, "no other language tested")


def _gap(result: Result, *, metric: MetricView) -> Reading:
    """How much worse the other languages are than the source language; negative if they are better."""
    source, others = _quality(result, metric=metric), _transfer(result, metric=metric)
    if source.value is None or others.value is None:
        return Reading(None, others.reason)
    return Reading(source.value - others.value if metric.higher_is_better else others.value - source.value)


def _measured_columns(group: Sequence[Result]) -> Iterator[Column]:
    """The columns that each show one measurement, in the order of their definitions."""
    columns = {definition.name: _measured_column(definition) for definition, _ in report_columns()}
    is_measured = {
        name: any(column.read(result).value is not None for result in group) for name, column in columns.items()
    }
    # a requested search has a column even if no run measured it
    is_measured[TUNING_COMPUTE_S.name] |= any(result.spec.training.tuning for result in group)
    for definition, shown in report_columns():
        if shown.only_if_measured and not is_measured[definition.name]:
            continue
        if not is_measured.get(shown.instead_of, False):
            yield columns[definition.name]


def _measured_column(definition: Definition) -> Column:
    shown = definition.column
    if shown is None:
        raise ValueError(f"measurement '{definition.name}' is not a column of the report")
    where = shown.where or {}

    def extract(result: Result) -> Reading:
        return result.read(definition.name, **where)

    is_time = definition.display == "s"
    return Column(
        shown.key or definition.name, shown.heading, definition.display, extract, time_of="train" if is_time else ""
    )


def _latency_columns(group: Sequence[Result]) -> Iterator[Column]:
    measuring = group[0].spec.measuring
    several = bool(measuring.latency_lengths)
    for batch in measuring.latency_batches:
        for length in measuring.lengths:
            key = f"latency_b{batch}x{length}" if several else f"latency_b{batch}"
            extract = partial(_latency, batch=batch, length=length if several else None)
            yield Column(key, f"latency {batch}x{length} p50", "s", extract, time_of="inference", of_variants=True)


def _latency(result: Result, *, batch: int, length: int | None) -> Reading:
    if length is None:
        return result.read(LATENCY_S.name, statistic="p50", batch=batch)
    return result.read(LATENCY_S.name, statistic="p50", batch=batch, length=length)


@dataclass(frozen=True)
class Price:
    """The price of a device per hour."""

    hourly: float
    currency: str

    def column(self) -> Column:
        """The price of the time a run occupied its slot, from the start of its process to the end."""
        unit = f", {self.currency}" if self.currency else ""
        return Column("price", f"price of a run{unit}", "", self._of, time_of="train")

    def _of(self, result: Result) -> Reading:
        seconds, reason = result.read(WALL_S.name)
        return Reading(None, reason) if seconds is None else Reading(seconds / 3600 * self.hourly)


def find_variants(results: Iterable[Result], metric: str) -> list[str]:
    """The tested inference variants, in the order they were measured."""
    tested = [key.variant for result in results for key, _ in result.run.readings.named(metric)]
    return list(dict.fromkeys(filter(None, tested)))


def variant_label(variant: str) -> str:
    """A readable label: `merged` for `{"merged":true}`."""
    return ", ".join(key if value is True else f"{key} {value}" for key, value in json.loads(variant).items())


def find_doubts(results: Iterable[Result], side_by_side: Container[int]) -> dict[str, str]:
    """Why a method's times are doubtful, by phase (`train` and `inference`); '' if they are not.

    Args:
        side_by_side: ids of runs that shared their host with another.
    """
    doubts: dict[str, dict[str, None]] = {"train": {}, "inference": {}}
    for result in results:
        for key, reading in result.run.readings.named(DISTURBANCE.name):
            if reading.value and key.phase in doubts:
                doubts[key.phase][reading.reason or "disturbed"] = None
        if result.run.run_id in side_by_side:
            for reasons in doubts.values():
                reasons["measured next to another run on the same host"] = None
    return {phase: "; ".join(reasons) for phase, reasons in doubts.items()}


def summarise_columns(results: Iterable[Result], columns: Sequence[Column]) -> dict[str, Cell]:
    """Summarise each column over the seeds of a method."""
    ordered = sorted(results, key=lambda result: result.spec.seed)
    cells = {}
    for column in columns:
        readings = [column.read(result) for result in ordered]
        values = [reading.value for reading in readings if reading.value is not None]
        reason = next((reading.reason for reading in readings if reading.reason), "")
        cells[column.key] = Cell(summarise(values) if values else None, reason=reason)
    return cells

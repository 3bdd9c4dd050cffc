"""What the page of a report shows: the first screens, the views, and the runs behind each line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.orm import Session

from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.first_screen import Screen, first_screens, short_model
from adapeff.service.reporting.grids import Grid
from adapeff.service.reporting.numbers import format_value
from adapeff.service.reporting.report import Report
from adapeff.service.reporting.runs import RunRecord
from adapeff.service.reporting.views import VIEWS, build_view
from adapeff.service.store import job_queries, results
from adapeff.service.store.run_logs import log_tail
from adapeff.service.store.tables import Artifact, Run

MOST_RUNS = 300
"""Runs whose details a page contains; the others are named with their jobs."""
LOG_CHARACTERS = 2000
"""Of the end of a run's log."""
SUMMARY = "summary"


@dataclass(frozen=True)
class CurvePlot:
    """A curve of a run."""

    label: str
    points: tuple[tuple[float, float], ...]
    """(Step, value)."""


@dataclass(frozen=True)
class RunDetails:
    """Everything a page says of a run."""

    run_id: int
    job_id: int
    title: str
    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    curves: tuple[CurvePlot, ...] = ()
    """Validation scores over the steps."""
    artifacts: tuple[tuple[str, int, str], ...] = ()
    """Name, bytes and place of each."""
    message: str = ""
    log: str = ""
    """The end of its log; '' if it cannot be read from here."""


@dataclass(frozen=True)
class RunGroup:
    """The runs behind a line of the report: a method on a model and task, a run per seed."""

    key: str
    """What its anchor is called."""
    title: str
    runs: tuple[RunDetails, ...]
    not_shown: tuple[tuple[int, int], ...] = ()
    """Run and job of its runs beyond the limit."""


@dataclass(frozen=True)
class PageScreen:
    """A first screen, with the kind of verdict and the group of runs of each line."""

    screen: Screen
    kinds: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class PageData:
    """What the page of a report contains."""

    screens: tuple[PageScreen, ...]
    notes: tuple[str, ...]
    views: Mapping[str, Sequence[Grid]]
    """View -> its grids, without the summary."""
    groups: tuple[RunGroup, ...]
    group_of: Mapping[tuple[Any, str], str] = field(default_factory=dict)
    """What a grid is about, and a method -> the group of its runs, where there is only one."""
    unfinished: Mapping[str, int] = field(default_factory=dict)
    runs: int = 0
    """All runs of the report, with those whose details are left out."""

    is_complete: bool = True
    """Whether it has all views."""

    @property
    def runs_shown(self) -> int:
        """The runs with details."""
        return sum(len(group.runs) for group in self.groups)


def load_page(session: Session, report: Report, *, views: Sequence[str] | None = None) -> PageData:
    """Collect what a page shows.

    Args:
        views: only these; None: all.
    """
    lines = [
        (f"{at}-{number}", decision, line)
        for at, decision in enumerate(report.decisions, start=1)
        for number, line in enumerate(decision.lines, start=1)
    ]
    details = _load_details(session, report, [run_id for _, _, line in lines for run_id in line.row.run_ids])
    groups = tuple(_group(key, decision, line, details) for key, decision, line in lines)
    found = first_screens(report.decisions)
    wanted = [name for name in VIEWS if name != SUMMARY and (views is None or name in views)]
    built = {name: grids for name in wanted if (grids := build_view(report, name))}
    by_table = iter(groups)
    screens = [
        PageScreen(
            screen,
            tuple(line.verdict.kind for line in decision.lines),
            tuple(next(by_table).key for _ in decision.lines),
        )
        for screen, decision in zip(found.screens, report.decisions, strict=True)
    ]
    return PageData(
        tuple(screens) if views is None or SUMMARY in views else (),
        tuple(found.notes) if views is None or SUMMARY in views else (),
        built,
        groups,
        _groups_of(found.screens, lines),
        report.unfinished,
        len({run_id for _, _, line in lines for run_id in line.row.run_ids}),
        views is None,
    )


def _groups_of(screens: Iterable[Screen], lines: Sequence[tuple[str, Decision, Line]]) -> dict[tuple[Any, str], str]:
    """The group of each method under what its grid is about; none where two tables are about the same."""
    about = {at: screen.grid.about for at, screen in enumerate(screens, start=1)}
    named = [((about[int(key.partition("-")[0])], line.method), key) for key, _, line in lines]
    counts = Counter(name for name, _ in named)
    return {name: key for name, key in named if counts[name] == 1}


def _load_details(session: Session, report: Report, run_ids: Sequence[int]) -> dict[int, RunDetails]:
    """The details of the first runs, by run."""
    shown = list(dict.fromkeys(run_ids))[:MOST_RUNS]
    rows = job_queries.runs_by_id(session, shown)
    artifacts = results.list_artifacts_of(session, shown)
    return {
        run_id: _details(report.runs[run_id], rows[run_id], artifacts[run_id])
        for run_id in shown
        if run_id in report.runs and run_id in rows
    }


def _details(record: RunRecord, run: Run, artifacts: Sequence[Artifact]) -> RunDetails:
    spec = record.spec
    seconds = (record.finished_at - record.started_at).total_seconds() if record.finished_at else None
    facts = {
        "job": str(record.job_id),
        "model": spec.model.name,
        "host": f"{record.host} ({run.slot})",
        "started": f"{record.started_at:%Y-%m-%d %H:%M:%S} UTC",
        "took": format_value(seconds, "s") if seconds is not None else "",
        "learning rate": f"{spec.training.learning_rate:g} ({spec.learning_rate_source})",
        "folder": run.folder,
        **{key.replace("_", " "): value for key, value in record.resolved.items()},
    }
    return RunDetails(
        record.run_id,
        record.job_id,
        f"seed {spec.seed} · job {record.job_id}",
        _as_text(facts),
        _as_text(record.settings),
        _as_text(record.environment),
        tuple(_curves(record)),
        tuple((artifact.name, artifact.bytes, artifact.uri) for artifact in artifacts),
        run.message,
        log_tail(run.folder, LOG_CHARACTERS),
    )


def _as_text(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, str(value)) for key, value in values.items() if value not in (None, "", [], {}))


def _curves(record: RunRecord) -> Iterator[CurvePlot]:
    for name, points in record.curves.items():
        if name.startswith("validation_") and len(points) > 1:
            label = f"validation {name.removeprefix('validation_')}"
            yield CurvePlot(label, tuple((float(point[0]), float(point[1])) for point in points))


def _group(key: str, decision: Decision, line: Line, details: Mapping[int, RunDetails]) -> RunGroup:
    row, table = line.row, decision.table
    scores = _scores(line)
    shown = []
    for at, run_id in enumerate(row.run_ids):
        if run_id in details:
            run = details[run_id]
            score = f" · {table.metric.name} {format_value(scores[at], table.metric.unit)}" if scores else ""
            percent = " %" if scores and table.metric.unit == "%" else ""
            shown.append(replace(run, title=f"{run.title}{score}{percent}"))
    left_out = tuple(pair for pair in zip(row.run_ids, row.job_ids, strict=True) if pair[0] not in details)
    return RunGroup(key, f"{line.method} · {table.short_title} · {short_model(table.model)}", tuple(shown), left_out)


def _scores(line: Line) -> Sequence[float]:
    """The score of each run; none unless every run has one."""
    found = line.row.cells["quality"].summary
    return found.values if found is not None and found.n == len(line.row.run_ids) else ()

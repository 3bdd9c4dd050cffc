"""Write a report as one HTML file: no outside request, no library, everything escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from adapeff.cli.render.grids import is_text
from adapeff.cli.render.pictures.catalog import svg_of
from adapeff.cli.render.text import printable
from adapeff.service.reporting.decision import Decision
from adapeff.service.reporting.first_screen import first_screens
from adapeff.service.reporting.grids import Grid, Value
from adapeff.service.reporting.pictures import PICTURES
from adapeff.service.reporting.report import Report
from adapeff.service.reporting.runs import RunRecord
from adapeff.service.reporting.views import VIEWS, build_view

MOST_RUNS = 300
"""Runs whose details the page contains."""
_HERE = Path(__file__).parent


def report_page(report: Report, title: str) -> str:
    """The page of a report."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    views = {name: build_view(report, name) for name in VIEWS if name != "summary"}
    shown = {name: grids for name, grids in views.items() if grids}
    links = "".join(f'<a href="#{name}">{name}</a>' for name in ("summary", "pictures", *shown, "runs"))
    shown_views = (line for name in shown for line in _view(name, shown[name]))
    body = "\n".join((*_summary(report), *_pictures(report), *shown_views, *_runs(report)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy(style, script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{style}</style></head>\n<body><main>\n<h1>{_text(title)}</h1>\n"
        f'<nav aria-label="views">{links}</nav>\n'
        '<label>Filter rows <input id="filter" type="search" autocomplete="off"></label>\n'
        f"{body}\n</main>\n<script>{script}</script></body></html>\n"
    )


def content_policy(style: str, script: str) -> str:
    """A policy that allows this style and script, images of the page's own, and nothing from elsewhere."""
    return f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _text(text: object) -> str:
    return escape(printable(str(text)))


def _summary(report: Report) -> Iterator[str]:
    """The first screens; each method leads to its runs."""
    found = first_screens(report.decisions)
    yield '<h2 id="summary">summary</h2>'
    for screen, decision in zip(found.screens, report.decisions, strict=True):
        yield from _table(screen.grid, decision)
        yield from (f"<p>{_text(sentence)}</p>" for sentence in screen.sentences)
    yield from (f'<p class="note">{_text(note)}</p>' for note in found.notes)
    states = ", ".join(f"{count} {state}" for state, count in sorted(report.unfinished.items()))
    if states:
        yield f'<p class="note">Not in the report: {_text(states)}.</p>'


def _pictures(report: Report) -> Iterator[str]:
    """Every picture that has content; its marks have tips and lead to their runs."""
    drawn = {name: svg for name in PICTURES if (svg := svg_of(report, name)) is not None}
    yield '<h2 id="pictures">pictures</h2>'
    if not drawn:
        yield '<p class="note">None: nothing to draw, or matplotlib is not installed.</p>'
    for name, svg in drawn.items():
        yield f'<h3>{name}</h3><div class="scroll">{svg}</div>'


def _view(name: str, grids: Sequence[Grid]) -> Iterator[str]:
    yield f'<h2 id="{name}">{name}</h2>'
    for grid in grids:
        yield from _table(grid)
        yield from (f'<p class="note">{_text(note)}</p>' for note in grid.notes)


def _table(grid: Grid, decision: Decision | None = None) -> Iterator[str]:
    yield f"<h3>{_text(grid.title)}</h3>"
    if not grid.rows:
        return
    classes = ['class="text"' if is_text(grid, column) else "" for column in range(len(grid.headings))]
    heads = "".join(
        f'<th scope="col" {kind}><button type="button">{_text(heading.text)}</button></th>'
        for heading, kind in zip(grid.headings, classes, strict=True)
    )
    yield f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>'
    for at, row in enumerate(grid.rows):
        line = decision.lines[at] if decision else None
        target = f"run-{line.row.run_ids[0]}" if line and line.row.run_ids else ""
        cells = "".join(_cell(value, kind, target) for value, kind in zip(row, classes, strict=True))
        yield f'<tr class="{line.verdict.kind if line else ""}">{cells}</tr>'
    yield "</tbody></table></div>"


def _cell(value: Value, kind: str, target: str) -> str:
    """A cell; in the summary, method and numbers lead to the first of the runs behind them."""
    data = "" if value.number is None else f' data-number="{value.number!r}"'
    bounds = ("?" if bound is None else f"{bound:.6g}" for bound in (value.low, value.high))
    interval = "" if value.low is None and value.high is None else f' title="95 % interval {" to ".join(bounds)}"'
    text = _text(value.text)
    shown = f'<a href="#{target}">{text}</a>' if target and value.text not in ("–", "") else text
    return f"<td {kind}{data}{interval}>{shown}</td>"


def _runs(report: Report) -> Iterator[str]:
    yield '<h2 id="runs">runs</h2>'
    runs = list(report.runs.values())
    yield from (_run(run) for run in runs[:MOST_RUNS])
    if len(runs) > MOST_RUNS:
        yield f'<p class="note">{len(runs) - MOST_RUNS:,} more runs: adapeff export, or adapeff show JOB.</p>'


def _run(run: RunRecord) -> str:
    spec = run.spec
    facts = {
        "job": f"{run.job_id} (adapeff show {run.job_id}, adapeff logs {run.job_id})",
        "host": run.host,
        "started": f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC",
        "learning rate": f"{spec.training.learning_rate:g} ({spec.learning_rate_source})",
        **{key: value for key, value in run.settings.items() if value is not None},
        **run.environment,
    }
    rows = "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items())
    name = f"{spec.method} · {spec.task} · seed {spec.seed} · job {run.job_id}"
    return f'<details id="run-{run.run_id}"><summary>{_text(name)}</summary>{_curve(run)}<dl>{rows}</dl></details>'


def _curve(run: RunRecord) -> str:
    """The validation scores over the steps as a small picture."""
    found = next(((name, points) for name, points in run.curves.items() if name.startswith("validation_")), None)
    if found is None or len(found[1]) < 2:
        return ""
    name, points = found
    steps, scores = [float(point[0]) for point in points], [float(point[1]) for point in points]
    width, height = (max(steps) - min(steps)) or 1.0, (max(scores) - min(scores)) or 1.0
    path = " ".join(
        f"{10 + 280 * (x - min(steps)) / width:.1f},{70 - 60 * (y - min(scores)) / height:.1f}"
        for x, y in zip(steps, scores, strict=True)
    )
    label = f"{name.removeprefix('validation_')} on validation data: {scores[0]:.4g} to {scores[-1]:.4g}"
    return (
        f'<p class="note">{_text(label)} (step {steps[0]:.0f} to {steps[-1]:.0f})</p>'
        f'<svg role="img" aria-label="{_text(label)}" viewBox="0 0 300 80" width="300" height="80">'
        f'<polyline class="curve" points="{path}"></polyline></svg>'
    )

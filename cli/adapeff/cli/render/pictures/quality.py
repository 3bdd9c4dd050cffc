"""Pictures of quality: differences to the reference, validation curves, languages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from adapeff.cli.render.pictures.style import all_methods, legend_below, nothing, panel_title, panels, style_of
from adapeff.service.reporting.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_forest(report: Report) -> Figure:
    """The difference of each method to the reference with its interval, zero, and the margin.

    Raises:
        SpecError: if there are no differences.
    """
    decisions = [decision for decision in report.decisions if any(line.difference for line in decision.lines)]
    if not decisions:
        raise nothing("forest", "no method has a difference to a reference")
    styles = style_of(all_methods(report.decisions))
    most = max(len(decision.lines) for decision in decisions)
    figure, axes = panels(len(decisions), height=1.3 + 0.28 * most)
    for axis, decision in zip(axes, decisions, strict=True):
        shown = decision.table.metric.shown
        lines = [line for line in reversed(decision.lines) if line.difference is not None]
        for at, line in enumerate(lines):
            found = line.difference
            assert found is not None
            value = shown(found.value)
            spread = None
            if found.low is not None and found.high is not None:
                spread = [[value - shown(found.low)], [shown(found.high) - value]]
            axis.errorbar(value, at, xerr=spread, linestyle="none", capsize=3, **styles[line.method])
        axis.axvline(0, color="black", linewidth=1)
        axis.axvspan(-shown(decision.margin), shown(decision.margin), color="grey", alpha=0.15)
        axis.set_yticks(range(len(lines)), [f"{line.method}: {line.verdict.text}" for line in lines])
        axis.set_ylim(-0.6, len(lines) - 0.4)
        unit = ", points" if decision.table.metric.unit == "%" else ""
        axis.set_xlabel(f"{decision.table.metric.name} − {decision.table.reference}{unit}; shaded: margin")
        axis.set_title(panel_title(decision), loc="right")
    return figure


def draw_curves(report: Report) -> Figure:
    """The validation score of every run against its compute seconds and FLOPs, with shares of the reference's best.

    Raises:
        SpecError: if no run has a validation curve.
    """
    decisions = [decision for decision in report.decisions if decision.table.targets]
    if not decisions:
        raise nothing("curves", "no run of a reference has a validation curve")
    styles = style_of(all_methods(report.decisions))
    figure, axes = panels(2 * len(decisions))
    for at, decision in enumerate(decisions):
        table = decision.table
        for axis, (cost, label, scale) in zip(
            axes[2 * at : 2 * at + 2],
            (("train_compute_s", "compute time, s (separate runs, unpaired)", 1.0), ("train_flops", "TFLOPs", 1e-12)),
            strict=True,
        ):
            for line in decision.lines:
                for run_id in line.row.run_ids:
                    curves = report.runs[run_id].curves
                    spent = {point[0]: point[1] for point in curves.get(cost, ())}
                    points = [
                        (spent[step] * scale, table.metric.shown(score))
                        for step, score in curves.get(f"validation_{table.metric.name}", ())
                        if step in spent
                    ]
                    axis.plot(
                        [x for x, _ in points], [y for _, y in points], label=line.method,
                        linewidth=1, markersize=3, alpha=0.8, **styles[line.method],
                    )  # fmt: skip
            for cell in next(iter(table.targets.values())):
                if math.isclose(cell.target, 0.95) or math.isclose(cell.target, 0.99):
                    score = table.metric.shown(cell.score)
                    axis.axhline(score, color="grey", linestyle=":", linewidth=1)
                    axis.annotate(f"{cell.target:.0%}", (1, score), xycoords=("axes fraction", "data"), color="grey")
            axis.set_xlabel(label)
            axis.set_ylabel(f"validation {table.metric.name}{', %' if table.metric.unit == '%' else ''}")
            axis.set_title(panel_title(decision))
    legend_below(figure, 5)
    return figure


def draw_languages(report: Report) -> Figure:
    """Scores of methods by language as a heat map; in each cell the score and the gap to the source language.

    Raises:
        SpecError: if no task was tested in several languages.
    """
    decisions = [decision for decision in report.decisions if len(decision.table.languages) > 1]
    if not decisions:
        raise nothing("languages", "no task was tested in several languages")
    most = max(len(decision.table.languages) for decision in decisions)
    rows = max(len(decision.table.rows) for decision in decisions)
    figure, axes = panels(len(decisions), width=2.0 + 0.62 * most, height=1.4 + 0.5 * rows, columns=1)
    for axis, decision in zip(axes, decisions, strict=True):
        table = decision.table
        methods = [row.method for row in table.rows]
        languages = sorted(table.languages, key=lambda language: language != table.source_language)
        values = [
            [
                table.metric.shown(cell.summary.mean) if (cell := table.languages[language].get(method)) else math.nan
                for language in languages
            ]
            for method in methods
        ]
        image = axis.imshow(values, aspect="auto", cmap="cividis")
        known = [value for row in values for value in row if not math.isnan(value)]
        middle = (min(known) + max(known)) / 2
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                if not math.isnan(value):
                    gap = f"\n{value - row[0]:+.1f}" if x else ""
                    colour = "white" if value < middle else "black"
                    axis.text(x, y, f"{value:.1f}{gap}", ha="center", va="center", fontsize=7, color=colour)
        axis.set_xticks(range(len(languages)), languages)
        axis.set_yticks(range(len(methods)), methods)
        axis.grid(visible=False)
        axis.set_title(f"{panel_title(decision)}\n{table.metric.name}; below it the gap to {table.source_language}")
        figure.colorbar(image, ax=axis, shrink=0.8)
    return figure

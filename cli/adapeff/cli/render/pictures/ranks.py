"""The critical-difference diagram: mean ranks over tasks, and which methods do not differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapeff.cli.render.pictures.style import nothing, panels
from adapeff.service.reporting.first_screen import short_model
from adapeff.service.reporting.report import Report
from adapeff.service.reporting.several_tasks import over_several_tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_critical_difference(report: Report) -> Figure:
    """A panel per model: methods at their mean ranks, bars over those that do not differ (Demšar 2006, figure 1).

    Raises:
        SpecError: if no model has two tasks with the same methods.
    """
    found = over_several_tasks(report)
    if not found:
        raise nothing("critical-difference", "no model has finished two tasks with the same methods and seeds")
    most = max(len(each.methods) for each in found)
    figure, axes = panels(len(found), width=7.5, height=1.6 + 0.3 * most, columns=1)
    for axis, each in zip(axes, found, strict=True):
        ranking = each.ranking
        place = dict(zip(ranking.methods, ranking.ranks, strict=True))
        for at, method in enumerate(ranking.methods):
            rank = place[method]
            axis.plot([rank], [at], marker="o", color="black")
            label = f"{method} ({rank:.2f})"
            axis.annotate(label, (rank, at), xytext=(7, 0), textcoords="offset points", va="center")
        for at, clique in enumerate(clique for clique in ranking.cliques if len(clique) > 1):
            ranks = [place[method] for method in clique]
            height = -1.0 - 0.5 * at
            axis.plot([min(ranks), max(ranks)], [height, height], color="#D55E00", linewidth=4, solid_capstyle="butt")
        axis.set_xlim(0.8, len(ranking.methods) + 1.2)
        axis.set_ylim(len(ranking.methods) - 0.4, -1.6 - 0.5 * len(ranking.cliques))
        axis.set_yticks([])
        axis.set_xlabel("mean rank over the tasks (1 is best); bars join methods that do not differ")
        axis.set_title(f"{len(each.tasks)} tasks ({', '.join(each.tasks)}) · {short_model(each.model)}")
    return figure

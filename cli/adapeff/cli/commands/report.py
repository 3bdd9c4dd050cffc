"""`adapeff report`: summarize finished jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from adapeff.cli import completion
from adapeff.cli.invocation import Invocation
from adapeff.cli.options import AllJobs, Json, check_exclusive
from adapeff.cli.output import (
    ALL_PICTURES,
    PageFormat,
    check_folder,
    check_plot,
    print_grids_as,
    print_report,
    print_view,
    save_plot,
    write_page,
)
from adapeff.cli.render.page.page import MOST_TABLES_OF_A_PAGE, report_page
from adapeff.cli.report_options import price_of, read_margin
from adapeff.service.errors import SpecError, suggest
from adapeff.service.reporting.index import build_index
from adapeff.service.reporting.index_grid import MOST_TABLES, index_grid
from adapeff.service.reporting.page_data import load_page
from adapeff.service.reporting.pictures import DEFAULT_PICTURE, PICTURES
from adapeff.service.reporting.report import Options, Report, build_report
from adapeff.service.reporting.selection import Selection
from adapeff.service.reporting.table import REFERENCE
from adapeff.service.reporting.views import VIEWS
from adapeff.service.store import sweeps

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

FULL = "full"
_VIEWS = "; ".join(f"{name}: {view.summary}" for name, view in VIEWS.items())


class Parser(TyperCommand):
    """Reads `--plot FILE` as `--plot pareto FILE`: a file has a suffix or a folder, and no picture's name has."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command."""
        for at in reversed([at for at, word in enumerate(args[:-1]) if word == "--plot"]):
            if set(args[at + 1]) & {".", "/"}:
                args.insert(at + 1, DEFAULT_PICTURE)
        return super().parse_args(ctx, args)


def report(
    context: typer.Context,
    chosen_sweeps: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SWEEP]...",
            help="Names of sweeps (all their submissions) or ids of submissions; default: the latest sweep.",
            autocompletion=completion.sweep_names,
        ),
    ] = None,
    all_jobs: AllJobs = False,
    view: Annotated[
        str | None, typer.Option("--view", help=f"What to show. {_VIEWS}; {FULL}: every figure.", metavar="NAME")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Only these runs: model, task, method, seed, device or host (patterns such as lora*, several with "
            "commas, != excludes), or since (2026-01-31, 7d); repeatable.",
        ),
    ] = None,
    form: Annotated[PageFormat, typer.Option("--format", help="Output format; html: a page with all views.")] = "table",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the page to this file; default: stdout.")
    ] = None,
    reference: Annotated[str, typer.Option(help="The method that the others are compared with.")] = REFERENCE,
    metric: Annotated[str, typer.Option(help="Compare by this metric instead of each task's headline metric.")] = "",
    margin: Annotated[
        str | None,
        typer.Option(help="How far below the reference still counts as equal: 1pt (points), or 0.005; default: 1pt."),
    ] = None,
    plot: Annotated[
        tuple[str, Path] | None,
        typer.Option(
            metavar="NAME FILE",
            help=f"Save a picture: {', '.join(PICTURES)}, or {ALL_PICTURES}; FILE ends in .png, .svg or .pdf "
            f"(or is a folder, for {ALL_PICTURES}); without NAME: {DEFAULT_PICTURE}.",
            autocompletion=completion.picture_names,
        ),
    ] = None,
    allow_mixed: Annotated[
        bool,
        typer.Option("--allow-mixed", help="Compare runs that differ in hardware or settings; list the differences."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Summarize finished jobs: which methods hold the reference's quality, and what they cost.

    The first screen has a line per method for each model and task, best by evidence first. Other views show everything
    else; JSON and CSV contain every figure unless you choose a view.

    Examples:

        adapeff report demo

        adapeff report demo --view training

        adapeff report monday tuesday --where method=lora*,full --where since=7d

        adapeff report --all --view full --format markdown > report.md

        adapeff report demo --plot forest demo.png

        adapeff report demo --format html -o demo.html

        adapeff report demo --margin 2pt --reference lora

        adapeff report demo --json | jq '.[] | select(.figure == "quality")'
    """
    if plot is not None:
        check_plot(plot[1], plot[0])
    check_exclusive("a sweep", bool(chosen_sweeps), "--all", all_jobs)
    check_exclusive("--json", as_json, f"--format {form}", form not in ("table", "json"))
    if view is not None and view not in (*VIEWS, FULL):
        raise SpecError(f"there is no view '{view}'; {suggest(view, [*VIEWS, FULL])}")
    if out is not None:
        check_folder("--out", out)
        if form != "html":
            raise SpecError("--out writes a page; add --format html, or redirect the output with >")
    invocation = Invocation.of(context)
    price = price_of(invocation.settings)
    options = Options(allow_mixed, price, reference, metric, read_margin(margin), Selection.parse(where or ()))
    is_for_reading = form in ("table", "markdown", "latex") and view in (None, "summary") and plot is None
    may_be_index = (form == "html" or is_for_reading) and not (as_json or where)
    with invocation.database() as database, database.session(read_only=True) as session:
        sweep_ids = None if all_jobs else sweeps.find_sweeps(session, chosen_sweeps)
        index = build_index(session, sweep_ids=sweep_ids) if may_be_index else None
        if index is not None and form == "html" and len(index.lines) > MOST_TABLES_OF_A_PAGE:
            raise SpecError(
                f"{len(index.lines):,} tables are too many for a page; name a sweep, or choose with --where task=NAME"
            )
        if index is not None and form != "html" and len(index.lines) > MOST_TABLES:
            print_grids_as([index_grid(index)], form)
            return
        built = build_report(session, sweep_ids=sweep_ids, options=options)
        title = ", ".join(chosen_sweeps or ["all jobs" if all_jobs else "latest sweep"])
        page = _page(session, built, title, view) if form == "html" else ""
    if form == "html":
        write_page(page, out)
    elif view == FULL or (view is None and (as_json or form in ("json", "csv"))):
        print_report(built, "json" if as_json else form)
    else:
        print_view(built, view or "summary", "json" if as_json else form)
    if plot is not None:
        save_plot(built, *plot)


def _page(session: Session, built: Report, title: str, view: str | None) -> str:
    data = load_page(session, built, views=None if view in (None, FULL) else [str(view)])
    return report_page(built, data, f"adapeff report: {title}")

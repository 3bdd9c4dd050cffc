"""`adapeff report`: summarize finished jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.options import AllJobs, Json, SweepName, check_exclusive
from adapeff.cli.output import ReportFormat, check_plot, print_report, save_plot
from adapeff.service.reporting.report import build_report
from adapeff.service.store import sweeps


def report(
    context: typer.Context,
    sweep: SweepName = None,
    all_jobs: AllJobs = False,
    form: Annotated[ReportFormat, typer.Option("--format", help="Output format.")] = "table",
    plot: Annotated[
        Path | None, typer.Option(help="Save a plot of quality against training time to this file.")
    ] = None,
    allow_mixed: Annotated[
        bool,
        typer.Option("--allow-mixed", help="Compare runs that differ in hardware or settings; list the differences."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Summarize finished jobs: for each model and task, a table that compares every method with the reference.

    Examples:

        adapeff report demo

        adapeff report --all --format markdown > report.md

        adapeff report --all --allow-mixed

        adapeff report demo --json | jq '.[] | select(.figure == "quality")'
    """
    if plot is not None:
        check_plot(plot)
    check_exclusive("a sweep", sweep is not None, "--all", all_jobs)
    check_exclusive("--json", as_json, f"--format {form}", form not in ("table", "json"))
    invocation = Invocation.of(context)
    with invocation.database() as database, database.session(read_only=True) as session:
        settings = invocation.settings
        built = build_report(
            session,
            sweep_ids=None if all_jobs else sweeps.find_sweep_ids(session, sweep),
            allow_mixed=allow_mixed,
            price_per_device_hour=settings.price_per_device_hour,
            currency=settings.currency,
        )
    print_report(built, "json" if as_json else form)
    if plot is not None:
        save_plot(built, plot)

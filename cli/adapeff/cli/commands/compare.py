"""`adapeff compare`: two methods, sweeps, hosts or versions next to each other."""

from __future__ import annotations

from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.options import AllJobs, Json, check_exclusive
from adapeff.cli.output import ReportFormat, print_grids_as
from adapeff.service.reporting.compare import compare as compare_sides
from adapeff.service.reporting.compare_cells import read_side
from adapeff.service.store import sweeps


def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(help="method=lora, sweep=demo, host=gpu1, version=0.1.0, or a name alone.")],
    second: Annotated[str, typer.Argument(help="The other side, of the same kind.")],
    sweep: Annotated[
        str | None, typer.Option("--sweep", help="Only jobs of this sweep; default for methods: the latest sweep.")
    ] = None,
    all_jobs: AllJobs = False,
    form: Annotated[ReportFormat, typer.Option("--format", help="Output format.")] = "table",
    as_json: Json = False,
) -> None:
    """Compare two methods, sweeps, hosts or versions on the models, tasks and seeds that both have run.

    Prints the paired difference of the scores per task and language, the costs side by side, and the settings that
    differ. Times of two methods have a ratio if a profile measured both (`adapeff profile`). A name alone is a sweep if
    there is one of that name, else a method.

    Examples:

        adapeff compare lora houlsby

        adapeff compare sweep=monday sweep=tuesday

        adapeff compare host=gpu1 host=gpu2 --all
    """
    check_exclusive("--sweep", sweep is not None, "--all", all_jobs)
    check_exclusive("--json", as_json, f"--format {form}", form not in ("table", "json"))
    with Invocation.of(context).database() as database, database.session(read_only=True) as session:
        ids = None if all_jobs else sweeps.find_sweep_ids(session, sweep)
        grids = compare_sides(session, read_side(session, first), read_side(session, second), sweep_ids=ids)
    print_grids_as(grids, "json" if as_json else form)

"""`adapeff suites`: list the installed sets of tasks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from adapeff.cli import completion
from adapeff.cli.options import Json
from adapeff.cli.render.records import print_record, print_records
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Suite

app = typer.Typer(name="suites", help="List named sets of tasks.", no_args_is_help=True)


@app.command("ls")
def list_suites(as_json: Json = False) -> None:
    """List the suites.

    Example:

        adapeff suites ls
    """
    records = [_record(suite) for _, suite in sorted(catalog.suites().items())]
    print_records("suites", records, ["name", "tasks", "description"], as_json=as_json)


@app.command("show")
def show_suite(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.suite_names)],
    as_json: Json = False,
) -> None:
    """Show a suite's tasks.

    Example:

        adapeff suites show offline
    """
    print_record(_record(catalog.get_suite(name)), as_json=as_json)


def _record(suite: Suite) -> dict[str, Any]:
    return {"name": suite.name, "tasks": list(suite.tasks), "description": suite.description}

"""The command `adapeff`: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from adapeff.cli import context
from adapeff.cli.commands import catalog, config, database, doctor, jobs, profile, report, run, status, submit, worker
from adapeff.service.errors import AdapeffError, ExitCode

_PLACES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
}
"""Errors of the place a person named, not of the program."""


app = typer.Typer(
    name="adapeff",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    epilog="First steps: `adapeff run demo`, then `adapeff report demo`. Each command's --help has examples.",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("adapeff"))
        raise typer.Exit


@app.callback()
def settings_flags(
    database_url: Annotated[
        str | None, typer.Option(help="Database, e.g. postgresql://... (better: environment).")
    ] = None,
    broker_url: Annotated[str | None, typer.Option(help="Redis, e.g. redis://... (better: environment).")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Folder of the embedded database and queue.")] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Which way of adapting a model reaches the quality you need, and what does it cost?"""
    context.set_flags(database_url=database_url, broker_url=broker_url, state_dir=state_dir)


app.command()(run.run)
app.command()(submit.submit)
app.command()(profile.profile)
app.command()(worker.worker)
app.command()(status.status)
app.command()(jobs.show)
app.command()(jobs.logs)
app.command()(jobs.cancel)
app.command()(jobs.retry)
app.command()(report.report)
app.command()(report.export)
app.command()(config.config)
app.command()(doctor.doctor)
app.add_typer(database.app, name="db")
for noun in (catalog.methods_app, catalog.tasks_app, catalog.suites_app):
    app.add_typer(noun)


def main() -> NoReturn:
    """Run the command line; every expected error is one line on stderr."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        app()
    except AdapeffError as error:
        context.note(f"adapeff: {error}")
        sys.exit(error.exit_code)
    except (context.Interrupted, KeyboardInterrupt):
        context.note("adapeff: interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `adapeff report | head`: the reader has enough
        sys.exit(ExitCode.OK)
    except OSError as error:
        if error.errno not in _PLACES:
            raise
        place = f" ({error.filename})" if error.filename else ""
        context.note(f"adapeff: {error.strerror}{place}; make room or choose another place, then try again")
        sys.exit(ExitCode.ERROR)
    sys.exit(ExitCode.OK)


def _interrupt(*_: Any) -> NoReturn:
    raise context.Interrupted

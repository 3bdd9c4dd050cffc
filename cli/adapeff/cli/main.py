"""The command `adapeff`: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from adapeff.cli import invocation as context
from adapeff.cli.commands import (
    config,
    database,
    doctor,
    jobs,
    profile,
    report,
    run,
    status,
    submit,
    sweeps,
    tasks,
    worker,
)
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
app.add_typer(sweeps.app)
for noun in (tasks.methods_app, tasks.tasks_app, tasks.suites_app):
    app.add_typer(noun)


def main() -> NoReturn:
    """Run the command line; every expected error is one line on stderr."""
    _open_streams()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish goes first
            signal.signal(number, _interrupt)
    try:
        app()
    except AdapeffError as error:
        context.note(f"adapeff: {error}")
        _leave(error.exit_code)
    except (context.Interrupted, KeyboardInterrupt):
        context.note("adapeff: interrupted")
        _leave(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        _leave(ExitCode.OK)  # `adapeff report | head`: the reader has enough
    except OSError as error:
        if error.errno not in _PLACES:
            raise
        place = f" ({error.filename})" if error.filename else ""
        context.note(f"adapeff: {error.strerror}{place}; make room or choose another place, then try again")
        _leave(ExitCode.ERROR)
    except SystemExit as ended:
        _leave(ended.code if isinstance(ended.code, int) else ExitCode.OK if ended.code is None else ExitCode.ERROR)
    _leave(ExitCode.OK)


def _open_streams() -> None:
    """Have somewhere to print to: a stream may be closed, or of an encoding that lacks some characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for the process's life
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def _leave(code: int) -> NoReturn:
    """End with an exit code; a reader that went away meanwhile is no fault."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _interrupt(*_: Any) -> NoReturn:
    raise context.Interrupted

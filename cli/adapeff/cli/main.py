"""The `adapeff` command: its table of commands, and the one place that turns errors into a line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from adapeff.cli.lazy import LazyGroup
from adapeff.cli.messages import Interrupted, note
from adapeff.service.errors import AdapeffError, ExitCode

COMMANDS = {
    "run": "run:run",
    "submit": "submit:submit",
    "profile": "profile:profile",
    "worker": "worker:worker",
    "workers": "workers:workers",
    "status": "status:status",
    "why": "why:why",
    "show": "jobs:show",
    "logs": "jobs:logs",
    "cancel": "jobs:cancel",
    "retry": "jobs:retry",
    "hold": "steering:hold",
    "release": "steering:release",
    "priority": "steering:priority",
    "report": "report:report",
    "compare": "compare:compare",
    "recommend": "recommend:recommend",
    "serve": "serve:serve",
    "export": "export:export",
    "import": "import_:import_archives",
    "config": "config:config",
    "doctor": "doctor:doctor",
    "db": "database:app",
    "sweeps": "sweeps:app",
    "prune": "prune:prune",
    "methods": "methods:app",
    "tasks": "tasks:app",
    "suites": "suites:app",
}
"""Command -> module in `commands/` and its function (or Typer app, for a group), in the order of the overview."""

_FREE_SPACE = "free some space or choose another location"
_CHOOSE_ANOTHER = "choose a location that exists and that you may write to"
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FREE_SPACE),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _CHOOSE_ANOTHER),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR), _CHOOSE_ANOTHER),
}
"""Advice for errors of files and folders that a user named; all other OS errors are bugs."""


class _Commands(LazyGroup):
    package = "adapeff.cli.commands"
    table = COMMANDS


app = typer.Typer(
    name="adapeff",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    epilog="First steps: `adapeff run demo`, then `adapeff report demo`. Each command's --help has examples.",
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        print(version("adapeff"))
        raise typer.Exit


@app.callback()
def global_flags(
    database_url: Annotated[
        str | None,
        typer.Option(help="Database, e.g. postgresql://...; with a password, set ADAPEFF_DATABASE_URL instead."),
    ] = None,
    broker_url: Annotated[
        str | None, typer.Option(help="Redis, e.g. redis://...; with a password, set ADAPEFF_BROKER_URL instead.")
    ] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Folder of the embedded database and queue.")] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Which way of adapting a model reaches the quality you need, and what does it cost?"""
    # Nothing to do: commands read these flags from the context (`Invocation.of`).


def main() -> NoReturn:
    """Run the command line; every expected error is one line on stderr."""
    _open_streams()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it; keep it ignored
            signal.signal(number, _interrupt)
    try:
        app()
    except AdapeffError as error:
        note(f"adapeff: {error}")
        _leave(error.exit_code)
    except (Interrupted, KeyboardInterrupt):
        note("adapeff: interrupted")
        _leave(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        _leave(ExitCode.OK)  # as in `adapeff report | head`
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        file = f" ({error.filename})" if error.filename else ""
        note(f"adapeff: {error.strerror}{file}; {_ADVICE[error.errno]}")
        _leave(ExitCode.ERROR)
    except SystemExit as ending:
        _leave(ending.code if isinstance(ending.code, int) else ExitCode.OK if ending.code is None else ExitCode.ERROR)
    _leave(ExitCode.OK)


def _open_streams() -> None:
    """Make stdout and stderr writable: they may be closed, or their encoding may lack some characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def _leave(code: int) -> NoReturn:
    """Exit with a code; a closed stdout is not an error."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _interrupt(*_: Any) -> NoReturn:
    raise Interrupted

"""Messages on stderr, and the exception for Ctrl-C."""

from __future__ import annotations

import sys
from contextlib import suppress

from adapeff.cli.render.text import printable


class Interrupted(BaseException):
    """Ctrl-C; not KeyboardInterrupt, which Typer would turn into its own exit code."""


def note(text: str) -> None:
    """Print a message to stderr, where it does not mix with results."""
    with suppress(OSError, ValueError):  # stderr may be closed
        print(printable(text), file=sys.stderr)

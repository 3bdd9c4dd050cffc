"""What one invocation has: the flags given before the command, the settings they lead to, the database."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from adapeff.cli.render.text import printable

if TYPE_CHECKING:
    from adapeff.service.settings import LoadedSettings
    from adapeff.service.store.database import Database


class Interrupted(BaseException):
    """Ctrl-C; not KeyboardInterrupt, which Typer would turn into its own exit code."""


_flags: dict[str, Any] = {}


def set_flags(**flags: Any) -> None:
    """Remember settings given as flags; later calls add to earlier ones."""
    _flags.update({key: value for key, value in flags.items() if value is not None})


def settings() -> LoadedSettings:
    """The settings of this invocation.

    Raises:
        ConfigError: if they are malformed.
    """
    from adapeff.service.settings import load_settings

    return load_settings(_flags)


@contextmanager
def database() -> Iterator[Database]:
    """The database the settings name, closed afterwards."""
    from adapeff.service.store.database import open_database

    opened = open_database(settings().values)
    try:
        yield opened
    finally:
        opened.close()


def child_environment() -> dict[str, str]:
    """The environment for a process that must see the same settings; flags travel in it, not in its arguments, since
    those are visible to every user of the machine."""
    return {**os.environ, **{f"ADAPEFF_{key.upper()}": str(value) for key, value in _flags.items()}}


def note(text: str) -> None:
    """Tell a person something that is no result."""
    with suppress(OSError, ValueError):  # whoever closed stderr does not want to know
        print(printable(text), file=sys.stderr)

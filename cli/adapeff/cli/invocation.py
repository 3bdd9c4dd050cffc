"""One invocation of the command line: its flags, the resulting settings, and the database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import typer

from adapeff.service.settings import PREFIX, LoadedSettings, Settings, load_settings
from adapeff.service.store.database import Database, open_database

GLOBAL_FLAGS = ("database_url", "broker_url", "state_dir")
"""The settings with global flags; commands may have further ones, such as data_root."""


@dataclass(frozen=True)
class Invocation:
    """The flags, settings and database of one command."""

    flags: Mapping[str, Any]
    """Settings given on the command line, by name; None: not given."""

    @classmethod
    def of(cls, context: typer.Context, **flags: Any) -> Self:
        """The invocation of a command, from the global flags and the command's own."""
        parameters = context.find_root().params
        return cls({name: parameters.get(name) for name in GLOBAL_FLAGS} | flags)

    def with_flags(self, **flags: Any) -> Self:
        """A copy with further settings, as if given on the command line."""
        return type(self)({**self.flags, **flags})

    @cached_property
    def loaded_settings(self) -> LoadedSettings:
        """The settings and where each one comes from.

        Raises:
            ConfigError: if they are malformed.
        """
        return load_settings(self.flags)

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.loaded_settings.values

    def check_settings(self) -> None:
        """Read the settings now, so that errors in them are reported first.

        Raises:
            ConfigError: if they are malformed.
        """
        _ = self.loaded_settings

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Open the database of the settings, and close it afterwards."""
        opened = open_database(self.settings)
        try:
            yield opened
        finally:
            opened.close()

    def child_environment(self) -> dict[str, str]:
        """The environment for a child process with the same settings.

        Flags are passed in the environment, because every user of the machine can read a process's arguments.
        """
        flags = {PREFIX + name.upper(): str(value) for name, value in self.flags.items() if value is not None}
        return {**os.environ, **flags}

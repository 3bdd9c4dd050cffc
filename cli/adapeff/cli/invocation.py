"""One invocation of the command line: its flags, the settings they lead to, the database."""

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
"""The settings that are flags before the command; a command may have others of its own, such as data_root."""


@dataclass(frozen=True)
class Invocation:
    """What one command works with."""

    flags: Mapping[str, Any]
    """Settings given on the command line, by name; None: not given."""

    @classmethod
    def of(cls, context: typer.Context, **flags: Any) -> Self:
        """The invocation of a command, from the flags before it and its own."""
        parameters = context.find_root().params
        return cls({name: parameters.get(name) for name in GLOBAL_FLAGS} | flags)

    def with_flags(self, **flags: Any) -> Self:
        """The same with further settings, as if they had been given on the command line."""
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
        """Read the settings now, so that what is wrong with them is reported before anything else.

        Raises:
            ConfigError: if they are malformed.
        """
        _ = self.loaded_settings

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The database that the settings name, closed afterwards."""
        opened = open_database(self.settings)
        try:
            yield opened
        finally:
            opened.close()

    def child_environment(self) -> dict[str, str]:
        """The environment for a process that must see the same settings.

        Flags travel in it rather than in the process's arguments, which every user of the machine can read.
        """
        flags = {PREFIX + name.upper(): str(value) for name, value in self.flags.items() if value is not None}
        return {**os.environ, **flags}

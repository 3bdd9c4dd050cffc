"""`adapeff config`: print every setting and its source."""

from __future__ import annotations

import json

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.options import Json
from adapeff.cli.render.tables import print_table


def config(context: typer.Context, as_json: Json = False) -> None:
    """Print every setting with its value and its source. Passwords are masked.

    Sources by precedence: flag, environment (ADAPEFF_..., then DATABASE_URL and REDIS_URL), the project's adapeff.toml,
    the user's configuration file, default.

    Examples:

        adapeff config

        ADAPEFF_LEASE_SECONDS=30 adapeff config --json
    """
    rows = list(Invocation.of(context).loaded_settings.rows())
    if as_json:
        print(json.dumps({name: {"value": value, "source": source} for name, value, source in rows}, indent=1))
        return
    print_table("settings", ["name", "value", "source"], [list(row) for row in rows])

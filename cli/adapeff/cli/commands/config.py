"""`adapeff config`: every setting and where it comes from."""

from __future__ import annotations

import json

from adapeff.cli import invocation as context
from adapeff.cli.options import Json


def config(as_json: Json = False) -> None:
    """Print every setting with its value and source; passwords are masked.

    Sources, highest first: flag, environment (ADAPEFF_..., then DATABASE_URL and REDIS_URL), adapeff.toml of the
    project, the user's file, default.

    Examples:

        adapeff config

        ADAPEFF_LEASE_SECONDS=30 adapeff config --json
    """
    rows = list(context.settings().rows())
    if as_json:
        print(json.dumps({name: {"value": value, "source": source} for name, value, source in rows}, indent=1))
        return
    from adapeff.cli.render.tables import print_table

    print_table("settings", ["name", "value", "source"], [list(row) for row in rows])

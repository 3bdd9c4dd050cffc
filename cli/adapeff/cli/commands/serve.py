"""`adapeff serve`: the report and the queue in a browser, live."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.service.errors import ConfigError

SHORTEST_TOKEN = 16
TOKEN_VARIABLE = "ADAPEFF_SERVE_TOKEN"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535)] = 8642,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that changes need; default: nothing can be changed.")
    ] = None,
) -> None:
    """Show queue, running jobs and reports in a browser, live, until Ctrl-C.

    Read-only without a token, from a file or ADAPEFF_SERVE_TOKEN. With one, those who log in with it can cancel and
    retry jobs, and if the address is not loopback, nobody else sees anything.

    Examples:

        adapeff serve

        adapeff serve --port 9000 --token-file ~/.adapeff-token
    """
    for name in ("fastapi", "prometheus_client", "uvicorn"):
        if find_spec(name) is None:
            raise ConfigError(f"serve needs {name}, which is not installed; run pip install 'adapeff[serve]'")
    token = _read_token(token_file)
    if host not in _LOOPBACK and token is None:
        raise ConfigError(
            f"--host is {host}, which others can reach; set a token with --token-file or {TOKEN_VARIABLE}"
        )
    from adapeff.cli.serve.server import run_server  # needs the optional dependencies

    invocation = Invocation.of(context)
    with invocation.database() as database:
        run_server(database, invocation.settings, host, port, token)


def _read_token(file: Path | None) -> str | None:
    """The token of the file, else of the environment; None without either.

    Raises:
        ConfigError: if the file cannot be read, or the token is too short.
    """
    if file is None:
        given, source = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
        if given is None:
            return None
    else:
        source = str(file)
        try:
            given = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the token from {file}: {error}") from error
    token = given.strip()
    if len(token) < SHORTEST_TOKEN:
        raise ConfigError(f"the token in {source} has {len(token)} characters, expected at least {SHORTEST_TOKEN}")
    return token

"""Run the web application until Ctrl-C."""

from __future__ import annotations

import socket

import uvicorn

from adapeff.cli.messages import note
from adapeff.cli.serve.access import LOOPBACK, Access
from adapeff.cli.serve.app import make_app
from adapeff.service.errors import ConfigError
from adapeff.service.settings import Settings
from adapeff.service.store.database import Database


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                note(f"serving at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops)")


def run_server(database: Database, settings: Settings, host: str, port: int, token: str | None) -> None:
    """Listen until interrupted.

    Raises:
        ConfigError: if the address cannot be used.
    """
    hosts = LOOPBACK if host in LOOPBACK else ()
    config = uvicorn.Config(
        make_app(database, settings, Access(hosts, token)),
        host=host,
        port=port,
        log_level="critical",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    try:
        listening = config.bind_socket()
    except (OSError, SystemExit) as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}; another program may use it: choose another --port"
        ) from error
    _Server(config).run(sockets=[listening])

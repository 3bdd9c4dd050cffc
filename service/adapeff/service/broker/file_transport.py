"""Kombu's file system transport with atomic messages and recreated folders.

Kombu writes a message under its final name, so a consumer in another process may read it half-written. This transport
writes it under another name and renames it. Kombu also skips messages it cannot take, so if a folder is missing or
unreadable, the consumer waits silently. This transport recreates the folders for each connection, and raises errors in
taking a message.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps, loads

SCHEME = "adapeff-files"


class Channel(filesystem.Channel):  # type: ignore[misc]  # kombu ships no types
    """Puts and takes messages by renaming."""

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        for folder in (self.data_folder_in, self.processed_folder, self.control_folder):
            Path(folder).mkdir(parents=True, exist_ok=True)

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:
        name = f"{time.monotonic_ns():020d}_{uuid.uuid4()}.{queue}.msg"  # consumers take messages in order of name
        draft = Path(self.data_folder_out) / f"{name}.draft"
        draft.touch(mode=0o600)
        draft.write_text(dumps(payload), encoding="utf-8")
        draft.rename(Path(self.data_folder_out) / name)

    def _get(self, queue: str) -> Any:
        problem: OSError | None = None
        with os.scandir(self.data_folder_in) as entries:
            names = sorted(entry.name for entry in entries if entry.name.partition(".")[2] == f"{queue}.msg")
        for name in names:
            file, taken = Path(self.data_folder_in) / name, Path(self.processed_folder) / name
            try:
                file.rename(taken)
            except OSError as error:
                if os.path.lexists(file):  # otherwise another consumer was first
                    problem = error
                continue
            if not taken.is_file():
                raise ValueError(f"{name} is not a file")
            return loads(taken.read_text(encoding="utf-8"))
        raise problem or Empty


class Transport(filesystem.Transport):  # type: ignore[misc]  # kombu ships no types
    """The embedded queue's transport."""

    Channel = Channel


TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"

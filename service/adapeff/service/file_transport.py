"""Kombu's file system transport with messages that appear whole.

Kombu writes a message under its final name, so a consumer in another process may take it half written, and the error
stops its worker. Here it is written under another name and renamed.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

SCHEME = "adapeff-files"


class Channel(filesystem.Channel):  # type: ignore[misc]  # kombu ships no types
    """Puts messages by renaming."""

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:
        name = f"{time.monotonic_ns():020d}_{uuid.uuid4()}.{queue}.msg"  # consumers take the first by name
        draft = Path(self.data_folder_out) / f"{name}.draft"
        draft.write_text(dumps(payload), encoding="utf-8")
        draft.rename(Path(self.data_folder_out) / name)


class Transport(filesystem.Transport):  # type: ignore[misc]  # kombu ships no types
    """The embedded queue's transport."""

    Channel = Channel


TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"

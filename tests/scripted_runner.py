"""A runner that runs the Python code of its first argument: `e(...)` writes an event, `EVENTS` is their file."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def main() -> int:
    """Run the code."""
    code, events = sys.argv[1:]

    def e(**event: Any) -> None:
        with Path(events).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    exec(code, {"e": e, "EVENTS": events, "json": json, "os": os, "signal": signal, "sys": sys, "time": time})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The device a run uses: its clock, memory, precision, environment record, and the lock on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEVICES: Mapping[str, Any] = {}

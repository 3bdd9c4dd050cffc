"""What can be plugged in: the contracts, the catalog that finds plug-ins, and how a user writes them."""

from __future__ import annotations

from adapeff.service.plugins.contracts import Method, Metric, Suite, Task

__all__ = ["Method", "Metric", "Suite", "Task"]

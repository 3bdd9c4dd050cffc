"""Named sets of tasks."""

from __future__ import annotations

from collections.abc import Mapping

from adapeff.service.plugins import Suite

SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="offline",
            description="Generated data in four languages, for machines without the hub; the ceiling is known.",
            tasks=("offline_sentiment", "offline_nli"),
        ),
    )
}

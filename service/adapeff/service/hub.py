"""Ask the Hugging Face hub what a branch stands for now, so that a finished run of an older commit is not re-used.

The base install has no hub library, and one small request needs none. Where the hub is out of reach the answer is
"unknown", and finished runs are re-used.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterable

from adapeff.service.specs import JobSpec

TIMEOUT_SECONDS = 3.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


def current_revisions(specs: Iterable[JobSpec]) -> dict[str, str]:
    """Model identity -> commit, for every hub model given by a branch or tag that the hub tells about in time."""
    models = {spec.model.identity: spec.model for spec in specs if spec.model.source == "hub"}
    found = {}
    for identity, model in models.items():
        revision = model.revision or "main"
        if _COMMIT.fullmatch(revision):
            continue
        commit = _ask(model.name, revision)
        if commit is None:
            break  # out of reach: do not wait again for each model
        found[identity] = commit
    return found


def _ask(name: str, revision: str) -> str | None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/api/models/{urllib.parse.quote(name)}/revision/{urllib.parse.quote(revision, safe='')}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            commit = json.load(answer).get("sha")
    except (OSError, ValueError, AttributeError):
        return None
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None

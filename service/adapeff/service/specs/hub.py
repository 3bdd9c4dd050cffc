"""Look up the commit of a branch on the Hugging Face hub, so that a finished run of an older commit is not reused.

The base install has no hub library, and a single small request does not need one. If the hub cannot be reached,
finished runs are reused.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterable

from adapeff.service.plugins import catalog
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.profile import ProfileSpec

TIMEOUT_SECONDS = 3.0
COMMIT = re.compile(r"[0-9a-f]{40}")


def current_revisions(specs: Iterable[JobSpec | ProfileSpec]) -> dict[str, str]:
    """The current commit of every hub branch or tag in the specs that the hub answers for in time.

    Returns:
        `models/org/name@main` or `datasets/org/name@main` -> commit.
    """
    commits: dict[str, str] = {}
    for repository, revision in dict.fromkeys(source for spec in specs for source in moving_sources(spec)):
        commit = current_commit(repository, revision)
        if commit is None:
            break  # unreachable: do not wait for the others
        commits[f"{repository}@{revision}"] = commit
    return commits


def moving_sources(spec: JobSpec | ProfileSpec) -> list[tuple[str, str]]:
    """The (repository, branch or tag) pairs of a job's hub sources that are not pinned to a commit."""
    sources = []
    if spec.model.source == "hub":
        sources.append((f"models/{spec.model.name}", spec.model.revision or "main"))
    if isinstance(spec, JobSpec) and spec.data.source == "hub" and spec.task.name in catalog.tasks():
        task = catalog.get_task(spec.task.name, spec.task.parameters)
        sources += [(f"datasets/{hub_id}", revision or "main") for hub_id, revision in task.hub_sources()]
    return [(repository, revision) for repository, revision in sources if not COMMIT.fullmatch(revision)]


def current_commit(repository: str, revision: str) -> str | None:
    """The current commit of a branch of `models/org/name` or `datasets/org/name`; None if the hub does not answer."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/api/{urllib.parse.quote(repository)}/revision/{urllib.parse.quote(revision, safe='')}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            commit = json.load(answer).get("sha")
    except (OSError, ValueError, AttributeError):
        return None
    return commit if isinstance(commit, str) and COMMIT.fullmatch(commit) else None

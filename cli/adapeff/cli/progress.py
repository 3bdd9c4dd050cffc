"""Follow jobs to their end: bars where stderr is a terminal, a line per change where it is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from adapeff.cli.messages import note
from adapeff.cli.worker_client import LocalWorker
from adapeff.service.errors import JobsFailedError
from adapeff.service.store import job_queries
from adapeff.service.store.database import Database
from adapeff.service.store.tables import FINAL_STATES, Job, Run

POLL_SECONDS = 0.4
LONGEST_LABEL = 30
"""Characters of a job's name next to its bar: with these, all the numbers fit on 80 columns."""


class _View(Protocol):
    def show(self, found: Sequence[Job], runs: dict[int, Run]) -> None: ...

    def close(self) -> None: ...


def wait_for(database: Database, job_ids: Sequence[int], *, workers: Sequence[LocalWorker] = ()) -> None:
    """Return when every job has ended.

    Raises:
        AdapeffError: if one of the given workers fails, or all of them end, while jobs remain.
    """
    view: _View = _Bars(len(job_ids)) if sys.stderr.isatty() else _Lines()
    try:
        while True:
            stopped = [worker for worker in workers if worker.exit_code is not None]
            found, runs = _poll(database, job_ids)
            view.show(found, runs)
            if all(job.state in FINAL_STATES for job in found):
                return
            for worker in stopped:
                if worker.exit_code or len(stopped) == len(workers):
                    raise worker.error()
            time.sleep(POLL_SECONDS)
    finally:
        view.close()


def _poll(database: Database, job_ids: Sequence[int]) -> tuple[Sequence[Job], dict[int, Run]]:
    """The jobs, and the current run of each one that is running."""
    with database.session(read_only=True) as session:
        found = job_queries.list_jobs(session, ids=job_ids)
        attempts = job_queries.list_runs(session, [job.id for job in found if job.state == "running"])
    return found, {job_id: runs[-1] for job_id, runs in attempts.items() if runs}


def raise_for_failures(database: Database, job_ids: Sequence[int]) -> None:
    """Check that every job succeeded.

    Raises:
        JobsFailedError: naming the first one that did not, and its cause.
    """
    with database.session(read_only=True) as session:
        bad = job_queries.list_jobs(session, ids=job_ids, states=("failed", "cancelled"))
    if bad:
        first = bad[0]
        raise JobsFailedError(
            f"{len(bad)} of {len(job_ids)} jobs did not succeed; job {first.id} ({first.method} on {first.task}): "
            f"{first.cause}. See `adapeff logs {first.id}`; to run them again: `adapeff retry --failed`"
        )


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


class _Lines:
    """A line per change of state."""

    def __init__(self) -> None:
        self._states: dict[int, str] = {}

    def show(self, found: Sequence[Job], runs: dict[int, Run]) -> None:
        done = sum(job.state in FINAL_STATES for job in found)
        for job in found:
            if self._states.get(job.id) != job.state and (job.state != "queued" or job.id in self._states):
                cause = f": {job.cause}" if job.cause else ""
                label = f"{job.method} on {job.task}, seed {job.seed}"
                label = f"profile of {job.method}" if job.kind == "profile" else label
                note(f"[{done}/{len(found)}] job {job.id} {job.state}: {label}{cause}")
            self._states[job.id] = job.state

    def close(self) -> None:
        pass


class _Bars:
    """A bar for all jobs, and one for each running job: step, loss, time left."""

    def __init__(self, total: int) -> None:
        self._began = time.monotonic()
        self._done_before: int | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=False,
        )
        self._all = self._progress.add_task("jobs", total=total, note="")
        self._bars: dict[int, Any] = {}
        self._progress.start()

    def show(self, found: Sequence[Job], runs: dict[int, Run]) -> None:
        ended = [job for job in found if job.state in FINAL_STATES]
        bad = sum(job.state != "succeeded" for job in ended)
        notes = [f"{bad} not succeeded" if bad else "", self._time_left(len(ended), len(found))]
        self._progress.update(self._all, completed=len(ended), note=", ".join(filter(None, notes)))
        for job in found:
            if job.id in self._bars and job.state != "running":
                self._progress.remove_task(self._bars.pop(job.id))
            if job.id in runs and job.id not in self._bars:
                seed = "" if job.kind == "profile" else f" · seed {job.seed}"
                task = Path(job.task).name if job.task.startswith("/") else job.task
                label = _shortened(f"  {job.method} · {task}", LONGEST_LABEL - len(seed)) + seed
                self._bars[job.id] = self._progress.add_task(escape(label), total=None, note="starting")
            if job.id in runs:
                self._update(self._bars[job.id], runs[job.id])

    def _time_left(self, done: int, total: int) -> str:
        """How long the remaining jobs will take, at the rate of those that ended since this began."""
        if self._done_before is None:
            self._done_before = done
        ended = done - self._done_before
        if not ended or done == total:
            return ""
        seconds = (time.monotonic() - self._began) / ended * (total - done)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def _update(self, bar: Any, run: Run) -> None:
        now = run.progress or {}
        if run.stage == "train" and "step" in now:
            details = f"loss {now['loss']:.3f}, {now['eta_s']:.0f} s left"
            self._progress.update(bar, total=now["steps"], completed=now["step"], note=details)
        elif "block" in now:
            details = f"{now['of']}, {now['eta_s']:.0f} s left"
            self._progress.update(bar, total=now["blocks"], completed=now["block"], note=details)
        else:
            self._progress.update(bar, note=run.stage or "starting")

    def close(self) -> None:
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self._bars.clear()
        self._progress.stop()

"""Follow jobs until they end: with bars if stderr is a terminal, else with a line per change."""

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
from adapeff.service.store.job_watch import JobWatch, Poll
from adapeff.service.store.tables import FINAL_STATES, Job, Run

POLL_SECONDS = 0.4
LONGEST_LABEL = 30
"""Maximum characters of a job's name next to its bar, so that all numbers fit in 80 columns."""


class _View(Protocol):
    def show(self, poll: Poll, changed: Sequence[Job]) -> None: ...

    def close(self) -> None: ...


def wait_for(database: Database, job_ids: Sequence[int], *, workers: Sequence[LocalWorker] = ()) -> None:
    """Return when every job has ended; with workers of its own, also when those that have not are held.

    Raises:
        AdapeffError: if one of the given workers fails, or all of them end, while jobs remain.
    """
    view: _View = _Bars(len(job_ids)) if sys.stderr.isatty() else _Lines()
    watch = JobWatch(job_ids=job_ids)
    try:
        while True:
            stopped = [worker for worker in workers if worker.exit_code is not None]
            with database.session(read_only=True) as session:
                poll = watch.poll(session)
                changed = job_queries.list_jobs(session, ids=poll.changed)
            view.show(poll, changed)
            if poll.all_ended:
                return
            for worker in stopped:
                if worker.exit_code:
                    raise worker.error()
            if stopped and len(stopped) == len(workers):
                if _are_held_back(database, job_ids, poll):
                    return
                raise stopped[0].error()
            time.sleep(POLL_SECONDS)
    finally:
        view.close()


def raise_for_failures(database: Database, job_ids: Sequence[int]) -> None:
    """Check that every job succeeded.

    Raises:
        JobsFailedError: naming the first job that did not succeed, and its cause.
    """
    with database.session(read_only=True) as session:
        failures = job_queries.list_jobs(session, ids=job_ids, states=("failed", "cancelled"))
    if failures:
        first = failures[0]
        raise JobsFailedError(
            f"{len(failures)} of {len(job_ids)} jobs did not succeed; job {first.id} ({_subject(first)}): "
            f"{first.cause}. See `adapeff logs {first.id}`; to run them again: `adapeff retry --failed`"
        )


def _are_held_back(database: Database, job_ids: Sequence[int], poll: Poll) -> bool:
    """Whether every job that has not ended is held, or needs one that is."""
    with database.session(read_only=True) as session:
        return job_queries.count_held_back(session, job_ids) == sum(poll.counts.values()) - _ended(poll)


def _subject(job: Job) -> str:
    return f"profile of {job.method}" if job.kind == "profile" else f"{job.method} on {job.task}"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _ended(poll: Poll) -> int:
    return sum(poll.counts.get(state, 0) for state in FINAL_STATES)


class _Lines:
    """A line per change of state."""

    def __init__(self) -> None:
        self._states: dict[int, str] = {}

    def show(self, poll: Poll, changed: Sequence[Job]) -> None:
        done, total = _ended(poll), sum(poll.counts.values())
        for job in changed:
            state = job_queries.shown_state(job.state, job.held)
            if self._states.get(job.id) != state:
                cause = f": {job.cause}" if job.cause else ""
                seed = "" if job.kind == "profile" else f", seed {job.seed}"
                note(f"[{done}/{total}] job {job.id} {state}: {_subject(job)}{seed}{cause}")
            self._states[job.id] = state

    def close(self) -> None:
        pass


class _Bars:
    """A bar for all jobs, and one for each running job: step, loss, time left."""

    def __init__(self, total: int) -> None:
        self._started = time.monotonic()
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
        self._labels: dict[int, str] = {}
        self._progress.start()

    def show(self, poll: Poll, changed: Sequence[Job]) -> None:
        ended, total = _ended(poll), sum(poll.counts.values())
        unsuccessful = ended - poll.counts.get("succeeded", 0)
        notes = [f"{unsuccessful} unsuccessful" if unsuccessful else "", self._time_left(ended, total)]
        self._progress.update(self._all, completed=ended, note=", ".join(filter(None, notes)))
        self._labels |= {job.id: self._label(job) for job in changed if job.state == "running"}
        for job_id in [job_id for job_id in self._bars if job_id not in poll.runs]:
            self._progress.remove_task(self._bars.pop(job_id))
            self._labels.pop(job_id, None)
        for job_id, run in poll.runs.items():
            if job_id not in self._bars:
                self._bars[job_id] = self._progress.add_task(self._labels.get(job_id, ""), total=None, note="starting")
            self._update(self._bars[job_id], run)

    @staticmethod
    def _label(job: Job) -> str:
        seed = "" if job.kind == "profile" else f" · seed {job.seed}"
        task = Path(job.task).name if job.task.startswith("/") else job.task
        return escape(_shortened(f"  {job.method} · {task}", LONGEST_LABEL - len(seed)) + seed)

    def _time_left(self, done: int, total: int) -> str:
        """The estimated time for the remaining jobs, at the rate of the jobs that have ended since the start."""
        if self._done_before is None:
            self._done_before = done
        ended = done - self._done_before
        if not ended or done == total:
            return ""
        seconds = (time.monotonic() - self._started) / ended * (total - done)
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

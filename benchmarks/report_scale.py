"""How reports and exports grow with the database: CPU time and memory, each in a fresh process.

    python -m benchmarks.report_scale [--jobs 100000] [--measurements 50] [--runs 4000] [--database sqlite|postgres]
        [--keep FOLDER]

fills a database with finished jobs and as many measurements of each (kept in FOLDER and used again, if given), then
measures: the report of a sweep of 60 jobs (`sweep_s`), the index of everything (`all_s`), the export of a sweep of
10,000 jobs by format (`export_10k_s`), and the full report of four tables in another database, of `--runs` jobs with
100 measurements each (`report_s`). Seconds are CPU seconds of the process, and `..._wall_s` elapsed
ones. Memory (`..._mb`, and the highest of the first two as `peak_mb`) is the resident high-water mark above what the
process held before. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from adapeff.service.store import job_queries
from adapeff.service.store.database import Database, upgrade
from benchmarks.stored_runs import LARGE_SWEEP, METHODS, SEEDS, SMALL_SWEEP, TASKS, fill
from tests.conftest import _postgres

FORMATS = ("csv", "json", "parquet")


def main() -> None:
    """Fill the databases, measure in children, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--measurements", type=int, default=50)
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "URL"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        what, url = asked.measure
        print(json.dumps(measure(what, url)))
        return
    found: dict[str, Any] = {"database": asked.database, "jobs": asked.jobs, "measurements": asked.measurements}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        kept = asked.keep or folder
        url = stack.enter_context(_server(kept) if asked.database == "postgres" else _file(kept, asked))
        found |= _filled(url, asked.jobs, asked.measurements)
        small = f"sqlite:///{folder / 'runs.db'}"
        found["runs"] = asked.runs
        _filled(small, asked.runs, 100, seeds=-(-asked.runs // (len(METHODS) * len(TASKS))))
        for name, what, where in (("sweep", "sweep", url), ("all", "index", url), ("report", "report", small)):
            found |= {f"{name}_{key}": value for key, value in _in_child(what, where).items()}
        found["peak_mb"] = max(found[f"{name}_mb"] for name in ("sweep", "all"))
        exports = {form: _in_child(form, url) for form in FORMATS}
        for key in ("s", "wall_s", "mb"):
            found[f"export_10k_{key}"] = {form: export[key] for form, export in exports.items()}
    print(json.dumps(found))


@contextmanager
def _file(folder: Path, asked: argparse.Namespace) -> Iterator[str]:
    folder.mkdir(parents=True, exist_ok=True)
    yield f"sqlite:///{folder / f'{asked.jobs}x{asked.measurements}.db'}"


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """A PostgreSQL whose data stay in the folder."""
    (folder / "postgres").mkdir(parents=True, exist_ok=True)
    with _postgres(folder / "postgres") as url:
        yield f"{url}/postgres".replace("postgresql:", "postgresql+psycopg:")


def _filled(url: str, jobs: int, measurements: int, seeds: int = SEEDS) -> dict[str, float]:
    """Fill the database unless it is; the seconds it took, and those of its migration."""
    database = Database(url)
    upgrade(database, "0002")
    with database.engine.connect() as connection:  # not through the object layer, which knows later columns
        is_full = connection.exec_driver_sql("SELECT id FROM jobs LIMIT 1").first() is not None
    began = time.monotonic()
    if not is_full:
        fill(database, jobs, measurements, seeds)
    filled = time.monotonic()
    upgrade(database)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    database.close()
    return {"fill_s": round(filled - began), "migrate_s": round(time.monotonic() - filled)}


def _in_child(what: str, url: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.report_scale", "--measure", what, url]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    print(f"{what}: {done.stdout.strip()}", file=sys.stderr)
    return result


def measure(what: str, url: str) -> dict[str, Any]:
    """Do one thing once: CPU seconds, elapsed seconds, and memory above what was held before."""
    action = _actions()[what]
    database = Database(url)
    with database.session(read_only=True) as session:
        job_queries.count_by_state(session)  # what a first query imports is not the report's
        before = _status("VmRSS")
        began, wall = time.process_time(), time.monotonic()
        size = action(session)
        seconds, elapsed = time.process_time() - began, time.monotonic() - wall
    return {
        "s": round(seconds, 2),
        "wall_s": round(elapsed, 2),
        "mb": round((_status("VmHWM") - before) / 1e6),
        "rows": size,
    }


def _actions() -> dict[str, Callable[[Session], int]]:
    """What is measured by name; each returns the number of rows it made. What a command imports is not measured."""
    import pyarrow.parquet  # noqa: F401

    from adapeff.cli.commands.export import write_export
    from adapeff.service.reporting.export import open_export
    from adapeff.service.reporting.index import build_index
    from adapeff.service.reporting.report import build_report

    def report(session: Session, sweep_ids: list[int] | None) -> int:
        return sum(len(table.rows) for table in build_report(session, sweep_ids=sweep_ids).tables)

    def export(session: Session, form: Any) -> int:
        with tempfile.TemporaryDirectory() as folder:
            return write_export(open_export(session, sweep_ids=[LARGE_SWEEP]), form, Path(folder) / f"x.{form}")

    return {
        "sweep": lambda session: report(session, [SMALL_SWEEP]),
        "report": lambda session: report(session, None),
        "index": lambda session: len(build_index(session).lines),
        **{form: partial(export, form=form) for form in FORMATS},
    }


def _status(key: str) -> int:
    """Bytes of this process's memory, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()

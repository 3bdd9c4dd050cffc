"""How the report's data structures grow: CPU time and memory of `build_report` over many stored runs.

    python -m benchmarks.report_scale [--runs 4000] [--measurements 100]

fills a database in a temporary folder, then builds the report in a separate process. The last line is JSON: `runs`,
`measurements` of each, `cpu_s`, `peak_mb` (resident high-water mark above what the process held before the report).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from adapeff.service.measured import Key
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store import job_creation, job_queries
from adapeff.service.store.database import Database, now, upgrade
from adapeff.service.store.tables import Environment, Job, Measurement, Run

METHODS = ("full", "lora", "houlsby", "pfeiffer", "bitfit", "head", "compacter", "ia3", "layernorm", "prefix_tuning")
TASKS = ("offline_sentiment", "offline_nli", "offline_paraphrase", "offline_choice")
LANGUAGES = ("en", "de", "es", "fr")


def main() -> None:
    """Fill the database, measure in a child, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--measurements", type=int, default=100)
    parser.add_argument("--build", metavar="URL", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.build:
        print(json.dumps(measure(asked.build)))
        return
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'scale.db'}"
        fill(url, asked.runs, asked.measurements)
        command = [sys.executable, "-m", "benchmarks.report_scale", "--build", url]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    print(json.dumps({"runs": asked.runs, "measurements": asked.measurements, **json.loads(done.stdout)}))


def measure(url: str) -> dict[str, Any]:
    """Build the report of everything once."""
    from adapeff.service.reporting.report import build_report

    database = Database(url)
    with database.session(read_only=True) as session:
        job_queries.count_by_state(session)  # what a first query imports is not the report's
        before = _status("VmRSS")
        started = time.process_time()
        report = build_report(session)
        seconds = time.process_time() - started
    return {
        "cpu_s": round(seconds, 2),
        "peak_mb": round((_status("VmHWM") - before) / 1e6),
        "tables": len(report.tables),
        "rows": sum(len(table.rows) for table in report.tables),
    }


def _status(key: str) -> int:
    """Bytes of this process's memory, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def fill(url: str, runs: int, measurements: int) -> None:
    """Store as many finished runs, each with as many measurements, as a sweep of the study's size leaves behind."""
    database = Database(url)
    upgrade(database)
    seeds = -(-runs // (len(METHODS) * len(TASKS)))
    sweep = {"name": "scale", "models": ["org/model"], "tasks": list(TASKS), "methods": list(METHODS)}
    settings = {"test_languages": list(LANGUAGES)}
    specs = expand(parse_sweep({**sweep, "seeds": list(range(seeds)), "settings": settings}), data_root=None)[:runs]
    with database.session() as session:
        moment = now(session)
        session.execute(insert(Environment).values(id=1, fingerprint="x", values={"device_name": "CPU"}))
        for start in range(0, len(specs), 500):
            chunk = specs[start : start + 500]
            ids, _ = job_creation.create_jobs(session, chunk, priority=5, max_failures=3)
            session.execute(
                insert(Run),
                [
                    {"id": job_id, "job_id": job_id, "token": 1, "worker": f"host-{job_id}-1-aa", "slot": "cpu:0",
                     "folder": "", "outcome": "succeeded", "message": "", "stage": "", "progress": {},
                     "resolved": {"metric": "accuracy", "source_language": "en"}, "environment_id": 1,
                     "started_at": moment, "finished_at": moment}
                    for job_id in ids
                ],
            )  # fmt: skip
            rows = [row for job_id, spec in zip(ids, chunk, strict=True) for row in _rows(job_id, spec, measurements)]
            session.execute(insert(Measurement), rows)
        session.execute(Job.__table__.update().values(state="succeeded"))  # type: ignore[attr-defined]


def _rows(run_id: int, spec: JobSpec, count: int) -> list[dict[str, Any]]:
    """A run's measurements: scores by language, what the report shows, and others up to the count."""
    found: dict[Key, float] = {}
    for at, language in enumerate(LANGUAGES):
        for name, value in (("accuracy", 0.8 - at / 50), ("majority_accuracy", 0.5), ("noise_accuracy", 0.03),
                            ("examples", 400.0), ("data_examples", 400.0), ("data_tokens", 9000.0)):  # fmt: skip
            found[Key(name, split="test", language=language)] = (
                value + (spec.seed % 7) / 1000 if name == "accuracy" else value
            )
    single = ("train_compute_s", "wall_s", "stored_bytes", "trainable_parameters_method", "trainable_parameters_head",
              "peak_memory_process_bytes")  # fmt: skip
    found |= {Key(name): 100.0 + spec.seed for name in single}
    for batch in (1, 32):
        for statistic in ("p50", "p95", "p50_low", "p50_high"):
            found[Key("latency_s", statistic, "inference", batch=batch, length=64)] = 0.01 * batch
    for at in range(count - len(found)):
        found[Key("phase_s", phase=f"phase{at}")] = 1.0
    return [
        {"run_id": run_id, **key._asdict(), "value": value, "unit": "1", "reason": ""} for key, value in found.items()
    ]


if __name__ == "__main__":
    main()

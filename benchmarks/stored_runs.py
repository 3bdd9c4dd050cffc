"""Fill a database with the results of many finished jobs, fast: the study's kind of grid, many times over.

Rows are written as revision 0002 stored them, around the object layer, and then migrated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, islice, product
from typing import Any

from adapeff.service.measured import Key
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store.database import Database, upgrade

METHODS = ("full", "lora", "houlsby", "pfeiffer", "bitfit", "head", "compacter", "ia3", "layernorm", "prefix_tuning")
TASKS = ("offline_sentiment", "offline_nli", "offline_paraphrase", "offline_choice")
LANGUAGES = ("en", "de", "es", "fr")
SMALL_SWEEP, LARGE_SWEEP = 1, 2
"""The submissions of 60 and of 10,000 jobs (or all, if there are fewer)."""
SEEDS = 5
_CHUNK = 1000
_DEVICES = ("A CPU", "Another CPU", "A GPU")
_STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def fill(database: Database, jobs: int, measurements: int, seeds: int = SEEDS) -> None:
    """Store finished jobs, each with a run, as many measurements and three curves, and migrate to the newest revision.

    Jobs differ in model, training examples and task (a table each), and in method and seed.
    """
    upgrade(database, "0002")
    connection = database.engine.raw_connection()
    cursor: Any = connection.cursor()
    if database.engine.dialect.name == "sqlite":
        cursor.execute("BEGIN")
    cursor.execute("DROP INDEX ix_measurements_name_value")
    _load(cursor, "environments", (_environment(number) for number in range(len(_DEVICES))))
    _load(cursor, "sweeps", ((n, name, "{}", _time(0)) for n, name in ((SMALL_SWEEP, "small"), (LARGE_SWEEP, "large"))))
    numbered = zip(count(1), islice(_specs(seeds), jobs))
    while chunk := list(islice(numbered, _CHUNK)):
        _load(cursor, "jobs", (_job(job_id, spec) for job_id, spec in chunk))
        _load(cursor, "runs", (_run(job_id) for job_id, _ in chunk))
        rows = (row for job_id, spec in chunk for row in _measurements(job_id, spec, measurements))
        _load(cursor, "measurements", rows)
        _load(cursor, "curves", (row for job_id, _ in chunk for row in _curves(job_id)))
    _load(cursor, "sweep_jobs", ((SMALL_SWEEP, job_id) for job_id in _small(jobs)))
    _load(cursor, "sweep_jobs", ((LARGE_SWEEP, job_id) for job_id in range(1, min(jobs, 10_000) + 1)))
    cursor.execute("CREATE INDEX ix_measurements_name_value ON measurements (name, value)")
    connection.commit()
    connection.close()


_DIMENSIONS = ("name", "statistic", "phase", "language", "split", "batch", "length", "dtype", "variant")
_COLUMNS = {
    "environments": "id, fingerprint, values",
    "sweeps": "id, name, spec, created_at",
    "jobs": "id, kind, job_hash, train_hash, spec, model, task, method, seed, state, cause, lane, priority, token,"
    " failures, max_failures, created_at, changed_at, finished_at",
    "runs": "id, job_id, token, worker, slot, folder, outcome, message, stage, progress, resolved, environment_id,"
    " started_at, finished_at",
    "measurements": f"id, run_id, {', '.join(_DIMENSIONS)}, value, unit, reason",
    "curves": "run_id, name, points",
    "sweep_jobs": "sweep_id, job_id",
}


def _load(cursor: Any, table: str, rows: Iterable[Sequence[Any]]) -> None:
    """Insert rows by the driver's fastest way."""
    columns = ", ".join(f'"{name}"' for name in _COLUMNS[table].split(", "))
    if hasattr(cursor, "copy"):
        with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    else:
        places = ", ".join("?" for _ in _COLUMNS[table].split(", "))
        cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)


def _time(minutes: int) -> str:
    return (_STARTED + timedelta(minutes=minutes)).strftime("%Y-%m-%d %H:%M:%S.%f")


def _specs(seeds: int) -> Iterator[JobSpec]:
    """Endless jobs: a model's four tasks at a number of training examples, by all methods and seeds."""
    sweep = {"name": "scale", "models": ["org/model"], "tasks": list(TASKS), "methods": list(METHODS), "seeds": [0]}
    cells = expand(parse_sweep({**sweep, "settings": {"test_languages": list(LANGUAGES)}}), data_root=None)
    for number, size in ((number, size) for number in count() for size in range(500, 10_500, 500)):
        for cell, seed in product(cells, range(seeds)):
            model = cell.model.model_copy(update={"name": f"org/model{number}"})
            training = cell.training.model_copy(update={"train_size": size})
            yield cell.model_copy(update={"model": model, "training": training, "seed": seed})


def _small(jobs: int) -> Iterator[int]:
    """A sweep in the middle of the database: two tasks by all methods with three of the five seeds."""
    block = len(TASKS) * len(METHODS) * SEEDS
    first = jobs // 2 // block * block
    wanted = (first + at for at in range(block // 2) if at % SEEDS < 3)
    return (number + 1 for number in wanted if number < jobs)


def _environment(number: int) -> tuple[Any, ...]:
    values = {"device_name": _DEVICES[number], "device_type": "cpu", "precision": "fp32", "torch": "2.13.0",
              "transformers": "5.23.0", "peft": "0.21.2", "python": "3.11.7", "adapeff": "0.1.0"}  # fmt: skip
    return number + 1, str(number), json.dumps(values)


def _job(job_id: int, spec: JobSpec) -> tuple[Any, ...]:
    text, columns = spec.model_dump_json(), spec.columns
    about = (job_id, "train", spec.job_hash, spec.train_hash, text, *columns.values())
    return (*about, "succeeded", "", "adapeff-any", 5, 1, 0, 3, _time(0), _time(job_id), _time(job_id))


def _run(job_id: int) -> tuple[Any, ...]:
    resolved = {"metric": "accuracy", "source_language": "en", "metric_unit": "%", "higher_is_better": True,
                "model_revision": "a" * 40, "data_revision": None, "licence": "", "non_commercial": False}  # fmt: skip
    environment = job_id // 50_000 % len(_DEVICES) + 1
    about = (job_id, job_id, 1, f"host-{job_id}-aa", "cpu:0", f"/runs/{job_id}", "succeeded", "", "", "{}")
    return (*about, json.dumps(resolved), environment, _time(job_id), _time(job_id + 1))


def _keys(number: int) -> Iterator[Key]:
    """The figures a run measures: scores by language, what a report shows, and others up to the number."""
    scores = ("accuracy", "majority_accuracy", "noise_accuracy", "examples", "data_examples", "data_tokens")
    single = ("train_compute_s", "wall_s", "stored_bytes", "trainable_parameters_method", "trainable_parameters_head",
              "peak_memory_process_bytes")  # fmt: skip
    statistics = ("p50", "p95", "p50_low", "p50_high")
    known = [
        *(Key(name, split="test", language=language) for language, name in product(LANGUAGES, scores)),
        *map(Key, single),
        *(Key("latency_s", s, "inference", batch=batch, length=64) for batch, s in product((1, 32), statistics)),
    ]
    yield from islice((*known, *(Key("phase_s", phase=f"phase{at}") for at in range(number))), number)


_VALUES = {"majority_accuracy": 0.5, "noise_accuracy": 0.03, "examples": 400.0, "data_tokens": 9000.0}


def _measurements(job_id: int, spec: JobSpec, number: int) -> Iterator[tuple[Any, ...]]:
    method = METHODS.index(spec.method.name)
    for at, key in enumerate(_keys(number)):
        value = _VALUES.get(key.name, 100.0 + spec.seed + method)
        if key.name == "accuracy":
            value = 0.8 - method / 100 + job_id * 7919 % 101 / 5000 - LANGUAGES.index(key.language) / 50
        elif key.name == "latency_s":
            value = 0.001 * key.batch * (10 + method)
        where = (getattr(key, name) for name in _DIMENSIONS)
        yield ((job_id - 1) * number + at + 1, job_id, *where, value, "1", "")


def _curves(job_id: int) -> Iterator[tuple[Any, ...]]:
    steps = range(10, 60, 10)
    for name, scale in (("validation_accuracy", 0.015), ("train_compute_s", 0.2), ("train_samples", 32)):
        yield job_id, name, json.dumps([[step, scale * step] for step in steps])

"""The main job, typed as a user types it, on a tiny model."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapeff.worker.devices.step_clocks import STEP_PHASES
from tests.conftest import RedisServer, eventually, processes_of
from tests.e2e.conftest import Adapeff, Process, show, status, write_rows

CORES = os.sched_getaffinity(0)

Start = Callable[..., Process]


def rows_of(text: str, **where: Any) -> list[dict[str, Any]]:
    return [row for row in json.loads(text) if all(row[key] == value for key, value in where.items())]


def test_run_trains_measures_and_reports_and_the_second_time_reuses(
    adapeff: Adapeff, sweep: Path, tmp_path: Path
) -> None:
    first = adapeff("run", sweep, "--json", "--plot", tmp_path / "p.png")
    assert first.returncode == 0, first.stderr

    assert {row["method"] for row in json.loads(first.stdout) if row["figure"] != "finding"} == {"full", "lora"}
    (quality,) = rows_of(first.stdout, method="full", figure="quality")
    assert 0 <= quality["mean"] <= 1 and quality["n"] == 1
    (stored,) = rows_of(first.stdout, method="lora", figure="stored_bytes")
    assert 0 < stored["ratio_to_reference"] < 1
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")

    again = adapeff("run", sweep, "--json")
    assert again.returncode == 0
    assert "2 already submitted" in again.stderr
    assert again.stdout == first.stdout
    assert [job["runs"] for job in status(adapeff)["jobs"]] == [1, 1]

    forced = adapeff("run", sweep, "--json", "--force")
    assert "2 new" in forced.stderr
    one, other = (rows_of(text, figure="quality") for text in (first.stdout, forced.stdout))
    assert [{**row, "repeats": "0"} for row in other] == one
    assert {row["repeats"] for row in other} == {"1"}
    assert [row["mean"] for row in rows_of(forced.stdout, figure="rerun_unequal_scores")] == [0, 0]
    (spread,) = rows_of(forced.stdout, figure="rerun_spread_train_compute_s", method="lora")
    assert len(spread["values"]) == 2 and spread["mean"] >= 0


def test_what_is_measured_is_complete_and_adds_up(adapeff: Adapeff, sweep: Path) -> None:
    assert adapeff("run", sweep, "--methods", "houlsby[reduction_factor=4]").returncode == 0

    view = show(adapeff, 1)
    whole = [m for m in view["measurements"] if m.get("dtype") != "bf16"]
    found = {(m["name"], m.get("phase", ""), m.get("statistic", "")): m for m in whole}
    value = {key: m["value"] for key, m in found.items()}
    phases = {phase: v for (name, phase, _), v in value.items() if name == "phase_s"}

    assert set(phases) >= {
        *(
            "startup",
            "load",
            "tokenise",
            "forward",
            "backward",
            "optimizer",
            "data_wait",
            "validation",
            "checkpoint",
            "test",
            "profile",
        ),
        "unattributed",
    }
    assert sum(phases.values()) == pytest.approx(value["wall_s", "", ""], abs=0.05)
    assert value["train_compute_s", "", ""] == pytest.approx(sum(phases[name] for name in STEP_PHASES))
    # 2 layers x 2 sites x (2 x 32 x 8 + 8 + 32)
    assert value["trainable_parameters_method", "", ""] == 2208
    assert value["trainable_parameters_head", "", ""] == 33 * 32 + 33 * 2
    assert value["trainable_parameters", "", ""] == 2208 + 33 * 32 + 33 * 2
    assert 4 * value["trainable_parameters", "", ""] < value["stored_bytes", "", ""] < 5 * 4 * 3330
    assert value["train_steps", "", ""] == 2
    assert value["peak_memory_allocated_bytes", "train", ""] is None
    assert "CPU" in found["peak_memory_allocated_bytes", "train", ""]["reason"]
    assert value["peak_memory_process_bytes", "train", ""] > 0
    assert value["latency_s", "inference", "p50"] <= value["latency_s", "inference", "p95"]
    (run,) = view["runs"]
    assert run["resolved"]["model_revision"] == view["spec"]["model"]["fingerprint"]
    environment = run["environment"]
    assert environment["torch_threads"] == 1
    assert environment["torch"] and environment["transformers"] and environment["peft"] and environment["device_name"]
    assert len(view["curves"]["train_loss"]) == 2
    for artifact in view["artifacts"]:
        assert Path(artifact["uri"]).stat().st_size == artifact["bytes"]


def test_each_languages_file_reaches_its_own_row(
    adapeff: Adapeff, sweep: Path, data_root: Path, tmp_path: Path
) -> None:
    """Planted: every language's test file holds one label only, so its majority is 1 and its score the share the model
    gives that label; the shares of three languages with the same texts add up to 1."""
    train = [{"premise": f"good film {i % 7}", "hypothesis": "the film", "label": i % 3} for i in range(60)]
    write_rows(data_root / "nli/xnli/en/train.jsonl", train)
    write_rows(data_root / "nli/xnli/en/validation.jsonl", train[:12])
    for label, language in enumerate(("en", "de", "sw")):
        rows = [{"premise": f"film {chr(97 + i)}", "hypothesis": "bad", "label": label} for i in range(20 + label)]
        write_rows(data_root / f"nli/xnli/{language}/test.jsonl", rows[:20] if label else rows)

    done = adapeff("run", sweep, "--tasks", "xnli", "--methods", "head", "--json")
    assert done.returncode == 0, done.stderr

    measured = [m for m in show(adapeff, 1)["measurements"] if m.get("split") == "test" and m.get("language")]
    by = {(m["name"], m["language"]): m["value"] for m in measured}
    assert {language for _, language in by} == {"en", "de", "sw"}
    assert [by["majority_accuracy", language] for language in ("en", "de", "sw")] == [1, 1, 1]
    assert sum(by["accuracy", language] for language in ("en", "de", "sw")) == pytest.approx(1)


def test_submit_and_worker_in_two_terminals(adapeff: Adapeff, start: Start, sweep: Path) -> None:
    worker = start("worker", "--devices", "cpu:0")
    submitted = adapeff("submit", sweep, "--wait")

    assert submitted.returncode == 0, submitted.stderr
    assert "2 jobs (2 new)" in submitted.stdout
    worker.send(signal.SIGINT)
    assert worker.wait() == 0
    assert status(adapeff)["counts"] == {"succeeded": 2}


def test_failed_job_gives_exit_code_4_its_cause_and_can_be_retried(adapeff: Adapeff, sweep: Path) -> None:
    """A rate that makes the loss infinite: an error of the run, not of the specification."""
    done = adapeff("run", sweep, "-s", "learning_rate=1e30", "-s", "max_grad_norm=1e30", "-s", "epochs=20")

    assert done.returncode == 4
    assert "did not succeed" in done.stderr
    assert "try a lower learning rate than 1e+30" in done.stderr
    assert status(adapeff)["counts"] == {"failed": 2}
    assert "the training loss became" in adapeff("logs", 1).stdout

    retried = adapeff("retry", "--failed")
    assert retried.stdout == "job 1 queued\njob 2 queued\n"


@pytest.mark.slow
def test_killed_worker_and_killed_runner_leave_one_result_and_their_cause(
    adapeff: Adapeff, start: Start, sweep: Path, redis_url: str, postgres_url: str
) -> None:
    """Redis and PostgreSQL, two workers; in mid-job one worker is killed, then the other's runner."""
    served = {"ADAPEFF_DATABASE_URL": postgres_url, "ADAPEFF_BROKER_URL": redis_url}
    quick = {"ADAPEFF_LEASE_SECONDS": "3", "ADAPEFF_HEARTBEAT_SECONDS": "0.5", "ADAPEFF_RECONCILE_SECONDS": "0.5"}

    def ask(*arguments: object) -> Any:
        return adapeff(*arguments, **served)

    def job() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(ask("show", 1, "--json").stdout)
        return found

    first = start("worker", "--devices", "cpu:0", **served, **quick)
    settings = ["-s", "epochs=1500", "-s", "evaluate_every_epochs=1500"]
    assert ask("submit", sweep, "--methods", "full", *settings).returncode == 0
    eventually(lambda: job()["runs"] and json.loads(ask("status", "--json").stdout)["jobs"][0]["progress"], "progress")

    first.send(signal.SIGKILL)
    second = start("worker", "--devices", "cpu:1", **served, **quick)
    folder = eventually(lambda: job()["runs"][1:] and job()["runs"][1]["folder"], "the second run")
    eventually(
        lambda: Path(folder, "events.jsonl").exists() and "progress" in Path(folder, "events.jsonl").read_text(), "p"
    )
    runner = processes_of(folder)
    assert not processes_of(job()["runs"][0]["folder"])
    for pid in runner:
        _kill(pid)
    eventually(lambda: job()["state"] == "succeeded", "success", seconds=120)

    runs = job()["runs"]
    assert [run["outcome"] for run in runs] == ["lost", "killed", "succeeded"]
    assert "no heartbeat from worker" in runs[0]["message"]
    assert "SIGKILL" in runs[1]["message"]
    assert job()["failures"] == 2
    exported = json.loads(ask("export", "--all", "--format", "json").stdout)
    assert {row["run_id"] for row in exported} == {3}
    second.send(signal.SIGINT)
    assert second.wait() == 0


def _kill(pid: int) -> None:
    import os

    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.slow
def test_losses_are_the_same_through_redis_and_postgres_as_embedded(
    adapeff: Adapeff, start: Start, sweep: Path, redis_url: str, postgres_url: str
) -> None:
    served = {"ADAPEFF_DATABASE_URL": postgres_url, "ADAPEFF_BROKER_URL": redis_url}
    workers = [start("worker", "--devices", f"cpu:{index}", **served) for index in range(2)]
    assert adapeff("submit", sweep, "--seeds", "0,1", "--wait", **served).returncode == 0
    for worker in workers:
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert adapeff("run", sweep, "--seeds", "0,1").returncode == 0

    for job_id in range(1, 5):
        embedded = show(adapeff, job_id)
        there = json.loads(adapeff("show", job_id, "--json", **served).stdout)
        assert there["job_hash"] == embedded["job_hash"]
        assert there["curves"]["train_loss"] == embedded["curves"]["train_loss"]
        assert len(there["runs"]) == 1


@pytest.mark.slow
def test_everything_flushed_from_the_broker_still_completes(
    adapeff: Adapeff, start: Start, sweep: Path, redis_url: str, redis_server: RedisServer
) -> None:
    served = {"ADAPEFF_BROKER_URL": redis_url, "ADAPEFF_RECONCILE_SECONDS": "0.5"}
    assert adapeff("submit", sweep, **served).returncode == 0

    redis_server.flush()
    start("worker", "--devices", "cpu:0", **served)

    eventually(lambda: status(adapeff)["counts"] == {"succeeded": 2}, "all jobs succeeding", seconds=120)


@pytest.mark.slow
def test_stopping_worker_hands_back_at_once_and_burns_nothing(
    adapeff: Adapeff, start: Start, sweep: Path, tmp_path: Path
) -> None:
    worker = start("worker", "--devices", "cpu:0")
    adapeff("submit", sweep, "--methods", "full", "-s", "epochs=100000")
    eventually(lambda: (status(adapeff)["jobs"] or [{}])[0].get("progress"), "progress")

    worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0

    (job,) = status(adapeff)["jobs"]
    assert (job["state"], job["failures"]) == ("queued", 0)
    assert show(adapeff, 1)["runs"][0]["outcome"] == "released"
    assert not processes_of(tmp_path / "state")


@pytest.mark.slow
def test_cancel_ends_a_running_job_within_seconds(adapeff: Adapeff, start: Start, sweep: Path, tmp_path: Path) -> None:
    start("worker", "--devices", "cpu:0")
    adapeff("submit", sweep, "--methods", "full", "-s", "epochs=100000")
    eventually(lambda: (status(adapeff)["jobs"] or [{}])[0].get("progress"), "progress")

    assert adapeff("cancel", 1).stdout == "job 1 cancelling\n"

    eventually(lambda: status(adapeff)["counts"] == {"cancelled": 1}, "the cancellation", seconds=15)
    assert not processes_of(tmp_path / "state")


@pytest.mark.slow
def test_interrupted_run_goes_on_where_it_was(adapeff: Adapeff, start: Start, sweep: Path) -> None:
    running = start("run", str(sweep), "-s", "epochs=200")
    eventually(lambda: "running" in running.said(), "a running job")

    running.send(signal.SIGINT)

    assert running.wait(30) == 130
    assert "interrupted" in running.said()
    assert set(status(adapeff)["counts"]) <= {"queued", "succeeded"}
    assert adapeff("run", sweep, "-s", "epochs=200").returncode == 0


@pytest.mark.slow
def test_killed_run_leaves_no_worker_and_loses_nothing(adapeff: Adapeff, start: Start, sweep: Path) -> None:
    running = start("run", str(sweep), "--methods", "full", "-s", "epochs=100000")
    eventually(lambda: (status(adapeff)["jobs"] or [{}])[0].get("progress"), "progress")
    ours = psutil.Process(running.process.pid).children(recursive=True)
    assert len(ours) >= 3  # the worker, its guard, the runner

    running.send(signal.SIGKILL)

    eventually(lambda: status(adapeff)["counts"] == {"queued": 1}, "the job being handed back", seconds=20)
    eventually(lambda: not any(process.is_running() for process in ours), "every process having ended", seconds=20)


def test_report_and_export_agree(adapeff: Adapeff, sweep: Path, tmp_path: Path) -> None:
    assert adapeff("run", sweep).returncode == 0

    table = adapeff("report", "small", "--format", "csv")
    exported = adapeff("export", "small", "--format", "csv")
    assert adapeff("export", "small", "--format", "parquet", "-o", tmp_path / "x.parquet").returncode == 0

    report_rows = list(csv.DictReader(io.StringIO(table.stdout)))
    rows = list(csv.DictReader(io.StringIO(exported.stdout)))
    for report_row in report_rows:
        if report_row["figure"] == "train_compute_s":
            (measured,) = [r for r in rows if r["name"] == "train_compute_s" and r["method"] == report_row["method"]]
            assert float(report_row["mean"]) == float(measured["value"])
    from pyarrow import parquet

    assert parquet.read_table(tmp_path / "x.parquet").num_rows == len(rows)


def test_runner_works_alone(sweep: Path, tmp_path: Path, adapeff: Adapeff, data_root: Path) -> None:
    """No database, no broker: a job file in, events and artifacts out."""
    from adapeff.service.specs.expansion import expand
    from adapeff.service.specs.sweep_file import load_sweep

    spec = expand(load_sweep(sweep, ["methods=head"]), data_root=data_root)[0]
    (tmp_path / "job.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "adapeff.worker.runner", "job.json", "--out", "out", "--data-root", str(data_root)]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    assert events[-1] == {"event": "end", "outcome": "succeeded", "message": ""}
    assert [e["stage"] for e in events if e["event"] == "stage"] == ["prepare", "train", "evaluate", "profile"]
    assert not (tmp_path / "state").exists()


def test_data_changed_after_submit_are_left_for_a_host_that_has_the_others(
    adapeff: Adapeff, sweep: Path, data_root: Path, start: Callable[..., Process]
) -> None:
    assert adapeff("submit", sweep, "--methods", "head").returncode == 0
    file = data_root / "sentiment/sst2/default/train.jsonl"
    kept = file.read_text()
    file.write_text(kept + '{"idx": 99, "sentence": "new", "label": 1}\n')
    start("worker", "--devices", "cpu:0")

    cause = eventually(lambda: show(adapeff, 1)["cause"], "the job being handed back")

    assert "cannot run it" in cause
    assert "differ from those the job was submitted with" in cause
    assert show(adapeff, 1)["failures"] == 0
    file.write_text(kept)
    again = adapeff("run", sweep, "--methods", "head", "--devices", "cpu:1" if len(CORES) > 1 else "cpu:0")
    assert again.returncode == 0, again.stderr
    assert show(adapeff, 1)["state"] == "succeeded"


def test_run_takes_its_own_jobs_alone(adapeff: Adapeff, sweep: Path) -> None:
    assert adapeff("submit", sweep, "--methods", "lora").returncode == 0

    done = adapeff("run", sweep, "--methods", "head")

    assert done.returncode == 0, done.stderr
    assert show(adapeff, 1)["state"] == "queued"
    assert show(adapeff, 2)["state"] == "succeeded"


def test_run_of_what_is_not_here_ends_and_says_so(adapeff: Adapeff, sweep: Path, data_root: Path) -> None:
    assert adapeff("submit", sweep).returncode == 0
    (data_root / "sentiment/sst2/default/test.jsonl").unlink()
    from adapeff.service.settings import load_settings
    from adapeff.service.store.database import open_database

    database = open_database(load_settings().values)
    command = [sys.executable, "-m", "adapeff.worker", "sweep", "1", "--devices", "cpu:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    database.close()

    assert done.returncode == 1
    assert "2 jobs cannot run on this host and stay queued; job 1" in done.stderr

"""`adapeff profile` from the command line to the report, and what it says to wrong input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers

from tests.e2e.conftest import Adapeff

QUICK = [
    *("-s", "blocks=5", "-s", "turn_seconds=0.001", "-s", "latency_batches=[1]"),
    *("-s", "latency_lengths=[16]", "-s", "latency_seconds=0.01"),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "config-only"
    transformers.BertConfig(
        num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128, vocab_size=100
    ).save_pretrained(folder)
    return folder


def test_profile_is_measured_once_and_shown_again(adapeff: Adapeff, model: Path) -> None:
    command = ["profile", "--model", model, "--method", "head,lora", "--batch", "2", "--length", "16", *QUICK]
    first = adapeff(*command, "--json")
    assert first.returncode == 0, first.stderr

    found = {(row["kind"], row["method"], row["figure"]): row for row in json.loads(first.stdout)}
    ratio = found["training", "lora", "step ratio"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    flops = [found["training", "head", f"FLOPs{part}"]["value"] for part in ("", " forward", " backward")]
    assert flops[0] == flops[1] + flops[2]
    assert found["training", "head", "trained: method"]["value"] == 0
    parts = [found["training", "full", part] for part in ("forward", "backward", "optimizer")]
    assert {part["unit"] for part in parts} == {"s"}
    share = sum(part["value"] for part in parts) / found["training", "full", "step"]["value"]
    assert 0.1 < share < 10  # medians of few samples on a busy machine need not add up
    assert found["training", "full", "optimizer state"]["unit"] == "B"
    assert found["training", "full", "peak process"]["value"] > 0
    assert found["training", "full", "peak allocated"]["reason"]
    assert found["latency", "lora (merged)", "1x16 ratio"]["value"] > 0
    assert ("training", "full", "step ratio") not in found

    again = adapeff(*command, "--json")
    assert "already submitted" in again.stderr
    assert again.stdout == first.stdout
    report = adapeff("report", "profile")
    assert report.returncode == 0, report.stderr
    assert "random weights" in report.stdout
    assert "lora (merged)" in report.stdout
    assert adapeff("show", "1").returncode == 0
    assert (
        "training step, ratios to full (paired)"
        in adapeff("report", "--all", "--view", "full", "--format", "markdown").stdout
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_profile_times_compiling_apart(adapeff: Adapeff, model: Path) -> None:
    done = adapeff("profile", "--model", model, "--method", "lora", "--length", "16", *QUICK, "-s", "compile=true")
    assert done.returncode == 0, done.stderr
    assert "compiled" in done.stdout

    found = json.loads(adapeff("show", "1", "--json").stdout)["measurements"]
    compiled = [m for m in found if m["name"] == "compile_s"]
    assert len(compiled) == 2 + 3  # training steps of both, forward passes of both and of the merged weights
    compiling = next(m["value"] for m in found if m["name"] == "phase_s" and m.get("phase") == "compile")
    assert 0 < sum(m["value"] for m in compiled) <= compiling
    assert {m["phase"] for m in compiled} == {"train", "inference"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "nonsense"], "nonsense"),
        (["--method", ""], "--method is empty"),
        (["--method", "lora", "-s", "block=3"], "blocks"),
        (["--method", "lora", "-s", "blocks=x"], "blocks"),
        (["--method", "lora", "--batch", "0"], "batch"),
        (["--method", "adapterfusion[sources=[1,2]]"], "builds on trained sources"),
        (["--method", "lora", "--reference", "none"], "none"),
    ],
)
def test_wrong_input_is_one_line_and_queues_nothing(
    adapeff: Adapeff, model: Path, arguments: list[str], said: str
) -> None:
    done = adapeff("profile", "--model", model, *arguments)

    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert json.loads(adapeff("status", "--json").stdout)["jobs"] == []


def test_length_beyond_the_model_fails_the_job_in_words(adapeff: Adapeff, model: Path) -> None:
    done = adapeff("profile", "--model", model, "--method", "lora", "--length", "600", *QUICK)

    assert done.returncode == 4
    assert "takes 512 tokens" in done.stderr


@pytest.mark.slow
def test_run_profiles_the_methods_of_a_sweep_once_and_reports_paired_ratios(adapeff: Adapeff, sweep: Path) -> None:
    command = ("run", str(sweep), "--methods", "full,head", "-s", "profile={blocks: 5, latency_seconds: 0.1}")

    done = adapeff(*command)
    again = adapeff(*command)
    shown = json.loads(adapeff("report", "--view", "summary", "--format", "json").stdout)

    assert "and 1 profile" in done.stderr and "jobs and 1 profile" in again.stderr and "new" not in again.stderr
    (table,) = shown
    (head,) = [row for row in table["rows"] if row["method"] == "head"]
    assert head["train_time"]["unit"] == "x" and head["train_time"]["low"] <= head["train_time"]["value"]
    assert head["latency"]["unit"] == "x"


@pytest.mark.slow
def test_a_failed_profile_fails_the_sweep_and_its_report_is_printed_all_the_same(adapeff: Adapeff, sweep: Path) -> None:
    done = adapeff("run", str(sweep), "--methods", "full,head", "-s", "profile={length: 100000}")

    assert done.returncode == 4
    assert "1 of 3 jobs did not succeed; job 3 (profile of full, head): " in done.stderr
    assert "length is 100000" in done.stderr
    assert "sst2" in done.stdout and "head" in done.stdout and "unpaired" in done.stdout

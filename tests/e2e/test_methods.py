"""Methods through the whole path: fusion of finished jobs, inference variants, a plug-in from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import Adapeff, show, status


def measured(view: dict[str, Any], name: str, **where: Any) -> list[dict[str, Any]]:
    """The measurements of a name that hold there."""
    return [
        found
        for found in view["measurements"]
        if found["name"] == name and all(found.get(key) == value for key, value in where.items())
    ]


@pytest.mark.slow
def test_finished_adapters_are_fused_by_job_and_by_folder(adapeff: Adapeff, sweep: Path) -> None:
    pfeiffer = "pfeiffer[reduction_factor=4]"
    assert adapeff("run", sweep, "--methods", pfeiffer, "--set", "keep_weights=true", "--seeds", "0,1").returncode == 0
    folder = show(adapeff, 2)["runs"][0]["folder"]

    done = adapeff("run", sweep, "--methods", f"adapterfusion[sources=[1,{folder}]]")

    assert done.returncode == 0, done.stderr
    view = show(adapeff, 3)
    # 2 layers x (3 x 32^2 + 2 x 32); the sources are frozen
    assert measured(view, "trainable_parameters_method")[0]["value"] == 2 * (3 * 32**2 + 2 * 32)
    assert view["spec"]["sources"][0] == show(adapeff, 1)["job_hash"]
    assert view["spec"]["sources"][1].startswith("folder:")
    assert "runs/" in view["spec"]["method"]["parameters"]["sources"][1]
    losses = [value for _, value in view["curves"]["train_loss"]]
    assert len(losses) == 2


def test_fusion_waits_for_its_source_and_falls_with_it(adapeff: Adapeff, sweep: Path) -> None:
    assert adapeff("submit", sweep, "--methods", "pfeiffer", "--set", "keep_weights=true").returncode == 0
    assert adapeff("submit", sweep, "--methods", "adapterfusion[sources=[1]]").returncode == 0
    assert [job["state"] for job in status(adapeff)["jobs"]] == ["queued", "queued"]

    assert adapeff("cancel", "1").returncode == 0

    cancelled, fallen = sorted(status(adapeff)["jobs"], key=lambda job: job["id"])
    assert (cancelled["state"], fallen["state"]) == ("cancelled", "failed")
    assert fallen["cause"] == "its source, job 1, was cancelled"
    refused = adapeff("retry", "2")
    assert refused.returncode == 1 and "needs the weights of job 1" in refused.stderr


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("[7]", "source job 7 does not exist; submit it first"),
        ("[1]", "source job 1 keeps no weights; submit it with keep_weights: true"),
        ("[./nowhere]", "source './nowhere' is neither a job"),
        (f"[{ROOT / 'tests'}]", "contains no weights"),
        ("[2]", "source job 2 trained lora: adapterfusion only mixes bottleneck adapters"),
        ("[]", "at least one"),
    ],
)
def test_source_that_is_none_is_named(adapeff: Adapeff, sweep: Path, sources: str, message: str) -> None:
    assert adapeff("submit", sweep, "--methods", "pfeiffer,lora").returncode == 0

    refused = adapeff("submit", sweep, "--methods", f"adapterfusion[sources={sources}]")

    assert refused.returncode == 1
    assert message in " ".join(refused.stderr.split())
    assert len(status(adapeff)["jobs"]) == 2


@pytest.mark.slow
def test_each_way_of_serving_is_measured(adapeff: Adapeff, sweep: Path) -> None:
    methods = "lora,prefix_tuning[length=3],adapterdrop[adapter=houlsby[reduction_factor=4]]"

    done = adapeff("run", sweep, "--methods", methods, "--set", "variants=true", "--json")

    assert done.returncode == 0, done.stderr
    figures = {(row["method"], row["figure"]): row for row in json.loads(done.stdout) if row["language"] == ""}
    assert figures["lora (merged)", "latency_b1"]["mean"] > 0
    assert figures["lora (merged)", "stored_bytes"]["mean"] is None
    assert figures["lora", "stored_bytes"]["mean"] > 0
    for job, variant in ((1, {"merged": True}), (2, {"ejected": True}), (3, {"dropped_layers": 1})):
        view = show(adapeff, job)
        text = json.dumps(variant, separators=(",", ":"))
        assert measured(view, "latency_s", variant=text, statistic="p50")[0]["value"] > 0
        assert 0 <= measured(view, "accuracy", variant=text, split="test")[0]["value"] <= 1
        if job != 3:  # the same function, written otherwise
            assert measured(view, "agreement", variant=text)[0]["value"] == 1
            assert measured(view, "score_difference_max", variant=text)[0]["value"] < 1e-5


def test_listing_counts_for_a_model_without_its_weights(adapeff: Adapeff, tmp_path: Path) -> None:
    large = {"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", "vocab_size": 250002}
    large |= {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    large |= {"max_position_embeddings": 514, "type_vocab_size": 1}
    (tmp_path / "config.json").write_text(json.dumps(large))

    done = adapeff("methods", "ls", "--model", str(tmp_path), "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    counts = {row["name"]: row["trainable_parameters"] for row in found["methods"]}
    assert found["model"]["parameters"] == 558_840_832  # with its pooler 559,890,432
    assert counts["full"] == 558_840_832
    assert counts["houlsby"] == 6_343_680
    assert counts["unipelt"] == 29_806_688
    reasons = {row["name"]: row["reason"] for row in found["methods"] if row["trainable_parameters"] is None}
    assert reasons["peft:xlora"].startswith("peft:xlora does not run on encoders")
    assert all(reason and "\n" not in reason for reason in reasons.values())


@pytest.mark.slow
def test_plugin_package_from_outside_is_listed_and_runs(adapeff: Adapeff, sweep: Path, tmp_path: Path) -> None:
    """The example of the docs, installed as a stranger installs it."""
    example = tmp_path / "source"  # a copy: building leaves files behind
    shutil.copytree(ROOT / "docs" / "examples" / "adapeff-scaled-output", example)
    built = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", built, example], check=True)

    listed = adapeff("methods", "ls", "--json", PYTHONPATH=str(built))
    ran = adapeff("run", sweep, "--methods", "scaled_output,full", "--json", PYTHONPATH=str(built))

    assert "scaled_output" in [row["name"] for row in json.loads(listed.stdout)]
    assert ran.returncode == 0, ran.stderr
    (trained,) = [
        row
        for row in json.loads(ran.stdout)
        if row["method"] == "scaled_output" and row["figure"] == "parameters_method"
    ]
    assert trained["mean"] == 2 * 2 * 32
    assert "scaled_output" not in adapeff("methods", "ls").stdout

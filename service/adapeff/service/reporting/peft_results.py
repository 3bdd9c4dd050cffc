"""A finished run in the layout of the results of PEFT's method comparison, for readers of those files.

The layout is that of https://github.com/huggingface/peft/tree/main/method_comparison: times in seconds, memory and
files in bytes. What adapeff does not measure or does not know is None; what the layout has no place for is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from adapeff.service.measurements import (
    PEAK_MEMORY_RESERVED,
    STORED_BYTES,
    TOTAL_PARAMETERS,
    TRAIN_COMPUTE_S,
    TRAIN_SAMPLES,
    TRAIN_STEPS,
    TRAIN_TOKENS,
    TRAINABLE_PARAMETERS,
    WALL_S,
)
from adapeff.service.plugins.plugin_reference import PluginReference
from adapeff.service.reporting.finished_runs import FinishedRun, Points, slug
from adapeff.service.reporting.method_facts import hyper_parameters
from adapeff.service.specs.job import JobSpec, Training

_PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
_OF_AN_INTERVAL = ("eval time", "tokens / sec", "mem allocated avg", "mem reserved avg", "elapsed time")
"""Figures of the layout that adapeff does not measure at each validation."""


def experiment_name(run: FinishedRun) -> str:
    """The method, and what tells the run from all others, as parts of a path without other special characters."""
    spec = _job(run)
    parameters = str(spec.method).removeprefix(spec.method.name)
    about = [run.short_model, run.task_name, *([parameters] if parameters else [])]
    return f"{slug(spec.method.name)}/{'-'.join(map(slug, about))}-seed{spec.seed}-run{run.run_id}"


def peft_result(run: FinishedRun) -> dict[str, Any]:
    """The run as one result; its last `metrics` are those on the test split, as shares between 0 and 1."""
    return {"run_info": _run_info(run), "train_info": _train_info(run), "meta_info": _meta_info(run)}


def _job(run: FinishedRun) -> JobSpec:
    if not isinstance(run.spec, JobSpec):
        raise TypeError(f"run {run.run_id} is not one of training")
    return run.spec


def _run_info(run: FinishedRun) -> dict[str, Any]:
    return {
        "created_at": run.started_at.isoformat(timespec="seconds"),
        "total_time": run.value(WALL_S.name),
        "experiment_name": experiment_name(run),
        "peft_branch": None,
        "train_config": _train_config(run, _job(run).training),
        "peft_config": _peft_config(run, _job(run).method),
        "error_msg": "",
    }


def _train_config(run: FinishedRun, training: Training) -> dict[str, Any]:
    precision = run.environment.get("precision")
    return {
        "model_id": run.model_name,
        "dtype": "float32",  # weights; bf16 is autocast
        "max_seq_length": training.max_length,
        "batch_size": training.batch_size if training.batch_tokens is None else None,
        "batch_size_eval": None,
        "max_steps": run.count(TRAIN_STEPS.name),
        "eval_steps": training.evaluate_every_steps,
        "compile": False,
        "use_gc": False,
        "query_template": None,
        "seed": _job(run).seed,
        "grad_norm_clip": training.max_grad_norm,
        "optimizer_type": "AdamW",
        "optimizer_kwargs": {"lr": run.learning_rate, "weight_decay": training.weight_decay},
        "lr_scheduler": "linear",
        "use_amp": None if precision is None else precision == "bf16",
        "autocast_adapter_dtype": None,
        "generation_kwargs": None,
        "attn_implementation": None,
        "init_kv_cache_prefix": None,
    }


def _peft_config(run: FinishedRun, method: PluginReference) -> dict[str, Any] | None:
    """The method's hyper-parameters by adapeff's names; None for full fine-tuning, as readers of the layout expect."""
    if method.name == "full":
        return None
    kind = method.name.removeprefix("peft:").upper()
    return {"peft_type": kind, "base_model_name_or_path": run.model_name, **hyper_parameters(method)}


def _train_info(run: FinishedRun) -> dict[str, Any]:
    return {
        "accelerator_memory_reserved_avg": None,
        "accelerator_memory_max": run.count(PEAK_MEMORY_RESERVED.name, phase="train"),
        "accelerator_memory_reserved_99th": None,
        "train_time": run.value(TRAIN_COMPUTE_S.name),
        "file_size": run.count(STORED_BYTES.name),
        "num_trainable_params": run.count(TRAINABLE_PARAMETERS.name),
        "num_total_params": run.count(TOTAL_PARAMETERS.name),
        "status": "success",
        "metrics": [*_validations(run), _test(run)],
    }


def _validations(run: FinishedRun) -> Iterator[dict[str, Any]]:
    """The figures at each validation; those of training are of the steps since the one before."""
    metric = run.resolved.get("metric")
    samples = _by_step(run.curves.get("train_samples", ()))
    seconds = _by_step(run.curves.get("train_compute_s", ()))
    before = 0
    for step, score in run.curves.get(f"validation_{metric}", ()):
        now = int(step)
        yield {
            "step": now,
            f"valid {metric}": score,
            "train loss": _mean_loss(run, before, now),
            "train samples": samples.get(now),
            "train time": seconds[now] - seconds.get(before, 0.0) if now in seconds else None,
            **dict.fromkeys(_OF_AN_INTERVAL),
        }
        before = now


def _by_step(points: Points) -> Mapping[int, float]:
    return {int(step): value for step, value in points}


def _mean_loss(run: FinishedRun, after: int, until: int) -> float | None:
    """The mean training loss of the steps after one and until another."""
    losses = [loss for step, loss in run.curves.get("train_loss", ()) if after < step <= until]
    return math.fsum(losses) / len(losses) if losses else None


def _test(run: FinishedRun) -> dict[str, Any]:
    """The scores on the test split: in the source language under the metric's name, in others with the language."""
    source = run.resolved.get("source_language")
    scores = {
        f"test {metric}" if language == source else f"test {metric} ({language})": run.value(
            metric, split="test", language=language
        )
        for metric in run.metrics
        for language in run.test_languages
    }
    steps = run.count(TRAIN_STEPS.name)
    earlier = list(_validations(run))
    return {
        "step": steps,
        "test accuracy": None,
        **scores,
        "train loss": earlier[-1]["train loss"] if earlier else None,
        "train samples": run.count(TRAIN_SAMPLES.name),
        "train total tokens": run.count(TRAIN_TOKENS.name, variant={"tokens": "real"}),
        "forgetting": None,
    }


def _meta_info(run: FinishedRun) -> dict[str, Any]:
    data_sets: Mapping[str, str | None] = run.data_sets or {run.task_name: None}
    versions = {package: run.environment.get(package) for package in _PACKAGES}
    return {
        "model_info": {"sha": run.resolved.get("model_revision"), "created_at": None},
        "dataset_info": {name: {"sha": commit, "created_at": None} for name, commit in data_sets.items()},
        "package_info": {
            **{
                key: value
                for package, version in versions.items()
                for key, value in ((f"{package}-version", version), (f"{package}-commit-hash", None))
            },
            "adapeff-version": run.environment.get("adapeff"),
            "adapeff-commit-hash": run.environment.get("git_revision"),
        },
        "system_info": _system_info(run.environment),
        "pytorch_info": None,
    }


def _system_info(environment: Mapping[str, Any]) -> dict[str, Any]:
    is_cpu = environment.get("device_type") == "cpu"
    device = environment.get("device_name")
    return {
        "system": str(environment["platform"]).partition("-")[0] if environment.get("platform") else None,
        "release": None,
        "version": None,
        "machine": None,
        "processor": device if is_cpu else None,
        "accelerator": device if not is_cpu and "device_type" in environment else None,
        "platform": environment.get("platform"),
    }

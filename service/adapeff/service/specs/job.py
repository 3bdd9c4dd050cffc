"""Job specifications and their identity.

A job is one cell of a sweep, fully resolved: nothing about it depends on the machine that later runs it. Identity
(`train_hash`, `job_hash`) is the SHA-256 of canonical JSON. Fields at their default are omitted, so that a new field
does not change the hashes of existing jobs; therefore **a default never changes** once released (a test checks this).
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, ValidationInfo, field_validator, model_validator

from adapeff.service.errors import suggest
from adapeff.service.lanes import ANY, device_kinds
from adapeff.service.plugins.contracts import DataIdentity, Frozen
from adapeff.service.plugins.plugin_reference import PluginReference, is_task_file, split_list
from adapeff.service.specs.model_reference import ModelReference

Count = Annotated[int, Field(strict=True, gt=0, le=10**9)]
Share = Annotated[float, Field(ge=0, lt=1)]
STORED = {"is_stored": True}
"""Validation context for a specification read from storage."""


def _is_served(device: str, info: ValidationInfo) -> str:
    """Refuse a kind of device without a backend; a stored job stays readable where its backend is not installed."""
    known = (ANY, *device_kinds())
    if device not in known and not (info.context or {}).get("is_stored"):
        raise ValueError(f"unknown device; {suggest(device, known)}")
    return device


Device = Annotated[str, AfterValidator(_is_served)]
"""`any`, or a kind of device for which a backend is installed."""


class LogRange(Frozen):
    """Values between two bounds, drawn uniformly on a logarithmic scale."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; low must be below high")
        return self


class Tuning(Frozen):
    """A search for the learning rate by validation score, with the same number of trials for every method."""

    learning_rate: tuple[PositiveFloat, ...] | LogRange
    """Rates to try, or a range that Optuna proposes from (`pip install 'adapeff[tuning]'`)."""
    trials: Annotated[int, Field(strict=True, gt=0, le=1000)]

    @property
    def words(self) -> str:
        """A short description of the search for reports."""
        rates = self.learning_rate
        tried = (
            ", ".join(f"{rate:g}" for rate in rates) if isinstance(rates, tuple) else f"{rates.low:g} to {rates.high:g}"
        )
        return f"{self.trials} trials of {tried}"

    @model_validator(mode="after")
    def _one_rate_a_trial(self) -> Self:
        rates = self.learning_rate
        if isinstance(rates, tuple) and (len(set(rates)) != len(rates) or len(rates) != self.trials):
            raise ValueError(
                f"trials is {self.trials}, but learning_rate lists {len(set(rates))} different rates; "
                "list one rate for each trial, or give a range {low: 1e-5, high: 1e-2}"
            )
        return self


class AtMost(Frozen):
    """A number of examples, or all of them if there are fewer."""

    at_most: Count

    def __str__(self) -> str:
        return f"at most {self.at_most:,}"


class Training(Frozen):
    """Settings that affect training; all of them are part of `train_hash`."""

    learning_rate: PositiveFloat
    epochs: float = Field(default=3.0, gt=0, le=10**6)
    steps: Count | None = None
    """Optimizer steps; replaces `epochs` if given."""
    batch_size: Count = 32
    max_length: int = Field(default=128, ge=8, le=10**6, strict=True)
    """Tokens an example is truncated to; tasks with long texts raise this default."""
    warmup_ratio: Share = 0.1
    """Share of the steps over which the learning rate rises linearly, before it falls linearly to zero."""
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    head_dropout: Share = 0.1
    evaluate_every_epochs: PositiveFloat = 1.0
    evaluate_every_steps: Count | None = None
    """Steps between validations; replaces `evaluate_every_epochs` if given."""
    train_size: Count | AtMost | None = None
    """Training examples to use, stratified by label, the same for all methods and seeds; None or `all`: all;
    {at_most: 1000}: that many, or all if the task has fewer."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 autocast if the device supports it, else fp32."""
    device: Device = ANY
    cpu_threads: Count = 1
    """Threads torch may use on a CPU; a setting because the order of sums depends on it."""
    batch_tokens: Count | None = None
    """Tokens of a batch, padding included; replaces `batch_size` if given."""
    doc_stride: Count | None = None
    """Tokens that adjacent windows of a long context share (question answering); None: a third of `max_length`, as
    in SQuAD (128 of 384)."""
    max_answer_tokens: Count = 30
    """Tokens of the longest answer considered (question answering)."""
    tuning: Tuning | None = None
    """Train with each learning rate of the search, and keep the best by validation score."""

    @field_validator("train_size", mode="before")
    @classmethod
    def _all_is_a_size(cls, value: Any) -> Any:
        return None if value == "all" else value


class Measuring(Frozen):
    """Settings for the measurements after training; part of `job_hash` only."""

    test_languages: tuple[str, ...] | None = None
    """Languages to test in; by default all whose data are available. A sweep may list them per task:
    {xnli: [en, de]}; a task is tested in those it has."""
    latency_batches: tuple[Count, ...] = (1, 32)
    """Batch sizes of the latency measurement; an empty list skips it."""
    latency_length: int = Field(default=64, ge=8, le=10**6, strict=True)
    """Tokens of each example in the latency measurement."""
    latency_seconds: float = Field(default=2.0, gt=0, le=3600)
    """Time budget of each latency cell; at least 5 samples are taken in any case."""
    latency_lengths: tuple[Count, ...] = ()
    """Several lengths for the latency measurement; replaces `latency_length` if given."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of the examples in each column of the latency grid."""
        return self.latency_lengths or (self.latency_length,)

    variants: bool = False
    """Also test and time the inference variants: merged weights, an ejected prefix, each depth of AdapterDrop."""

    @field_validator("test_languages", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return split_list(value) if isinstance(value, str) else value

    @field_validator("latency_batches", "latency_lengths", mode="before")
    @classmethod
    def _one_size_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("latency_batches", "latency_lengths", "test_languages")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("a value appears twice; list each once")
        return value

    best_state: Literal["memory", "disk"] = "memory"
    """Where the best state by validation is kept during training."""
    keep_weights: bool = False
    """Keep the trained weights (safetensors) as an artifact."""


class Member(Frozen):
    """A task of a mixture, with the settings that are its own."""

    task: PluginReference
    data: DataIdentity
    max_length: int
    test_languages: tuple[str, ...]
    train_size: Count | AtMost | Literal["all"] | None = None
    """Its number of training examples; None: the job's `train_size`."""

    def train_identity(self) -> dict[str, Any]:
        """What affects training, ready for canonical JSON."""
        size = self.train_size.model_dump() if isinstance(self.train_size, AtMost) else self.train_size
        sized = {"train_size": size, "subset": "stratified"} if size is not None else {}
        return {**_task_identity(self.task, self.data), "max_length": self.max_length, **sized}


class JobSpec(Frozen):
    """One cell of a sweep, fully resolved."""

    kind: Literal["train"] = "train"
    model: ModelReference
    task: PluginReference
    data: DataIdentity
    method: PluginReference
    seed: int = Field(ge=0, lt=2**31, strict=True)
    training: Training
    learning_rate_source: str
    measuring: Measuring = Measuring()
    time_limit_minutes: PositiveFloat | None = None
    repeat: int = Field(default=0, ge=0)
    sources: tuple[str, ...] = ()
    """The sources it builds on: hashes of the jobs whose weights it needs, or `folder:` and a folder's fingerprint.
    First those of the method, then `base`."""
    members: tuple[Member, ...] = ()
    """The tasks of a mixture; empty for a single task. Of an extension, the base's tasks come first."""
    base: str = ""
    """Of an extension: the source whose trained model learns a further task; '' for any other job."""
    task_title: str = ""
    """What tables call its task, if not by its name; no part of the identity."""

    def of_member(self, member: Member) -> JobSpec:
        """The job of one task of the mixture alone, with equal settings."""
        size = self.training.train_size if member.train_size is None else member.train_size
        changed = {"max_length": member.max_length, "train_size": None if size == "all" else size}
        training = self.training.model_copy(update=changed)
        measuring = self.measuring.model_copy(update={"test_languages": member.test_languages})
        own = {"task": member.task, "data": member.data, "training": training, "measuring": measuring}
        return self.model_copy(update={**own, "members": (), "task_title": ""})

    def keeping_weights(self) -> JobSpec:
        """The same job, with its weights kept as an artifact."""
        return self.model_copy(update={"measuring": self.measuring.model_copy(update={"keep_weights": True})})

    def train_identity(self) -> dict[str, Any]:
        """Everything that affects training, ready for canonical JSON."""
        return {
            "kind": self.kind,
            "model": self.model.identity,
            **_task_identity(self._placeless_task(), self.data),
            **({"members": [member.train_identity() for member in self.members]} if self.members else {}),
            "method": self.method.name,
            "method_parameters": {
                **self.method.parameters,
                **({"sources": list(self.sources)} if self.sources else {}),
            },
            "seed": self.seed,
            "training": self.training.model_dump(mode="json", exclude_defaults=True),
            **({"subset": "stratified"} if self.training.train_size else {}),
        }

    def _placeless_task(self) -> PluginReference:
        """The task; of a mixture, tasks of files are named by their content and not by their place."""
        names = {
            str(each.task): f"file {each.data.fingerprint}" for each in self.members if is_task_file(each.task.name)
        }

        def named(value: Any) -> Any:
            if isinstance(value, dict):
                return {names.get(task, task): given for task, given in value.items()}
            return [names.get(task, task) for task in value] if isinstance(value, list) else value

        parameters = {key: named(value) for key, value in self.task.parameters.items()}
        return self.task.model_copy(update={"parameters": parameters}) if names else self.task

    @property
    def train_hash(self) -> str:
        """SHA-256 of everything that affects training."""
        return canonical_hash(self.train_identity())

    @property
    def job_hash(self) -> str:
        """SHA-256 of everything that affects training and measuring, and of the repeat."""
        return canonical_hash(
            {
                "train": self.train_hash,
                "measuring": self.measuring.model_dump(mode="json", exclude_defaults=True),
                "test_data": self.data.test_fingerprint,
                **({"member_languages": [each.test_languages for each in self.members]} if self.members else {}),
                "repeat": self.repeat,
            }
        )

    @property
    def label(self) -> str:
        """A short name of the cell for logs and tables."""
        return f"{self.model} {self.task_title or self.task} {self.method} seed {self.seed}"

    @property
    def columns(self) -> dict[str, Any]:
        """Its descriptive columns in the jobs table."""
        return {
            "model": str(self.model),
            "task": self.task_title or str(self.task),
            "method": str(self.method),
            "seed": self.seed,
        }

    @property
    def device(self) -> str:
        """The kind of device it may run on."""
        return self.training.device

    @property
    def cpu_threads(self) -> int:
        """Threads it uses on a CPU."""
        return self.training.cpu_threads


def _task_identity(task: PluginReference, data: DataIdentity) -> dict[str, Any]:
    return {
        "task": "described by a file" if is_task_file(task.name) else task.name,
        "task_parameters": task.parameters,
        "data": data.fingerprint or f"{data.source}@{data.revision or 'main'}",
    }


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_hash(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()

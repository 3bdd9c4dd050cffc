"""Profile jobs: the cost of several methods on one model and shape, interleaved in one process, without a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, PositiveFloat, ValidationError, field_validator, model_validator

from adapeff.service.errors import SpecError, first_problem
from adapeff.service.lanes import ANY
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Frozen
from adapeff.service.plugins.plugin_reference import PluginReference, parse_plugin
from adapeff.service.specs.job import STORED, Count, Device, JobSpec, canonical_hash
from adapeff.service.specs.model_reference import ModelReference, resolve_model

PROFILE = "profile"
"""The sweep name that profiles are stored under."""
SHORTEST = 8
"""The fewest tokens of an example of a training step."""


class ProfileSettings(Frozen):
    """The measurements of a profile and their durations."""

    batch: Count = 8
    """Examples of a training step."""
    length: int = Field(default=64, ge=SHORTEST, le=10**6, strict=True)
    """Tokens of each example of a training step."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Device = ANY
    cpu_threads: Count = 1
    blocks: int = Field(default=20, ge=5, le=10_000, strict=True)
    """Rounds in which each candidate takes one turn, in random order."""
    turn_seconds: float = Field(default=0.2, gt=0, le=3600)
    """Minimum length of a turn, which takes at least one step."""
    latency_batches: tuple[Count, ...] | None = None
    """Batch sizes of the latency grid; None: 1 and 8 on a CPU, 1, 8 and 32 on a GPU; an empty list skips it."""
    latency_lengths: tuple[Count, ...] | None = None
    """Lengths of the latency grid; None: 16 to 128 on a CPU, 16 to 512 on a GPU, as far as the model allows."""
    latency_seconds: float = Field(default=1.0, gt=0, le=3600)
    """Time budget of each candidate in each cell; at least 5 turns are taken in any case."""
    variants: bool = True
    """Also time the inference variants: merged weights, an ejected prefix, each depth of AdapterDrop."""
    compile: bool = False
    """Run the models through torch.compile; compilation is timed separately."""
    throughput: bool = False
    """Double the batch until throughput rises by less than 5 %, at `length`."""
    memory: bool = True
    """Measure the memory of each method in a separate process."""
    largest_batch: bool = False
    """Find the largest batch whose training step fits into `memory_limit`, each try in a separate process."""
    memory_limit: Count | None = Field(default=None, le=2**63)
    """Bytes; None: the GPU's free memory, or four fifths of the host's memory without a GPU."""
    energy_seconds: float = Field(default=10.0, ge=1, le=3600)
    """Length of a turn for the energy measurement."""

    @field_validator("latency_batches", "latency_lengths")
    @classmethod
    def _each_once(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("a value appears twice; list each once")
        return value


class ProfileSpec(Frozen):
    """A profile job: model x shape x methods, without a task, a seed or complete training."""

    kind: Literal["profile"] = "profile"
    model: ModelReference
    methods: tuple[PluginReference, ...] = Field(min_length=1)
    """The candidates, the reference first."""
    settings: ProfileSettings = ProfileSettings()
    time_limit_minutes: PositiveFloat | None = None
    repeat: int = Field(default=0, ge=0)
    sources: tuple[str, ...] = Field(default=(), max_length=0)
    """Always empty: methods that build on trained sources cannot be profiled."""

    @model_validator(mode="after")
    def _methods_once(self) -> ProfileSpec:
        names = [str(method) for method in self.methods]
        if len(set(names)) != len(names):
            raise ValueError("a method appears twice; list each once, the reference included")
        return self

    @property
    def train_hash(self) -> str:
        """SHA-256 of the profiled model and methods; named as in `JobSpec`, although nothing is trained."""
        return canonical_hash(
            {"kind": self.kind, "model": self.model.identity, "methods": [m.model_dump() for m in self.methods]}
        )

    @property
    def job_hash(self) -> str:
        """SHA-256 of the profiled model and methods, the settings, and the repeat."""
        settings = self.settings.model_dump(mode="json", exclude_defaults=True)
        return canonical_hash({"train": self.train_hash, "settings": settings, "repeat": self.repeat})

    @property
    def columns(self) -> dict[str, Any]:
        """Its descriptive columns in the jobs table."""
        methods = ", ".join(str(method) for method in self.methods)
        return {"model": str(self.model), "task": PROFILE, "method": methods, "seed": 0}

    @property
    def device(self) -> str:
        """The kind of device it may run on."""
        return self.settings.device

    @property
    def cpu_threads(self) -> int:
        """Threads it uses on a CPU."""
        return self.settings.cpu_threads

    @property
    def label(self) -> str:
        """A short name of the job for logs and tables."""
        return f"profile of {len(self.methods)} methods on {self.model}"


AnySpec = JobSpec | ProfileSpec


def read_spec(stored: Mapping[str, Any]) -> AnySpec:
    """Read a job's specification from its stored form.

    Raises:
        ValidationError: if it is malformed or from a later version.
    """
    return (ProfileSpec if stored.get("kind") == "profile" else JobSpec).model_validate(stored, context=STORED)


class ProfileRequest(Frozen):
    """The request for a profile, stored in place of a sweep."""

    name: str = PROFILE
    priority: int = 5
    spec: ProfileSpec


def plan_profile(
    model: str, methods: Sequence[str], *, reference: str = "full", settings: dict[str, Any] | None = None
) -> ProfileRequest:
    """Validate a request for a profile.

    Args:
        methods: written as in a sweep; the reference is added if missing.

    Raises:
        SpecError: for an unknown name, parameter or setting.
        ModelError: if a local model has no configuration.
    """
    references = [_canonical_method(text) for text in (reference, *methods)]
    distinct = list({str(method): method for method in references}.values())
    try:
        spec = ProfileSpec(
            model=resolve_model(model, needs_weights=False),
            methods=tuple(distinct),
            settings=ProfileSettings.model_validate(settings or {}),
        )
    except ValidationError as error:
        raise SpecError(f"profile: {first_problem(error)}") from error
    return ProfileRequest(spec=spec)


def _canonical_method(text: str) -> PluginReference:
    written = parse_plugin(text)
    method = catalog.get_method(written.name, written.parameters)
    if method.source_names():
        raise SpecError(f"method '{text}' builds on trained sources, which a profile does not train; remove it")
    return PluginReference(name=written.name, parameters=method.model_dump(mode="json", exclude_defaults=True))

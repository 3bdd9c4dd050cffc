"""Profile jobs: what several methods cost on one model and shape, measured in turns in one process, without a task."""

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
"""The name under which profiles are found among the sweeps."""


class ProfileSettings(Frozen):
    """What a profile measures, and how long it takes over it."""

    batch: Count = 8
    """Examples of a training step."""
    length: int = Field(default=64, ge=8, le=10**6, strict=True)
    """Tokens of each example of a training step."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Device = ANY
    cpu_threads: Count = 1
    blocks: int = Field(default=20, ge=5, le=10_000, strict=True)
    """Rounds in which each candidate has one turn, in an order drawn anew."""
    turn_seconds: float = Field(default=0.2, gt=0, le=3600)
    """Least time of a turn; as many steps are taken as it holds, at least one."""
    latency_batches: tuple[Count, ...] | None = None
    """Batch sizes of the latency grid; None: 1 and 8 on a CPU, 1, 8 and 32 on a GPU; none leaves it out."""
    latency_lengths: tuple[Count, ...] | None = None
    """Lengths of the latency grid; None: 16 to 128 on a CPU, 16 to 512 on a GPU, those the model takes."""
    latency_seconds: float = Field(default=1.0, gt=0, le=3600)
    """Time budget of each candidate in each cell; at least 5 turns are taken whatever it is."""
    variants: bool = True
    """Time each other way of serving too: merged weights, an ejected prefix, each depth of AdapterDrop."""
    compile: bool = False
    """Run the models through torch.compile; compiling is timed apart."""
    throughput: bool = False
    """Double the batch until throughput rises by less than 5 %, at `length`."""
    memory: bool = True
    """Measure each method's memory, in a process of its own."""
    largest_batch: bool = False
    """Search the largest batch whose training step fits into `memory_limit`, in processes of their own."""
    memory_limit: Count | None = Field(default=None, le=2**63)
    """Bytes; None: what the GPU has free, or four fifths of what the host has where there is none."""
    energy_seconds: float = Field(default=10.0, ge=1, le=3600)
    """Length of a turn when energy is measured."""

    @field_validator("latency_batches", "latency_lengths")
    @classmethod
    def _each_once(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("the same value stands twice; name each once")
        return value


class ProfileSpec(Frozen):
    """A profile job: model x shape x methods; no task, no seed, no training to the end."""

    kind: Literal["profile"] = "profile"
    model: ModelReference
    methods: tuple[PluginReference, ...] = Field(min_length=1)
    """The candidates, the reference first."""
    settings: ProfileSettings = ProfileSettings()
    time_limit_minutes: PositiveFloat | None = None
    repeat: int = Field(default=0, ge=0)
    sources: tuple[str, ...] = Field(default=(), max_length=0)
    """None: methods that build on others cannot be profiled."""

    @model_validator(mode="after")
    def _methods_once(self) -> ProfileSpec:
        names = [str(method) for method in self.methods]
        if len(set(names)) != len(names):
            raise ValueError("a method stands twice; name each once, the reference apart")
        return self

    @property
    def train_hash(self) -> str:
        """SHA-256 of what is profiled; nothing is trained."""
        return canonical_hash(
            {"kind": self.kind, "model": self.model.identity, "methods": [m.model_dump() for m in self.methods]}
        )

    @property
    def job_hash(self) -> str:
        """SHA-256 of what is profiled, how, and the repeat."""
        settings = self.settings.model_dump(mode="json", exclude_defaults=True)
        return canonical_hash({"train": self.train_hash, "settings": settings, "repeat": self.repeat})

    @property
    def columns(self) -> dict[str, Any]:
        """What its row in the table of jobs says of it."""
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
        """The job in a few words, for logs and tables."""
        return f"profile of {len(self.methods)} methods on {self.model}"


AnySpec = JobSpec | ProfileSpec


def read_spec(stored: Mapping[str, Any]) -> AnySpec:
    """A job's specification from the form it is stored in.

    Raises:
        ValidationError: if a later adapeff wrote it.
    """
    return (ProfileSpec if stored.get("kind") == "profile" else JobSpec).model_validate(stored, context=STORED)


class ProfileRequest(Frozen):
    """What is stored as the sweep a profile was asked for with."""

    name: str = PROFILE
    priority: int = 5
    spec: ProfileSpec


def plan_profile(
    model: str, methods: Sequence[str], *, reference: str = "full", settings: dict[str, Any] | None = None
) -> ProfileRequest:
    """The request for a profile as a user writes it.

    Args:
        methods: as a sweep writes them; the reference is added where it is not among them.

    Raises:
        SpecError: for a name, parameter or setting nobody knows.
        ModelError: if a local model has no configuration.
    """
    named = [_canonical_method(text) for text in (reference, *methods)]
    distinct = list({str(method): method for method in named}.values())
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
        raise SpecError(f"method '{text}' builds on trained sources, which a profile does not train; leave it out")
    return PluginReference(name=written.name, parameters=method.model_dump(mode="json", exclude_defaults=True))

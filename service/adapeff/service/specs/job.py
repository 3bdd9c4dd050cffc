"""Sweeps and jobs as a user writes them, and the identity of a job.

A sweep is a YAML file: a grid over models x tasks x methods x seeds, and over every setting given as a list. It expands
to `JobSpec`s, each fully resolved: nothing about a job depends on the machine that later runs it.

Identity (`train_hash`, `job_hash`) is the SHA-256 of canonical JSON. Fields at their default are left out, so
that a new field renames no old job; therefore **a default never changes** once released (a test holds the hashes).
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, PositiveFloat, ValidationError, field_validator, model_validator

from adapeff.service.errors import SpecError, UnknownNameError, suggest
from adapeff.service.paths import expanded
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import DataIdentity, Frozen, Task
from adapeff.service.plugins.references import (
    ModelReference,
    PluginReference,
    is_task_file,
    load_yaml,
    parse_plugin,
    resolve_model,
)
from adapeff.service.specs.fingerprints import files_fingerprint

Count = Annotated[int, Field(strict=True, gt=0, le=10**9)]
Share = Annotated[float, Field(ge=0, lt=1)]
Device = Literal["any", "cpu", "cuda"]
SWEEPS = Path(__file__).parent / "sweeps"


class LogRange(Frozen):
    """Values between two bounds, drawn evenly on a logarithmic scale."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; low must be below high")
        return self


class Tuning(Frozen):
    """A search for the learning rate by validation score, with as many trials for every method of a comparison."""

    learning_rate: tuple[PositiveFloat, ...] | LogRange
    """Rates to try, or a range that Optuna proposes from (`pip install 'adapeff[tuning]'`)."""
    trials: Annotated[int, Field(strict=True, gt=0, le=1000)]

    @property
    def words(self) -> str:
        """The search as a reader of a report wants it."""
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
    """That many, or all where there are fewer."""

    at_most: Count

    def __str__(self) -> str:
        return f"at most {self.at_most:,}"


class Training(Frozen):
    """Everything that shapes training; all of it enters `train_hash`."""

    learning_rate: PositiveFloat
    epochs: float = Field(default=3.0, gt=0, le=10**6)
    steps: Count | None = None
    """Optimizer steps; where given, it takes the place of `epochs`."""
    batch_size: Count = 32
    max_length: int = Field(default=128, ge=8, le=10**6, strict=True)
    """Tokens an example is cut to; where a sweep names none, tasks of long texts ask for more."""
    warmup_ratio: Share = 0.1
    """Share of the steps in which the learning rate rises linearly; then it falls linearly to zero."""
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    head_dropout: Share = 0.1
    evaluate_every_epochs: PositiveFloat = 1.0
    evaluate_every_steps: Count | None = None
    """Steps between validations; where given, it takes the place of `evaluate_every_epochs`."""
    train_size: Count | AtMost | None = None
    """Train on that many examples, the same for all methods and seeds, labels in their shares; None or `all`: all;
    {at_most: 1000}: that many, or all of a task that has fewer."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 autocast where the device has it, else fp32."""
    device: Device = "any"
    cpu_threads: Count = 1
    """Threads torch may use on a CPU; part of the settings because sums depend on it."""
    batch_tokens: Count | None = None
    """Fill batches up to that many tokens, padding included; where given, it takes the place of `batch_size`."""
    doc_stride: Count | None = None
    """Tokens that neighbouring windows of a long context share (question answering); None takes a third of
    `max_length`, as SQuAD's 128 of 384."""
    max_answer_tokens: Count = 30
    """Longest answer that is looked for (question answering)."""
    tuning: Tuning | None = None
    """Train once for each learning rate tried, and go on with the best by validation."""

    @field_validator("train_size", mode="before")
    @classmethod
    def _all_is_a_size(cls, value: Any) -> Any:
        return None if value == "all" else value


class Measuring(Frozen):
    """What is measured around training; enters `job_hash` alone."""

    test_languages: tuple[str, ...] | None = None
    """Languages to test in; a sweep that names none gets all whose data are at hand. A sweep may name some by task:
    {xnli: [en, de]}; a task is tested in those of them that it has."""
    latency_batches: tuple[Count, ...] = (1, 32)
    """Batch sizes of the latency measurement; none leaves it out."""
    latency_length: int = Field(default=64, ge=8, le=10**6, strict=True)
    """Tokens of each example in the latency measurement."""
    latency_seconds: float = Field(default=2.0, gt=0, le=3600)
    """Time budget of each latency cell; at least 5 samples are taken whatever it is."""
    latency_lengths: tuple[Count, ...] = ()
    """Several lengths for the latency measurement; where given, they take the place of `latency_length`."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of the examples in each column of the latency grid."""
        return self.latency_lengths or (self.latency_length,)

    variants: bool = False
    """Test and time each other way of serving too: merged weights, an ejected prefix, each depth of AdapterDrop."""

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
            raise ValueError("the same value stands twice; name each once")
        return value

    best_state: Literal["memory", "disk"] = "memory"
    """Where the best state by validation is kept while training goes on."""
    keep_weights: bool = False
    """Keep what was trained (safetensors) as an artifact."""


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
    """What it builds on: hashes of jobs whose weights it needs, and `folder:` with the fingerprint of a folder."""

    def train_identity(self) -> dict[str, Any]:
        """What shapes training, as canonical JSON takes it."""
        return {
            "kind": self.kind,
            "model": self.model.identity,
            "task": "described by a file" if is_task_file(self.task.name) else self.task.name,
            "task_parameters": self.task.parameters,
            "data": self.data.fingerprint or f"{self.data.source}@{self.data.revision or 'main'}",
            "method": self.method.name,
            "method_parameters": {
                **self.method.parameters,
                **({"sources": list(self.sources)} if self.sources else {}),
            },
            "seed": self.seed,
            "training": self.training.model_dump(mode="json", exclude_defaults=True),
            **({"subset": "stratified"} if self.training.train_size else {}),
        }

    @property
    def train_hash(self) -> str:
        """SHA-256 of what shapes training."""
        return canonical_hash(self.train_identity())

    @property
    def job_hash(self) -> str:
        """SHA-256 of what shapes training and measuring, and the repeat."""
        return canonical_hash(
            {
                "train": self.train_hash,
                "measuring": self.measuring.model_dump(mode="json", exclude_defaults=True),
                "test_data": self.data.test_fingerprint,
                "repeat": self.repeat,
            }
        )

    @property
    def label(self) -> str:
        """The cell in a few words, for logs and tables."""
        return f"{self.model} {self.task} {self.method} seed {self.seed}"

    @property
    def columns(self) -> dict[str, Any]:
        """What its row in the table of jobs says of it."""
        return {"model": str(self.model), "task": str(self.task), "method": str(self.method), "seed": self.seed}

    @property
    def device(self) -> Device:
        """The kind of device it may run on."""
        return self.training.device

    @property
    def cpu_threads(self) -> int:
        """Threads it uses on a CPU."""
        return self.training.cpu_threads


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: one text per value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_hash(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class SweepSpec(Frozen):
    """A sweep as written: the grid before it is expanded."""

    name: str = Field(min_length=1, max_length=100)
    description: str = ""
    models: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    methods: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(strict=True, ge=0, lt=2**31)], ...] = Field(default=(0,), min_length=1)
    settings: dict[str, Any] = {}
    exclude: tuple[dict[str, Any], ...] = ()
    include: tuple[dict[str, Any], ...] = ()
    time_limit_minutes: float | None = Field(default=None, gt=0, le=10**6)
    priority: int = Field(default=5, ge=0, le=9, strict=True)
    """0 is served first."""

    @field_validator("name", "description")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.replace("\n", "").isprintable() or "\n" in value.strip():
            raise ValueError("it holds a control character, or several lines; take them out")
        return value.strip()

    @field_validator("models", "tasks", "suites", "methods", "seeds", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return (value,)
        return split_list(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_keys(self) -> Self:
        if not self.tasks and not self.suites:
            raise ValueError("a sweep needs at least one task or suite; add a line such as `tasks: [sst2]`")
        known = _setting_names()
        for key in self.settings:
            if key not in known:
                raise ValueError(f"unknown setting '{key}'; {suggest(key, known)}")
        for cell in (*self.exclude, *self.include):
            for key in cell:
                if key not in {"model", "task", "method", "seed", *known}:
                    cell_keys = {"model", "task", "method", "seed", *known}
                    raise ValueError(f"unknown key '{key}' in exclude/include; {suggest(str(key), cell_keys)}")
        for cell in self.include:
            if missing := {"model", "task", "method"} - cell.keys():
                raise ValueError(f"an include needs model, task and method; {', '.join(sorted(missing))} missing")
        return self


def split_list(text: str) -> tuple[str, ...]:
    """Split `full,lora[rank=8,alpha=16]` at the commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(part.strip() for part in parts if part.strip())


def _setting_names() -> set[str]:
    return {*Training.model_fields, *Measuring.model_fields}


_LIST_SETTINGS = {"test_languages", "latency_batches", "latency_lengths"}


def find_sweep(name: str) -> Path:
    """The file of a sweep: a path, or the name of a ready-made one.

    Raises:
        SpecError: if there is none.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") and name in ready_made_sweeps():
        return SWEEPS / f"{name}.yaml"  # whatever else is called so here; ./name means the file
    if path.suffix in (".yaml", ".yml") or path.exists():
        if not path.is_file():
            what = "is no file" if path.exists() else "does not exist"
            raise SpecError(f"sweep file '{name}' {what}; ready-made sweeps: {', '.join(ready_made_sweeps())}")
        return path
    raise UnknownNameError("sweep", name, ready_made_sweeps())


def ready_made_sweeps() -> list[str]:
    """The names of the sweeps that ship with adapeff."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def load_sweep(path: Path, overrides: Iterable[str] = ()) -> SweepSpec:
    """Read a sweep file, apply `key=value` overrides (a sweep's key or a setting), and validate it.

    Raises:
        SpecError: if it cannot be read or is malformed.
    """
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(f"{path}{where} is not YAML: {getattr(error, 'problem', None) or error}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise SpecError(f"cannot read sweep file {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # such as a date that is none
        raise SpecError(f"{path} holds a value that cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise SpecError(f"{path} holds {_kind(raw)}, expected a mapping with keys such as models, tasks, methods")
    raw.setdefault("name", path.stem)
    _from_its_folder(raw, path.parent)
    said = {}
    for override in overrides:
        _apply_override(raw, override)
        said[override.partition("=")[0].strip()] = override
    return parse_sweep(raw, origin=str(path), overrides=said)


def _from_its_folder(raw: dict[str, Any], folder: Path) -> None:
    """Have the relative paths in a sweep file start from the folder it lies in, wherever the command is typed."""

    def moved(value: Any, *, is_model: bool) -> Any:
        if isinstance(value, list):
            return [moved(item, is_model=is_model) for item in value]
        if not isinstance(value, str):
            return value
        is_path = value.startswith(("./", "../")) or value in (".", "..")
        if is_path or (is_model and ":" not in value and (folder / value).is_dir()):
            return str(folder.absolute() / value)
        return value

    cells = [raw, *(cell for key in ("include", "exclude") for cell in raw.get(key) or () if isinstance(cell, dict))]
    for cell in cells:
        for key in ("models", "model", "tasks", "task"):
            if key in cell:
                cell[key] = moved(cell[key], is_model=key.startswith("model"))


def parse_sweep(
    raw: Mapping[str, Any], *, origin: str = "sweep", overrides: Mapping[str, str] | None = None
) -> SweepSpec:
    """Validate a sweep given as a mapping.

    Args:
        origin: what to blame in messages.
        overrides: key -> the override that set it, which is to blame for that key.

    Raises:
        SpecError: naming the key, the value and what was expected.
    """
    for key in raw:
        if key not in SweepSpec.model_fields:
            known = {*SweepSpec.model_fields, *_setting_names()}
            where = " (it belongs under `settings:`)" if key in _setting_names() else f"; {suggest(str(key), known)}"
            raise SpecError(f"{origin}: unknown key '{key}'{where}")
    try:
        return SweepSpec.model_validate(raw)
    except ValidationError as error:
        place = error.errors()[0]["loc"]
        if place and (override := (overrides or {}).get(str(place[0]))):
            origin = f"'{override:.80}'"
        raise SpecError(f"{origin}: {catalog.first_problem(error)}") from error


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals:
        raise SpecError(f"override '{override}' is not of the form key=value")
    known = {*SweepSpec.model_fields, *_setting_names()} - {"settings", "exclude", "include"}
    if key not in known:
        raise SpecError(f"unknown key '{key}' in override '{override}'; {suggest(key, known)}")
    try:
        value = text if key in {"methods", "tasks", "models", "suites"} else load_yaml(text)
        if key in ("seeds", *_LIST_SETTINGS) and isinstance(value, str):
            value = [load_yaml(part) for part in split_list(value)]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise SpecError(f"the value of override '{override:.80}' cannot be read: {said}") from error
    if key in _setting_names():
        settings = raw.get("settings") or {}
        if not isinstance(settings, dict):
            raise SpecError(f"'settings' is {settings!r}, expected a mapping such as {{epochs: 3}}")
        raw["settings"] = {**settings, key: value}
    else:
        raw[key] = value
        if key in ("tasks", "suites"):  # what is named takes the place of all the sweep has
            raw["suites" if key == "tasks" else "tasks"] = []


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def expand(sweep: SweepSpec, *, data_root: Path | None) -> list[JobSpec]:
    """All jobs of a sweep, each once, in the order models, tasks, methods, settings, seeds.

    Raises:
        SpecError: for a name or parameter nobody knows, or if nothing is left of the grid.
        DataError, ModelError: if local data or a local model cannot be read.
    """
    named = [*sweep.tasks, *(task for name in sweep.suites for task in catalog.get_suite(name).tasks)]
    tasks = [task for text in named for task in _matching_folders(text)]
    _check_test_languages(sweep, tasks)
    axes = {
        key: value for key, value in sweep.settings.items() if key not in _LIST_SETTINGS and isinstance(value, list)
    }
    for key, values in axes.items():
        if not values:
            raise SpecError(f"setting '{key}' is an empty list, so the grid is empty; give at least one value")
    fixed = {key: value for key, value in sweep.settings.items() if key not in axes}
    cells: list[dict[str, Any]] = [
        {"model": model, "task": task, "method": method, **fixed, **dict(zip(axes, values, strict=True)), "seed": seed}
        for model, task, method, values, seed in itertools.product(
            sweep.models, tasks, sweep.methods, itertools.product(*axes.values()), sweep.seeds
        )
    ]
    for rule in sweep.exclude:
        if not any(_matches(cell, rule) for cell in cells):
            raise SpecError(f"exclude {rule} matches no job of the grid; correct it or leave it out")
    cells = [cell for cell in cells if not any(_matches(cell, rule) for rule in sweep.exclude)]
    for extra in sweep.include:
        seeds = (extra["seed"],) if "seed" in extra else sweep.seeds
        cells += [{**fixed, **extra, "seed": seed} for seed in seeds]
    if not cells:
        raise SpecError(f"sweep '{sweep.name}' has no jobs left after its excludes; loosen `exclude`")
    identify = _memoised_identity(data_root)
    counts: dict[str, int] = {}

    def count(task: Task) -> int:
        key = f"{task.name} {task.source_language} {task.model_dump(include=set(task.parameters))}"
        if key not in counts:
            counts[key] = len(task.examples("train", task.source_language, data_root))
        return counts[key]

    jobs = [_job(cell, sweep=sweep, identify=identify, count=count) for cell in cells]
    return list({job.job_hash: job for job in jobs}.values())


def _matching_folders(task: str) -> list[str]:
    """The task, or the folders with a task.yaml that a pattern such as ./customers/* fits.

    Raises:
        SpecError: if there is none.
    """
    if not glob.has_magic(task.partition("[")[0]):
        return [task]
    pattern = expanded(task)
    places = sorted(Path(pattern.anchor or ".").glob(str(pattern.relative_to(pattern.anchor))))
    found = [place for place in places if (place / "task.yaml").is_file() or place.suffix in (".yaml", ".yml")]
    if not found:
        raise SpecError(f"no folder with a task.yaml fits '{task}'")
    return [str(place) if place.is_absolute() else f"./{place}" for place in found]


def _check_test_languages(sweep: SweepSpec, tasks: Sequence[str]) -> None:
    """Refuse a language that no task has, and a task's name that is none of the sweep's."""
    asked = sweep.settings.get("test_languages")
    known = {reference.name: catalog.get_task(reference.name) for reference in map(parse_plugin, tasks)}
    if isinstance(asked, Mapping):
        for name, languages in asked.items():
            if name not in known:
                raise SpecError(f"test_languages names the task '{name}'; {suggest(str(name), known)}")
            for language in _as_list(languages):
                if language not in known[name].languages:
                    raise SpecError(
                        f"task '{name}' has no test language '{language}'; {suggest(language, known[name].languages)}"
                    )
        return
    every = {language for task in known.values() for language in task.languages}
    for language in _as_list(asked):
        if language not in every:
            raise SpecError(f"no task of the sweep has the test language '{language}'; {suggest(language, every)}")


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in (split_list(value) if isinstance(value, str) else value)]


def _languages_of(task: Task, asked: Any) -> tuple[str, ...] | None:
    """The languages that a sweep asks a task to be tested in; None: all that are at hand.

    Raises:
        SpecError: if it has none of them.
    """
    if isinstance(asked, Mapping):
        asked = asked.get(task.name)
    if asked is None:
        return None
    wanted = _as_list(asked)
    found = tuple(language for language in wanted if language in task.languages)
    if not found:
        raise SpecError(
            f"task '{task.name}' has none of the test languages {', '.join(wanted)}; "
            f"{suggest(wanted[0], task.languages)}; name some by task: "
            f"test_languages: {{{task.name}: [{task.languages[0]}]}}"
        )
    return found


def _matches(cell: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    def same(key: str, wanted: Any) -> bool:
        have = cell.get(key)
        if isinstance(wanted, list):
            return any(same(key, item) for item in wanted)
        if key in ("method", "task") and isinstance(have, str) and isinstance(wanted, str) and "[" not in wanted:
            return parse_plugin(have).name == wanted
        return bool(have == wanted)

    return all(same(key, wanted) for key, wanted in rule.items())


_Languages = tuple[str, ...]
_Identify = Callable[[str, _Languages | None], tuple[_Languages, DataIdentity]]


def _check_train_size(size: int | AtMost | None, task: Task, data: DataIdentity, count: Callable[[Task], int]) -> None:
    """Refuse more training examples than there are, where the data are at hand."""
    if isinstance(size, int) and data.source != "hub" and size > (there := count(task)):
        raise SpecError(
            f"train_size is {size}, but '{task.name}' has {there} training examples; lower it, set it to all, or to "
            f"{{at_most: {size}}}"
        )


def _memoised_identity(data_root: Path | None) -> _Identify:
    seen: dict[tuple[str, _Languages | None], tuple[_Languages, DataIdentity]] = {}

    def identify(text: str, asked: _Languages | None) -> tuple[_Languages, DataIdentity]:
        if (text, asked) not in seen:
            reference = parse_plugin(text)
            task = catalog.get_task(reference.name, reference.parameters)
            languages = asked or task.available_languages(data_root)
            seen[text, asked] = languages, task.identity(languages, data_root)
        return seen[text, asked]

    return identify


_JOB_REFERENCE = re.compile(r"[0-9]{1,9}|[0-9a-f]{12,64}")
SOURCE_FILES = ("weights.safetensors", "adapter_config.json", "adapter_model.safetensors")


def _source(name: str) -> str:
    """A source as a job names it: what may be a job stays as written until the database is asked."""
    if _JOB_REFERENCE.fullmatch(name):
        return name
    folder = expanded(name)
    if folder.is_dir():
        return source_fingerprint(folder)
    raise SpecError(
        f"source '{name}' is neither a job (its id, or 12 or more characters of its job hash) nor a folder that is here"
    )


def source_fingerprint(folder: Path) -> str:
    """A folder of adapter weights by its content.

    Raises:
        SpecError: if it holds none.
    """
    files = [folder / name for name in SOURCE_FILES if (folder / name).is_file()]
    if not any(file.suffix == ".safetensors" for file in files):
        raise SpecError(f"source folder '{folder}' holds no weights (weights.safetensors or adapter_model.safetensors)")
    return f"folder:{files_fingerprint(folder, files)}"


def _canonical_task(reference: PluginReference) -> PluginReference:
    """The same task with its parameters as they are validated, those at their default left out; a file by its place."""
    registered, task = catalog.get_task(reference.name), catalog.get_task(reference.name, reference.parameters)
    given = task.model_dump(mode="json", include=set(reference.parameters))
    default = registered.model_dump(mode="json", include=set(reference.parameters))
    changed = {key: value for key, value in given.items() if value != default[key]}
    name = str(expanded(reference.name).resolve()) if is_task_file(reference.name) else reference.name
    return PluginReference(name=name, parameters=changed)


def _job(
    cell: Mapping[str, Any],
    *,
    sweep: SweepSpec,
    identify: _Identify,
    count: Callable[[Task], int],
) -> JobSpec:
    method_reference = parse_plugin(str(cell["method"]))
    method = catalog.get_method(method_reference.name, method_reference.parameters)
    method_parameters = method.model_dump(mode="json", exclude_defaults=True)
    task_reference = _canonical_task(parse_plugin(str(cell["task"])))
    settings = {key: value for key, value in cell.items() if key not in ("model", "task", "method", "seed")}
    learning_rate = settings.get("learning_rate", "default")
    source = "set in the sweep"
    if learning_rate == "default":
        learning_rate, source = method.learning_rate()
    elif settings.get("tuning"):
        raise SpecError("learning_rate and tuning contradict each other; leave one of them out")
    if settings.get("tuning"):
        source = "tuned"
    training = {key: value for key, value in settings.items() if key in Training.model_fields}
    task = catalog.get_task(task_reference.name, task_reference.parameters)
    if task.max_length is not None:
        training.setdefault("max_length", task.max_length)
    measuring = {key: value for key, value in settings.items() if key in Measuring.model_fields}
    if "test_languages" in measuring:
        measuring["test_languages"] = _languages_of(task, measuring["test_languages"])
    sources = tuple(_source(name) for name in method.source_names())
    if sources:  # a folder is found again from wherever the worker runs
        method_parameters["sources"] = [
            str(expanded(name).resolve()) if source.startswith("folder:") else name
            for name, source in zip(method.source_names(), sources, strict=True)
        ]
    try:
        measured = Measuring.model_validate(measuring)
        languages, data = identify(str(cell["task"]), measured.test_languages)
        trained = Training.model_validate({**training, "learning_rate": learning_rate})
        _check_train_size(trained.train_size, task, data, count)
        return JobSpec(
            model=resolve_model(str(cell["model"])),
            task=task_reference,
            data=data,
            method=PluginReference(name=method_reference.name, parameters=method_parameters),
            seed=cell["seed"],
            training=trained,
            learning_rate_source=source,
            measuring=measured.model_copy(update={"test_languages": languages}),
            time_limit_minutes=sweep.time_limit_minutes,
            sources=sources,
        )
    except ValidationError as error:
        raise SpecError(f"sweep '{sweep.name}': {catalog.first_problem(error)}") from error

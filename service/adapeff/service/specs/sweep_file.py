"""Sweeps as users write them: YAML files, and overrides on the command line.

A sweep is a grid over models x tasks x methods x seeds, and over every setting given as a list; `expansion.expand`
turns it into jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from adapeff.service.errors import SpecError, UnknownNameError, first_line, first_problem, suggest
from adapeff.service.plugins.contracts import Frozen
from adapeff.service.plugins.plugin_reference import split_list
from adapeff.service.specs.job import Measuring, Training
from adapeff.service.specs.mixtures import Growth, NamedMixture
from adapeff.service.specs.profile import ProfileSettings
from adapeff.service.strict_yaml import load_yaml

SWEEPS = Path(__file__).parent / "sweeps"
LIST_SETTINGS = {"test_languages", "latency_batches", "latency_lengths"}


class SweepSpec(Frozen):
    """A sweep as written: the grid before it is expanded."""

    name: str = Field(min_length=1, max_length=100)
    description: str = ""
    models: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    mixtures: tuple[NamedMixture, ...] = ()
    """Further tasks of the grid: several tasks with one model each."""
    extend: tuple[Growth, ...] = ()
    """Trained models of the grid, or other jobs, that learn further tasks."""
    methods: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(strict=True, ge=0, lt=2**31)], ...] = Field(default=(0,), min_length=1)
    settings: dict[str, Any] = {}
    exclude: tuple[dict[str, Any], ...] = ()
    include: tuple[dict[str, Any], ...] = ()
    time_limit_minutes: float | None = Field(default=None, gt=0, le=10**6)
    priority: int = Field(default=5, ge=0, le=9, strict=True)
    """Jobs with priority 0 run first."""
    profile: Literal["auto", "off"] | dict[str, Any] = "auto"
    """Profile the methods, for paired ratios of times: `auto`, `off`, or settings as for `adapeff profile`."""

    @field_validator("profile", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: Any) -> Any:
        return {True: "auto", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("profile")
    @classmethod
    def _settings_of_a_profile(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, dict):
            for key in value:
                if key not in ProfileSettings.model_fields:
                    raise ValueError(f"unknown setting '{key}'; {suggest(str(key), ProfileSettings.model_fields)}")
            try:
                ProfileSettings.model_validate(value)
            except ValidationError as error:
                raise ValueError(first_problem(error)) from error
        return value

    @field_validator("name", "description")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.replace("\n", "").isprintable() or "\n" in value.strip():
            raise ValueError("it contains a control character or several lines; remove them")
        return value.strip()

    @field_validator("models", "tasks", "suites", "methods", "seeds", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return (value,)
        return split_list(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_keys(self) -> Self:
        if not (self.tasks or self.suites or self.mixtures or self.extend):
            raise ValueError("a sweep needs at least one task or suite; add a line such as `tasks: [sst2]`")
        names = [mixture.name for mixture in self.mixtures]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two mixtures are called '{repeated[0]}'; give each a name of its own")
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
                raise ValueError(f"an include needs model, task and method; missing: {', '.join(sorted(missing))}")
        return self


def _setting_names() -> set[str]:
    return {*Training.model_fields, *Measuring.model_fields}


def find_sweep(name: str) -> Path:
    """The file of a sweep: a path, or the name of a ready-made one.

    Raises:
        SpecError: if it does not exist.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") and name in ready_made_sweeps():
        return SWEEPS / f"{name}.yaml"  # even if a file has that name; use ./name for the file
    if path.suffix in (".yaml", ".yml") or path.exists():
        if not path.is_file():
            problem = "is not a file" if path.exists() else "does not exist"
            raise SpecError(f"sweep file '{name}' {problem}; ready-made sweeps: {', '.join(ready_made_sweeps())}")
        return path
    raise UnknownNameError("sweep", name, ready_made_sweeps())


def ready_made_sweeps() -> list[str]:
    """The names of the sweeps that come with adapeff."""
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
    except (ValueError, RecursionError) as error:  # such as an impossible date
        raise SpecError(f"{path} contains a value that cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise SpecError(f"{path} contains {_kind(raw)}, expected a mapping with keys such as models, tasks, methods")
    raw.setdefault("name", path.stem)
    _from_its_folder(raw, path.parent)
    origins = {}
    for override in overrides:
        _apply_override(raw, override)
        origins[override.partition("=")[0].strip()] = override
    return parse_sweep(raw, origin=str(path), overrides=origins)


def _from_its_folder(raw: dict[str, Any], folder: Path) -> None:
    """Resolve relative paths in a sweep file from the file's folder, not from the working directory."""

    def resolved(value: Any, *, is_model: bool) -> Any:
        if isinstance(value, list):
            return [resolved(item, is_model=is_model) for item in value]
        if not isinstance(value, str):
            return value
        is_path = value.startswith(("./", "../")) or value in (".", "..")
        if is_path or (is_model and ":" not in value and (folder / value).is_dir()):
            return str(folder.absolute() / value)
        return value

    parts = ("include", "exclude", "mixtures", "extend")
    cells = [raw, *(cell for key in parts for cell in raw.get(key) or () if isinstance(cell, dict))]
    cells += [task for cell in cells[1:] for task in cell.get("tasks") or () if isinstance(task, dict)]
    for cell in cells:
        for key in ("models", "model", "tasks", "task", "add", "base"):
            if key in cell:
                cell[key] = resolved(cell[key], is_model=key.startswith("model"))


def parse_sweep(
    raw: Mapping[str, Any], *, origin: str = "sweep", overrides: Mapping[str, str] | None = None
) -> SweepSpec:
    """Validate a sweep given as a mapping.

    Args:
        origin: the source, for messages.
        overrides: key -> the override that set it, which messages name instead.

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
        raise SpecError(f"{origin}: {first_problem(error)}") from error


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals:
        raise SpecError(f"override '{override}' is not of the form key=value")
    known = {*SweepSpec.model_fields, *_setting_names()} - {"settings", "exclude", "include", "mixtures", "extend"}
    if key not in known:
        raise SpecError(f"unknown key '{key}' in override '{override}'; {suggest(key, known)}")
    try:
        value = text if key in {"methods", "tasks", "models", "suites"} else load_yaml(text)
        if key in ("seeds", *LIST_SETTINGS) and isinstance(value, str):
            value = [load_yaml(part) for part in split_list(value)]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or first_line(error)
        raise SpecError(f"the value of override '{override:.80}' cannot be read: {problem}") from error
    if key in _setting_names():
        settings = raw.get("settings") or {}
        if not isinstance(settings, dict):
            raise SpecError(f"'settings' is {settings!r}, expected a mapping such as {{epochs: 3}}")
        raw["settings"] = {**settings, key: value}
    else:
        raw[key] = value
        if key in ("tasks", "suites"):  # replaces all tasks of the sweep; those named may be its mixtures
            raw["suites" if key == "tasks" else "tasks"] = []
            raw.pop("extend", None)
            named = split_list(str(value)) if key == "tasks" else ()
            raw["mixtures"] = [each for each in raw.get("mixtures") or () if _name_of(each) in named]


def _name_of(mixture: Any) -> Any:
    return mixture.get("name") if isinstance(mixture, dict) else None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"

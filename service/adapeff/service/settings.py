"""Settings and their sources: flag, environment, project file, user file, default, in this order.

The project is the nearest folder, from the working directory upwards, that contains `adapeff.toml` or `.adapeff`.
`DATABASE_URL` and `REDIS_URL` are read after their `ADAPEFF_` forms. Such a database may belong to another
application, so it is never migrated automatically.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from platformdirs import user_config_path, user_data_path
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from adapeff.service.errors import ConfigError, first_problem, suggest
from adapeff.service.masking import mask
from adapeff.service.paths import expanded

PREFIX = "ADAPEFF_"
PROJECT_FILE = "adapeff.toml"
_PLAIN_NAMES = {"database_url": "DATABASE_URL", "broker_url": "REDIS_URL"}
_PATHS = ("state_dir", "data_root", "artifacts_url", "cache_dir", "lock_dir")


class Settings(BaseSettings):
    """All settings; built once, in `main`, and passed down."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    database_url: str | None = Field(default=None, description="SQLAlchemy URL; default: SQLite in state_dir")
    broker_url: str | None = Field(default=None, description="redis://...; default: files in state_dir")
    state_dir: Path | None = Field(
        default=None, description="embedded state; default: the project's .adapeff, or the user's data folder"
    )
    artifacts_url: str | None = Field(default=None, description="folder for run files; default: artifacts in state_dir")
    data_root: Path | None = Field(default=None, description="folder of local data sets in the hub's schema")
    cache_dir: Path | None = Field(
        default=None, description="tokenized data, may be emptied; default: cache in state_dir"
    )
    lease_seconds: PositiveFloat = Field(default=60, description="a run without a heartbeat for longer is requeued")
    heartbeat_seconds: PositiveFloat = Field(default=15, description="how often a run renews its lease")
    reconcile_seconds: PositiveFloat = Field(default=15, description="how often a worker looks for lost jobs")
    max_failures: PositiveInt = Field(default=3, description="lost or killed runs before a job fails")
    cores_per_slot: PositiveInt = Field(default=1, description="cores that a CPU slot is pinned to")
    profile: Literal["auto", "off"] = Field(
        default="auto", description="whether sweeps profile their methods, for ratios of times, unless they say"
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="format of a worker's log; json has a line of JSON for each message"
    )
    lock_dir: Path | None = Field(
        default=None, description="device locks, shared by all workers of this host; default: the system's folder"
    )
    runner_environment: str = Field(
        default="",
        description="environment variables to pass on to runs, comma-separated; MY_* passes all that start with MY_",
    )
    time_limit_minutes: PositiveFloat = Field(
        default=10_080, description="a run that takes longer is ended, unless its sweep sets time_limit_minutes"
    )
    stall_minutes: str = Field(
        default="120",
        description="a run that reports nothing for longer is stalled; 120,prepare=600 sets a stage's too; 0: never",
    )
    on_stall: Literal["retry", "fail", "show"] = Field(
        default="retry", description="end a stalled run and try again, end it and fail the job, or only show it"
    )
    notify: str = Field(
        default="", description="URL (https://..., POST) or command that is told in JSON when a sweep has ended"
    )
    checkpoint_seconds: PositiveFloat = Field(
        default=300, description="how often a run in training writes a checkpoint, for its job's next run to go on from"
    )
    fork_server: bool = Field(
        default=True, description="start runs from a process that has loaded torch already, which saves seconds"
    )
    price_per_device_hour: PositiveFloat | None = Field(
        default=None, description="cost of an hour of a slot; adds each run's price to reports"
    )
    currency: str = Field(default="", max_length=16, description="unit of price_per_device_hour, such as EUR")

    @field_validator("database_url")
    @classmethod
    def _known_driver(cls, value: str | None) -> str | None:
        if value is None:
            return None
        value = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", value)
        if not value.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ValueError("expected sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME")
        _check_address(value)
        return value

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("redis://", "rediss://", "filesystem://")):
            raise ValueError("expected redis://:PASSWORD@HOST:PORT/NUMBER, or nothing for the embedded queue")
        if value is not None:
            _check_address(value)
        return value

    @field_validator("artifacts_url")
    @classmethod
    def _is_a_folder(cls, value: str | None) -> str | None:
        if value is not None and "://" in value and not value.startswith("file://"):
            raise ValueError("expected a folder (a path or file:///path); share it between hosts")
        return value

    @field_validator("state_dir", "data_root", "cache_dir", "lock_dir")
    @classmethod
    def _home_is_expanded(cls, value: Path | None) -> Path | None:
        return expanded(value) if value is not None else None

    @field_validator("data_root")
    @classmethod
    def _is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("no such folder; give an existing one, or remove it to load data from the hub")
        return value

    @field_validator("stall_minutes", mode="before")
    @classmethod
    def _stages_are_known(cls, value: Any) -> str:
        parse_stall_minutes(str(value))
        return str(value)

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        if self.heartbeat_seconds > self.lease_seconds / 2:
            raise ValueError(
                f"heartbeat_seconds is {self.heartbeat_seconds:g}, but a lease of {self.lease_seconds:g} s needs a "
                "heartbeat at least twice; lower it or raise lease_seconds"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment; `load_settings` merges the other sources."""
        return init_settings, env_settings

    @property
    def state(self) -> Path:
        """Folder of the embedded database, queue and artifacts."""
        if self.state_dir is not None:
            return expanded(self.state_dir)
        project = find_project()
        if project:
            return project / ".adapeff"
        try:
            return user_data_path("adapeff")
        except RuntimeError as error:
            raise ConfigError("the home folder is unknown; set HOME or ADAPEFF_STATE_DIR") from error

    @property
    def database(self) -> str:
        """The database's URL, the embedded one if none is set."""
        return self.database_url or f"sqlite:///{self.state / 'adapeff.db'}"

    @property
    def broker(self) -> str:
        """The broker's URL, the embedded one if none is set."""
        return self.broker_url or "filesystem://"

    @property
    def artifacts(self) -> Path:
        """Folder of run files."""
        if self.artifacts_url is None:
            return self.state / "artifacts"
        return expanded(self.artifacts_url.removeprefix("file://"))

    @property
    def cache(self) -> Path:
        """Folder of tokenized data that runners share."""
        return self.cache_dir or self.state / "cache"

    @property
    def is_embedded(self) -> bool:
        """Whether the database is the embedded one, which is migrated automatically."""
        return self.database_url is None


STAGES = ("prepare", "train", "evaluate", "profile", "variants")
"""The stages of a run."""


def parse_stall_minutes(text: str) -> dict[str, float]:
    """The minutes without news after which a run is stalled, by stage; '' for all others.

    Raises:
        ValueError: if it is malformed.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        stage, _, minutes = part.rpartition("=")
        try:
            found[stage.strip()] = float(minutes)
        except ValueError:
            found[stage.strip()] = -1
        if not 0 <= found[stage.strip()] < float("inf") or stage.strip() not in ("", *STAGES):
            raise ValueError(f"'{part}' is not a number of minutes, or STAGE=MINUTES with one of {', '.join(STAGES)}")
    return {"": 0.0, **found}


def _check_address(url: str) -> None:
    """Refuse addresses on which a driver would fail: malformed brackets, ports or Redis database numbers."""
    scheme, _, rest = url.partition("://")
    try:
        parts = urlsplit(f"{scheme}://{rest.rpartition('@')[2]}")  # passwords allow more characters
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it is not a valid address ({str(error).partition(' as ')[0].lower()})") from error
    if port == 0:
        raise ValueError("port 0 is not valid; expected 1 to 65535")
    number = parts.path.strip("/")
    if url.startswith(("redis://", "rediss://")) and number and not number.isdecimal():
        raise ValueError(f"Redis databases are numbered, and '{number}' is not a number")


@dataclass(frozen=True)
class LoadedSettings:
    """The settings and the source of each."""

    values: Settings
    origins: Mapping[str, str]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(name, value with secrets masked, source) of every setting, computed defaults included."""
        computed = {
            "database_url": "database",
            "broker_url": "broker",
            "state_dir": "state",
            "artifacts_url": "artifacts",
        }
        for name in Settings.model_fields:
            value = getattr(self.values, computed.get(name, name))
            yield name, mask(str(value)) if value is not None else "", self.origins[name]


def load_settings(flags: Mapping[str, Any] | None = None) -> LoadedSettings:
    """Read every source.

    Args:
        flags: values from the command line; None: not given.

    Raises:
        ConfigError: for an unknown key or an invalid value, naming it and its source.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    layers = [("flag", given), *_environment(), *_files()]
    origins = dict.fromkeys(Settings.model_fields, "default")
    merged: dict[str, Any] = {}
    for origin, layer in layers:
        for name, value in layer.items():
            if name not in merged:
                merged[name], origins[name] = value, origin
    try:
        values = Settings(**merged)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if name in _PLAIN_NAMES:  # an address may contain a password anywhere, so do not print it
            message = f"'{name}': {problem['msg'].removeprefix('Value error, ')}"
        else:
            message = first_problem(error)
        source = f" (from {origins[name]})" if name in origins else ""
        raise ConfigError(f"setting {message}{source}") from error
    return LoadedSettings(values, origins)


NO_SETTINGS = ("serve_token",)
"""What commands read from the environment themselves: a secret is not printed with the settings."""


def _environment() -> list[tuple[str, dict[str, Any]]]:
    names = Settings.model_fields
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).lower()
        is_other = name.startswith("test_") or name in NO_SETTINGS
        if variable.startswith(PREFIX) and name not in names and not is_other:
            known = [PREFIX + field.upper() for field in names]
            raise ConfigError(f"unknown environment variable {variable}; {suggest(variable, known)}")
    prefixed = EnvSettingsSource(Settings)()
    plain = {field: os.environ[name] for field, name in _PLAIN_NAMES.items() if os.environ.get(name)}
    return [
        *(("environment " + PREFIX + field.upper(), {field: value}) for field, value in prefixed.items()),
        *((f"environment {_PLAIN_NAMES[field]}", {field: value}) for field, value in plain.items()),
    ]


def _files() -> list[tuple[str, dict[str, Any]]]:
    project = find_project()
    files = [project / PROJECT_FILE] if project else []
    with suppress(RuntimeError):  # if the home folder is unknown
        files.append(user_config_path("adapeff") / "config.toml")
    return [(str(file), _read_toml(file)) for file in files if file.is_file()]


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    for key, value in values.items():
        if key not in Settings.model_fields:
            raise ConfigError(f"{file}: unknown setting '{key}'; {suggest(key, Settings.model_fields)}")
        is_path = key in _PATHS and isinstance(value, str) and "://" not in value
        if is_path and not value.startswith("~"):  # relative to the file, not to the working directory
            values[key] = str(file.parent / value)
    return values


def find_project() -> Path | None:
    """The nearest folder, from the working directory upwards, with an `adapeff.toml` or `.adapeff`."""
    current = Path.cwd()
    for folder in (current, *current.parents):
        if (folder / PROJECT_FILE).is_file() or (folder / ".adapeff").is_dir():
            return folder
    return None

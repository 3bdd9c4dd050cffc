"""Every error adapeff raises on purpose, and the exit code each one gives.

AdapeffError                     1
├── ConfigError                  1   settings: unknown key, bad value, unusable place
├── SpecError                    1   sweep or job: YAML, unknown name, bad parameter
│   └── UnknownNameError         1   a method, task, suite, metric, sweep ... nobody has registered
├── DataError                    1   a data set that is missing, unreadable or not as declared
├── ModelError                   1   a model that cannot be found, loaded or adapted
├── JobError                     1   a job that does not exist or is not in the state asked for
│   └── LeaseLostError           1   the run is no longer the one that counts
├── ResourceError                1   a device or a disk that is not there, full or read-only
│   └── NotHereError             1   what a job needs (data, model, sources, packages) is not on this host
├── SchemaError                  1   the database has no tables of ours, or other ones than this version knows
├── UnreachableError             3   PostgreSQL or Redis cannot be reached
│   └── ConflictError            3   two transactions stood in each other's way; the same again will do
└── JobsFailedError              4   `run`, `--wait`: a job ended failed or cancelled
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from adapeff.service.masking import mask

if TYPE_CHECKING:
    from pydantic import ValidationError


class ExitCode(IntEnum):
    """What the command line exits with."""

    OK = 0
    ERROR = 1
    USAGE = 2
    UNREACHABLE = 3
    JOBS_FAILED = 4
    INTERRUPTED = 130


class AdapeffError(Exception):
    """Root of the tree; its text is one line: what is wrong, what was expected, what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.ERROR


class ConfigError(AdapeffError):
    """A setting is unknown, malformed, or names a place that cannot be used."""


class SpecError(AdapeffError):
    """A sweep or job specification is malformed."""


class UnknownNameError(SpecError):
    """A name that no installed distribution registers."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {what} '{name}'; {suggest(name, known)}")


class DataError(AdapeffError):
    """A data set is missing, unreadable, or not as declared."""


class ModelError(AdapeffError):
    """A model cannot be found, loaded, or adapted in the way asked for."""


class JobError(AdapeffError):
    """A job does not exist or is not in a state that allows what was asked."""


class LeaseLostError(JobError):
    """A run tried to renew or write after its job was given to another run or ended."""


class ResourceError(AdapeffError):
    """A device, a disk, or a lock that the work needs cannot be had."""


class NotHereError(ResourceError):
    """What a job needs is not on this host, or is another than was submitted; a host that has it can run the job."""


class SchemaError(AdapeffError):
    """The database is not one this version can use as it stands."""


class UnreachableError(AdapeffError):
    """The database or the broker does not answer."""

    exit_code = ExitCode.UNREACHABLE


class ConflictError(UnreachableError):
    """Two transactions stood in each other's way; one of them was undone, and will do when it is tried again."""


class JobsFailedError(AdapeffError):
    """At least one of the jobs waited for ended failed or cancelled."""

    exit_code = ExitCode.JOBS_FAILED


_MAX_NAMES = 40


def suggest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, and list them: "did you mean 'lora'?  known: ...".

    Of very many names those with a prefix, such as peft:vera, are only counted.
    """
    names = sorted(known)
    by_lower = {known_name.lower(): known_name for known_name in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    hint = f"did you mean '{by_lower[near[0]]}'?  " if near else ""
    shown = names if len(names) <= _MAX_NAMES else [known_name for known_name in names if ":" not in known_name]
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return f"{hint}known: {', '.join(shown) or 'none'}{more}"


_PLAIN_WORDS = {
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping such as {key: value}",
    "string_type": "expected text",
    "too_short": "expected at least one value",
    "extra_forbidden": "unknown key",
}
"""Pydantic's words where they speak of Python rather than of what a person wrote."""


def first_problem(error: ValidationError) -> str:
    """The first complaint of a validation, in one line: where, what was given, what was expected."""
    problem = error.errors()[0]
    # of a field that takes several types, pydantic names the type it tried last too
    where = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or str(part).isidentifier())
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"'{where}' is missing"
    message = _PLAIN_WORDS.get(problem["type"], message)
    given = repr(str(problem["input"]) if isinstance(problem["input"], Path) else problem["input"])
    shown = given if len(given) <= 60 else given[:57] + "..."
    return f"'{where}' is {shown}: {message[0].lower()}{message[1:]}" if where else message


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, without passwords; its type where it says nothing."""
    lines = mask(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""Every error that adapeff raises itself, and its exit code.

AdapeffError                     1
├── ConfigError                  1   settings: unknown key, bad value, unusable location
├── SpecError                    1   sweep or job: YAML, unknown name, bad parameter
│   └── UnknownNameError         1   an unregistered method, task, suite, metric, sweep ...
├── DataError                    1   a data set that is missing, unreadable or not as declared
├── ModelError                   1   a model that cannot be found, loaded or adapted
├── JobError                     1   a job that does not exist, or whose state does not allow the request
│   └── LeaseLostError           1   the run no longer holds the job's lease
├── ResourceError                1   a device or disk that is missing, full or read-only
│   └── NotHereError             1   what a job needs (data, model, sources, packages) is not on this host
├── SchemaError                  1   the database has no adapeff tables, or not those of this version
├── UnreachableError             3   PostgreSQL or Redis cannot be reached
│   └── ConflictError            3   two transactions conflicted; try again
└── JobsFailedError              4   `run`, `--wait`: a job failed or was cancelled
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
    """Exit codes of the command line."""

    OK = 0
    ERROR = 1
    USAGE = 2
    UNREACHABLE = 3
    JOBS_FAILED = 4
    INTERRUPTED = 130


class AdapeffError(Exception):
    """Root of the tree. The text is one line: what is wrong, what was expected, what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.ERROR


class ConfigError(AdapeffError):
    """A setting is unknown, malformed, or names an unusable location."""


class SpecError(AdapeffError):
    """A sweep or job specification is malformed."""


class UnknownNameError(SpecError):
    """A name that no installed distribution registers."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {what} '{name}'; {suggest(name, known)}")


class DataError(AdapeffError):
    """A data set is missing, unreadable, or not as declared."""


class ModelError(AdapeffError):
    """A model cannot be found, loaded, or adapted as requested."""


class JobError(AdapeffError):
    """A job does not exist, or its state does not allow the request."""


class LeaseLostError(JobError):
    """A run tried to renew its lease or store results after its job had ended or was given to another run."""


class ResourceError(AdapeffError):
    """A device, a disk or a lock that the work needs is not available."""


class NotHereError(ResourceError):
    """This host lacks what a job needs, or has another version of it; a host that has it can run the job."""


class SchemaError(AdapeffError):
    """This version cannot use the database as it is."""


class UnreachableError(AdapeffError):
    """The database or the broker does not answer."""

    exit_code = ExitCode.UNREACHABLE


class ConflictError(UnreachableError):
    """Two transactions conflicted; one was rolled back and will succeed when tried again."""


class JobsFailedError(AdapeffError):
    """At least one of the jobs waited for failed or was cancelled."""

    exit_code = ExitCode.JOBS_FAILED


_MAX_NAMES = 40


def suggest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that was probably meant, and list all: "did you mean 'lora'?  known: ...".

    In long lists, names with a prefix, such as peft:vera, are only counted.
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
"""Replacements for pydantic messages that use Python terms, which users of YAML may not know."""


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation in one line: the field, its value, and the expected value."""
    problem = error.errors()[0]
    # for a field of several types, pydantic also names the type it tried last
    where = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or str(part).isidentifier())
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"'{where}' is missing"
    message = _PLAIN_WORDS.get(problem["type"], message)
    given = repr(str(problem["input"]) if isinstance(problem["input"], Path) else problem["input"])
    shown = given if len(given) <= 60 else given[:57] + "..."
    return f"'{where}' is {shown}: {message[0].lower()}{message[1:]}" if where else message


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, passwords masked; its type if it has none."""
    lines = mask(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""Quantities as people write them: 20ms@8x128, 2GiB, 1e6/month, 2.5/h, 0.02/GiB-month."""

from __future__ import annotations

import re
from collections.abc import Mapping

from adapeff.service.errors import SpecError

_NUMBER = r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)"
_SECONDS: Mapping[str, float] = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES: Mapping[str, float] = {"MB": 1e6, "GB": 1e9, "MiB": 2.0**20, "GiB": 2.0**30}
_PER_MONTH: Mapping[str, float] = {"s": 2_629_746.0, "min": 43_829.1, "h": 730.485, "day": 30.436875, "month": 1.0}
"""A month is a twelfth of a mean Gregorian year, 365.2425 days."""


def read_latency(flag: str, text: str) -> tuple[float, str]:
    """Seconds and shape (batch x tokens) of `20ms@8x128`.

    Raises:
        SpecError: naming the flag and what was expected.
    """
    found = re.fullmatch(_NUMBER + r"\s*(us|ms|s)\s*@\s*(\d+x\d+)", text.strip())
    if found is None:
        raise SpecError(f"{flag} is '{text}'; expected a time at a shape of batch x tokens, such as 20ms@8x128")
    return _positive(flag, text, float(found[1]) * _SECONDS[found[2]]), found[3]


def read_shape(flag: str, text: str) -> str:
    """Batch x tokens of `8x128`.

    Raises:
        SpecError: naming the flag and what was expected.
    """
    if not re.fullmatch(r"\d+x\d+", text.strip()):
        raise SpecError(f"{flag} is '{text}'; expected a shape of batch x tokens, such as 8x128")
    return text.strip()


def read_bytes(flag: str, text: str) -> float:
    """Bytes of `2GiB`, `500MB`.

    Raises:
        SpecError: naming the flag and what was expected.
    """
    found = re.fullmatch(_NUMBER + r"\s*(MB|GB|MiB|GiB)", text.strip())
    if found is None:
        raise SpecError(f"{flag} is '{text}'; expected a size such as 2GiB or 500MB")
    return _positive(flag, text, float(found[1]) * _BYTES[found[2]])


def read_rate(flag: str, text: str) -> float:
    """Requests per month of `1e6/month`, `50/s`.

    Raises:
        SpecError: naming the flag and what was expected.
    """
    found = re.fullmatch(_NUMBER + r"\s*/\s*(s|min|h|day|month)", text.strip())
    if found is None:
        raise SpecError(f"{flag} is '{text}'; expected a rate such as 1e6/month or 50/s")
    return _positive(flag, text, float(found[1]) * _PER_MONTH[found[2]])


def read_price(flag: str, text: str) -> float:
    """The price of a device per hour, `2.5/h`.

    Raises:
        SpecError: naming the flag and what was expected.
    """
    found = re.fullmatch(_NUMBER + r"\s*(?:/\s*h)?", text.strip())
    if found is None:
        raise SpecError(f"{flag} is '{text}'; expected a price per device hour, such as 2.5/h")
    return _positive(flag, text, float(found[1]))


def read_storage_price(flag: str, text: str) -> float:
    """The price of a GiB stored for a month, `0.02/GiB-month` (also per GB).

    Raises:
        SpecError: naming the flag and what was expected.
    """
    found = re.fullmatch(_NUMBER + r"\s*(?:/\s*(GiB|GB)(?:-|/\s*)month)?", text.strip())
    if found is None:
        raise SpecError(f"{flag} is '{text}'; expected a price per GiB and month, such as 0.02/GiB-month")
    price = _positive(flag, text, float(found[1]))
    return price * 2**30 / 1e9 if found[2] == "GB" else price


def _positive(flag: str, text: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise SpecError(f"{flag} is '{text}'; expected more than 0")
    return value

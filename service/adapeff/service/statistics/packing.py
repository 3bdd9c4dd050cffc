"""Scores by test example as text for events, and as bytes for the database: zlib of little-endian float32."""

from __future__ import annotations

import base64
import binascii
import sys
import zlib
from array import array
from collections.abc import Iterable

_MOST = 2**26
"""Bytes of the scores of one language, unpacked; more are refused."""


def pack(values: Iterable[float]) -> str:
    """Pack scores as base64 text."""
    return base64.b64encode(zlib.compress(_little_endian(array("f", values)).tobytes(), 9)).decode("ascii")


def packed_bytes(text: str) -> bytes:
    """The bytes of packed scores, as the database stores them.

    Raises:
        ValueError: if the text is not what `pack` makes.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        unpack(packed)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"example scores cannot be unpacked: {error}") from error
    return packed


def unpack(packed: bytes) -> array[float]:
    """One score per example.

    Raises:
        ValueError: if they are truncated or too many.
        zlib.error: if they are corrupt.
    """
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, _MOST)
    if not unpacker.eof or not data or len(data) % 4:
        raise ValueError("example scores are truncated or too many")
    return _little_endian(array("f", data))


def _little_endian(values: array[float]) -> array[float]:
    """The values in the byte order that is stored, or back."""
    if sys.byteorder == "big":
        values.byteswap()
    return values

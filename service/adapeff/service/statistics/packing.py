"""Scores by test example as text for events, and as bytes for the database."""

from __future__ import annotations

import base64
import binascii
import zlib

import numpy

_MOST = 2**26
"""Bytes of the scores of one language, unpacked; more are refused."""


def pack(values: numpy.ndarray) -> str:
    """Pack scores as text: base64 of zlib of little-endian float32."""
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode("ascii")


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


def unpack(packed: bytes) -> numpy.ndarray:
    """One score per example, as float64.

    Raises:
        ValueError: if they are truncated or too many.
        zlib.error: if they are corrupt.
    """
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, _MOST)
    if not unpacker.eof or not data or len(data) % 4:
        raise ValueError("example scores are truncated or too many")
    return numpy.frombuffer(data, dtype="<f4").astype(numpy.float64)

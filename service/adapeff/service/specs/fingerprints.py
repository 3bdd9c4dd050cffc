"""Identify local files by their content, regardless of their location."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from adapeff.service.errors import DataError, SpecError
from adapeff.service.plugins.contracts import DataIdentity

_CHUNK = 1 << 20
SOURCE_FILES = ("weights.safetensors", "adapter_config.json", "adapter_model.safetensors")


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        DataError: if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check that it exists and is readable") from error
    return digest.hexdigest()


def files_fingerprint(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the relative names and contents of some files below `root`, in any order."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root).as_posix()}\0{file_fingerprint(path)}\n".encode())
    return digest.hexdigest()


def source_fingerprint(folder: Path) -> str:
    """The identity of a folder of adapter weights: a fingerprint of its content.

    Raises:
        SpecError: if it contains no weights.
    """
    files = [folder / name for name in SOURCE_FILES if (folder / name).is_file()]
    if not any(file.suffix == ".safetensors" for file in files):
        raise SpecError(
            f"source folder '{folder}' contains no weights; expected weights.safetensors or adapter_model.safetensors"
        )
    return f"folder:{files_fingerprint(folder, files)}"


def joint_identity(identities: Sequence[DataIdentity]) -> DataIdentity:
    """The identity of the data of several tasks together."""
    kinds = {identity.source for identity in identities}

    def joint(field: str) -> str:
        texts = [str(getattr(identity, field) or identity.revision or "main") for identity in identities]
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()

    return DataIdentity(
        source="hub" if "hub" in kinds else "folder" if "folder" in kinds else "generated",
        fingerprint=joint("fingerprint"),
        test_fingerprint=joint("test_fingerprint"),
    )

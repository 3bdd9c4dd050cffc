"""Tokenised data on disk, found by content: one memory-mapped file per examples x tokenizer x preprocessing.

Any number of runners may share the folder. The first one that needs a file writes it while the others wait for its
lock. A file is written next to its place and then moved there, and has a checksum of its arrays, so that a truncated or
damaged one is written again. The folder may be emptied at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from adapeff.service.specs.job import canonical_json
from adapeff.worker.families.base import Family
from adapeff.worker.families.encoding import Encoded

FORMAT = 1
logger = logging.getLogger("adapeff.cache")


class TokenCache:
    """A folder of tokenised splits; without a folder everything is tokenised every time."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._tokenizers: dict[int, tuple[Any, dict[str, Any]]] = {}
        self.tokenised_examples = 0
        """How many examples were tokenised because no file had them."""

    def encode(self, family: Family, examples: Sequence[Any], tokenizer: Any) -> Encoded:
        """The tokens of the examples, from a file if there is a valid one."""

        def make() -> Encoded:
            self.tokenised_examples += len(examples)
            return family.encode(examples, tokenizer)

        if self._folder is None:
            return make()
        key = content_key(family, examples, self._content_of(tokenizer))
        file = self._folder / f"{key}.safetensors"
        try:
            with _locked(file.with_suffix(".lock")):
                found = _load(file)
                if found is None:
                    _store(make(), file)
                    found = _load(file)
        except OSError as error:  # a full or read-only disk must not end a run that does not need it
            logger.warning("no cache at %s (%s); tokenising without it", self._folder, error.strerror)
            found = None
        return make() if found is None else found

    def _content_of(self, tokenizer: Any) -> dict[str, Any]:
        """A tokenizer is read once: a vocabulary of 250,000 takes most of a second."""
        if id(tokenizer) not in self._tokenizers:
            self._tokenizers[id(tokenizer)] = tokenizer, tokenizer_content(tokenizer)
        return self._tokenizers[id(tokenizer)][1]


def content_key(family: Family, examples: Sequence[Any], tokenizer: Mapping[str, Any]) -> str:
    """SHA-256 over what determines the tokens: examples, tokenizer (its content), preprocessing, versions."""
    digest = hashlib.sha256()
    versions = [FORMAT, tokenizers.__version__, transformers.__version__]
    digest.update(canonical_json([versions, family.preprocessing, dict(tokenizer)]).encode())
    for example in examples:
        digest.update(repr(tuple(example)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def tokenizer_content(tokenizer: Any) -> dict[str, Any]:
    """A tokenizer's content, independent of its last call (truncation and padding are set by each call)."""
    asked = ("model_input_names", "truncation_side", "padding_side", "pad_token_type_id", "split_special_tokens")
    settings = {
        "class": type(tokenizer).__name__,
        "special": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        **{name: getattr(tokenizer, name, None) for name in asked},
    }
    if not tokenizer.is_fast:
        return {**settings, "vocabulary": sorted(tokenizer.get_vocab().items()), "files": repr(tokenizer.init_kwargs)}
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.update(truncation=None, padding=None)
    return {**settings, "content": hashlib.sha256(canonical_json(content).encode()).hexdigest()}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _parts(data: Encoded) -> Iterator[tuple[str, torch.Tensor]]:
    yield "row_starts", data.row_starts
    yield "item_starts", data.item_starts
    for group in ("inputs", "token_targets", "item_targets"):
        for name, tensor in getattr(data, group).items():
            yield f"{group}.{name}", tensor


def _checksum(tensors: Mapping[str, torch.Tensor], padding: str) -> str:
    digest = hashlib.sha256(padding.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()


def _store(data: Encoded, file: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in _parts(data)}
    padding = json.dumps(dict(data.padding))
    about = {"padding": padding, "checksum": _checksum(tensors, padding)}
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        written = Path(folder) / file.name
        try:
            save_file(tensors, written, metadata=about)
        except SafetensorError as error:  # what it raises on a full disk
            raise OSError(0, str(error)) from error
        written.replace(file)


def _load(file: Path) -> Encoded | None:
    """The file's tensors, memory-mapped; None if there is no valid file."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        if _checksum(tensors, about["padding"]) != about["checksum"]:
            raise ValueError("its checksum is wrong")
        return _encoded(tensors, json.loads(about["padding"]))
    except (SafetensorError, KeyError, ValueError) as error:
        logger.warning("cache file %s is damaged (%s); it is written again", file, error)
        return None


def _encoded(tensors: Mapping[str, torch.Tensor], padding: dict[str, int]) -> Encoded:
    def group(name: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}

    return Encoded(
        inputs=group("inputs"),
        row_starts=tensors["row_starts"],
        item_starts=tensors["item_starts"],
        token_targets=group("token_targets"),
        item_targets=group("item_targets"),
        padding=padding,
    )

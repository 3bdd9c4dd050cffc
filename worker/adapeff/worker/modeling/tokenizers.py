"""Load a model's tokenizer and reject one that does not match the model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from adapeff.service.errors import ModelError, NotHereError
from adapeff.service.specs.model_reference import ModelReference, model_folder
from adapeff.worker.modeling.configurations import SAFE, read_config, unloadable


def load_tokenizer(reference: ModelReference, tokenizer_options: Mapping[str, Any] | None = None) -> Any:
    """Load a model's tokenizer and check that it matches the configuration.

    Args:
        tokenizer_options: options that the task's family requires.

    Raises:
        ModelError: if it cannot be loaded or does not match the model.
        NotHereError: if a package that it needs is not installed.
    """
    place, revision = str(model_folder(reference.name) or reference.name), reference.revision or "main"
    config = read_config(place, str(reference), revision=revision)
    if missing := _missing_for_pieces(place):
        raise NotHereError(
            f"the tokenizer of model '{reference}' is a SentencePiece file, which needs {' and '.join(missing)}; "
            "run pip install 'adapeff[worker]'"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, **SAFE, **(tokenizer_options or {}))
        file = cached_file(place, "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    except Exception as error:
        raise unloadable(f"the tokenizer of model '{reference}'", error) from error
    check_tokenizer(tokenizer, config, str(reference))
    _check_backend(tokenizer, file, str(reference))
    return tokenizer


def _missing_for_pieces(place: str) -> list[str]:
    """The packages that are missing to read a SentencePiece model, where a folder has no other form of tokenizer."""
    folder = Path(place)
    if not any(folder.glob("*.model")) or (folder / "tokenizer.json").is_file():
        return []
    packages = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
    return [package for package, module in packages.items() if not _is_installed(module)]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


_PROBE = ["the", "a", "e", "i", "0", "1", "я", "е", "ا", "的", "一", "の", "क"]
"""Words and letters of several scripts; any tokenizer with a vocabulary knows at least one."""


def check_tokenizer(tokenizer: Any, config: Any, name: str) -> None:
    """Reject a tokenizer that does not match the model.

    Raises:
        ModelError: if it has no vocabulary (transformers makes an empty one if its files are missing), has ids
            without an embedding in the model, or splits text differently from its tokenizer.json.
    """
    known = {token for text in _PROBE for token in tokenizer(text, add_special_tokens=False)["input_ids"]}
    if known <= set(tokenizer.all_special_ids):
        raise ModelError(f"the tokenizer of model '{name}' knows no words: its vocabulary files are missing or empty")
    highest, rows = max(tokenizer.get_vocab().values()), int(config.vocab_size)
    if highest >= rows:
        raise ModelError(
            f"the tokenizer of model '{name}' gives ids up to {highest}, but the model has {rows} embeddings "
            "(vocab_size); resize the embeddings, or take the tokenizer that the model was trained with"
        )


_BUILT_FROM_IT = ("PreTrainedTokenizerFast", "TokenizersBackend")
_SAMPLE = "Hello, WORLD! Élan's 3rd naïve café -- don't (x_1)"


def _check_backend(tokenizer: Any, file: str | None, name: str) -> None:
    """Compare a tokenizer with its tokenizer.json: transformers rebuilds some classes and drops what they lack.

    Raises:
        ModelError: if they split a sample of cases, accents and punctuation differently.
    """
    if file is None or not tokenizer.is_fast or type(tokenizer).__name__ in _BUILT_FROM_IT:
        return
    backend = Tokenizer.from_file(file)
    backend.no_padding()
    backend.no_truncation()
    expected = [backend.encode(text, add_special_tokens=False).ids for text in (_SAMPLE, f" {_SAMPLE}")]
    if tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"] not in expected:  # the second: with `add_prefix_space`
        raise ModelError(
            f"the tokenizer of model '{name}' reads text otherwise as {type(tokenizer).__name__} than its "
            "tokenizer.json says (upper case, accents or pieces); in its tokenizer_config.json set tokenizer_class to "
            "PreTrainedTokenizerFast, or do_lower_case to what it was trained with"
        )

"""Load an encoder with its tokenizer, and put a family's head on it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import find_adapter_config_file
from transformers.utils.hub import cached_file, extract_commit_hash

from adapeff.service.errors import AdapeffError, ModelError, NotHereError, first_line
from adapeff.service.plugins.contracts import Method
from adapeff.service.specs.model_reference import (
    ADAPTER_FILE,
    LEFTOVER_ADAPTER,
    ModelReference,
    model_folder,
    resolve_model,
)
from adapeff.worker.families.base import Family
from adapeff.worker.hub_access import prepare_hub
from adapeff.worker.modeling.encoders import (
    check_encoder,
    drop_pooler,
    examine,
    give_global_attention,
    model_inputs,
    position_count,
    prepare_config,
)


@dataclass(frozen=True)
class LoadedModel:
    """An encoder in fp32 on the CPU, without its pooler."""

    encoder: nn.Module
    tokenizer: Any
    hidden_size: int
    max_positions: int
    revision: str
    """The commit of a hub model, the content fingerprint of a local one."""


def load_model(reference: ModelReference, tokenizer_options: Mapping[str, Any] | None = None) -> LoadedModel:
    """Load what a job's reference names, never running code that comes with it.

    Args:
        tokenizer_options: what the task's family asks of the tokenizer.

    Raises:
        NotHereError: if a local one is not on this host, or another than was submitted.
        ModelError: if it cannot be loaded whole, is no encoder, or needs its own code.
    """
    folder = None
    if reference.source == "folder":
        try:
            folder, found = model_folder(reference.name), resolve_model(reference.name)
        except AdapeffError as error:
            raise NotHereError(str(error)) from error
        if folder is None or found.fingerprint != reference.fingerprint:
            raise NotHereError(
                f"model '{reference.name}' here has the fingerprint {str(found.fingerprint)[:12]}, but the job was "
                f"submitted with {str(reference.fingerprint)[:12]}; give every host the same files"
            )
    place = str(folder) if folder else reference.name
    revision = reference.revision or "main"
    config = read_config(place, str(reference), revision=revision)
    _refuse_adapter(place, revision, str(reference))
    tokenizer = load_tokenizer(reference, tokenizer_options)
    encoder = load_encoder(place, config, reference)
    give_global_attention(encoder)
    encoder = drop_pooler(encoder)
    hidden_size = examine(encoder, str(reference))
    tokenizer.model_input_names = list(model_inputs(encoder))
    return LoadedModel(
        encoder=encoder,
        tokenizer=tokenizer,
        hidden_size=hidden_size,
        max_positions=min(position_count(encoder), int(min(tokenizer.model_max_length, 10**6))),
        revision=reference.fingerprint or _commit(place, reference),
    )


def load_encoder(place: str, config: Any, reference: ModelReference) -> Any:
    """The encoder with its weights in fp32, all of them and no others.

    Raises:
        ModelError, NotHereError: if it cannot be loaded, or not so.
    """
    options = {"revision": reference.revision or "main", **_SAFE}
    try:
        encoder, loading = AutoModel.from_pretrained(
            place, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except Exception as error:
        raise unloadable(f"model '{reference}'", error) from error
    check_weights(loading, str(reference))
    check_numbers(encoder, place, str(reference))
    return encoder


_SAFE: dict[str, Any] = {"trust_remote_code": False}
"""Everywhere: code that comes with a model is never run."""


def read_config(place: str, name: str, *, revision: str = "main") -> Any:
    """A model's configuration, if it is an encoder's.

    Args:
        place: a folder or a hub id.
        name: what to call the model in messages.

    Raises:
        ModelError: if it cannot be read, is no encoder's, or holds sizes that cannot be meant.
    """
    if not Path(place).is_dir():
        prepare_hub()
    try:
        config = AutoConfig.from_pretrained(place, revision=revision, **_SAFE)
    except Exception as error:
        raise unloadable(f"the configuration of model '{name}'", error) from error
    check_encoder(config, name)
    return prepare_config(config)


def unloadable(what: str, error: Exception) -> Exception:
    """The error for what transformers cannot load; lack of memory stays what it is, and it raises all kinds besides."""
    if isinstance(error, MemoryError | AdapeffError):
        return error
    line = first_line(error)
    needs = "`pip install" in str(error) and "--upgrade transformers" not in str(error)
    if isinstance(error, ImportError) or needs:
        return NotHereError(f"{what} needs a package that is not installed: {line}")
    if "couldn't connect to" in line.lower() or isinstance(error, ConnectionError):
        return NotHereError(f"{what} is not kept on this host, and the hub cannot be reached: {line}")
    hint = " (check the name, the revision and the connection)" if isinstance(error, OSError) else ""
    return ModelError(f"{what} cannot be loaded: {line}{hint}")


_WHOLE_NUMBERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")


def check_numbers(encoder: Any, place: str, name: str) -> None:
    """Refuse weights that are no numbers to go on from: quantised ones, which need a scale, and infinite ones.

    Raises:
        ModelError: naming the first tensor.
    """
    parameters = dict(encoder.named_parameters())
    for file in sorted(Path(place).glob("*.safetensors")) if Path(place).is_dir() else ():
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - it is no mapping
                kind = opened.get_slice(key).get_dtype()
                if kind in _WHOLE_NUMBERS and any(key.endswith(known) for known in parameters):
                    raise ModelError(
                        f"the weights of model '{name}' hold {key} as {kind}: they are quantised; take the model in "
                        "float32, float16 or bfloat16"
                    )
    for key, parameter in parameters.items():
        if not parameter.isfinite().all():
            raise ModelError(f"the weights of model '{name}' hold numbers that are not finite, in {key}")


_IN_A_LAYER = re.compile(r"(^|\.)(layers?|blocks?|h|groups)\.\d+\.")
_POOLER = re.compile(r"(^|\.)pooler\.")


def check_weights(loading: Mapping[str, Iterable[Any]], name: str) -> None:
    """Refuse a model whose file does not hold exactly the encoder: transformers would draw what is missing at random.

    A pooler may be missing, since it is never used, and heads may be left over; layers and adapters may not.

    Args:
        loading: what `from_pretrained` tells of the loading.

    Raises:
        ModelError: naming the first tensors.
    """
    missing = sorted(key for key in loading["missing_keys"] if not _POOLER.search(key))
    left_over = sorted(loading["unexpected_keys"])
    unused = [key for key in left_over if _IN_A_LAYER.search(key)]
    shapes = sorted(f"{key} is {list(there)}, not {list(wanted)}" for key, there, wanted in loading["mismatched_keys"])
    if shapes:
        raise ModelError(
            f"the weights of model '{name}' have other shapes than its config.json asks for: {_few(shapes)}"
        )
    if missing:
        others = f"; the file holds others, such as {left_over[0]}" if left_over else ""
        raise ModelError(
            f"the weights of model '{name}' lack {len(missing)} tensors: {_few(missing)}{others}; save the model again "
            "with save_pretrained of its own class"
        )
    if unused:
        raise ModelError(
            f"the weights of model '{name}' hold {len(unused)} tensors that its config.json has no place for: "
            f"{_few(unused)}; correct the configuration (number of layers, adapters), or save the model again"
        )


_PROBE = ["the", "a", "e", "i", "0", "1", "я", "е", "ا", "的", "一", "の", "क"]
"""Words and letters of several scripts: a tokenizer with a vocabulary knows at least one of them."""


def check_tokenizer(tokenizer: Any, config: Any, name: str) -> None:
    """Refuse a tokenizer that does not go with the model.

    Raises:
        ModelError: if it has no vocabulary (transformers makes an empty one where its files are missing), gives ids
            that the model has no embedding for, or reads text otherwise than its tokenizer.json says.
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
    """Hold a tokenizer against its tokenizer.json: transformers builds some classes anew, and drops what they lack.

    Raises:
        ModelError: if they read a sample of cases, accents and punctuation otherwise.
    """
    if file is None or not tokenizer.is_fast or type(tokenizer).__name__ in _BUILT_FROM_IT:
        return
    backend = Tokenizer.from_file(file)
    backend.no_padding()
    backend.no_truncation()
    said = [backend.encode(text, add_special_tokens=False).ids for text in (_SAMPLE, f" {_SAMPLE}")]
    if tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"] not in said:  # the second: with `add_prefix_space`
        raise ModelError(
            f"the tokenizer of model '{name}' reads text otherwise as {type(tokenizer).__name__} than its "
            "tokenizer.json says (upper case, accents or pieces); in its tokenizer_config.json set tokenizer_class to "
            "PreTrainedTokenizerFast, or do_lower_case to what it was trained with"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _refuse_adapter(place: str, revision: str, name: str) -> None:
    """Refuse a model with an adapter beside it, which transformers would load into it unasked.

    Raises:
        ModelError: naming the file.
    """
    if find_adapter_config_file(place, revision=revision) is not None:
        raise ModelError(f"model '{name}' has {ADAPTER_FILE} beside its weights: {LEFTOVER_ADAPTER}")


def import_architecture(reference: ModelReference) -> None:
    """Import the code of a model's architecture, so that memory measured from then on is not that of code.

    Nothing happens where the model cannot be read; loading it says why.
    """
    with suppress(Exception), torch.device("meta"):
        place = str(model_folder(reference.name) or reference.name)
        AutoModel.from_config(read_config(place, str(reference), revision=reference.revision or "main"))


def load_tokenizer(reference: ModelReference, tokenizer_options: Mapping[str, Any] | None = None) -> Any:
    """A model's tokenizer, that goes with its configuration.

    Args:
        tokenizer_options: what the task's family asks of the tokenizer.

    Raises:
        ModelError: if it cannot be loaded, or does not go with the model.
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
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, **_SAFE, **(tokenizer_options or {}))
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


def _commit(name: str, reference: ModelReference) -> str:
    """The commit a hub model was loaded from, as the cache files it under, else the revision asked for."""
    file = cached_file(name, "config.json", revision=reference.revision or "main")
    return extract_commit_hash(file, None) or reference.revision or "unknown"


class TaskModel(nn.Module):
    """An adapted encoder and the head of a task."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.encoder(**inputs).last_hidden_state)
        return logits


def build_model(loaded: LoadedModel, method: Method, family: Family, *, seed: int) -> TaskModel:
    """Adapt the encoder and put the family's head on it.

    The head and the method's weights are drawn from seeds of their own, so that every method of a comparison starts
    from the same head.
    """
    torch.manual_seed(seed)
    head = family.make_head(loaded.hidden_size)
    torch.manual_seed(seed + 1)
    return TaskModel(method.attach(loaded.encoder), head)


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by what they are for; `total` counts every one once, head included."""

    trainable_method: int
    trainable_head: int
    total: int

    @property
    def trainable(self) -> int:
        """What the optimizer moves."""
        return self.trainable_method + self.trainable_head


def count_parameters(model: TaskModel) -> ParameterCounts:
    """Count what is trained, apart for method and head, and what there is."""

    def trainable(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

    return ParameterCounts(
        trainable_method=trainable(model.encoder),
        trainable_head=trainable(model.head),
        total=sum(parameter.numel() for parameter in model.parameters()),
    )


def trained_state(model: TaskModel) -> dict[str, torch.Tensor]:
    """What must be kept of a task: every trainable tensor by name, detached, on its device."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}

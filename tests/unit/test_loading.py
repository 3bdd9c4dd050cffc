"""Loading a model: what its folder holds is what is loaded, or one line says what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from adapeff.service import references
from adapeff.service.errors import AdapeffError, ModelError
from adapeff.service.references import resolve_model
from adapeff.worker.models import load_model

Spoil = Callable[[Path], object]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    return copy


def rename(change: Callable[[str], str | None]) -> Spoil:
    """Rename the tensors of a model; those that become None are left out."""

    def spoil(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = {new: tensor for name, tensor in load_file(file).items() if (new := change(name))}
        save_file(tensors, file, metadata={"format": "pt"})

    return spoil


def configure(**changes: Any) -> Spoil:
    """Change the model's configuration."""

    def spoil(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return spoil


def without(*beginnings: str) -> Spoil:
    """Take files away."""

    def spoil(folder: Path) -> None:
        for file in folder.iterdir():
            if file.name.startswith(beginnings):
                file.unlink()

    return spoil


def longer_vocabulary(folder: Path) -> None:
    """A tokenizer with a token that the model has no embedding for."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["unheardof"])
    tokenizer.save_pretrained(folder)


def indexed(part: str) -> Spoil:
    """Weights in a part that an index names."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (rename(lambda name: f"module.bert.{name}"), "lack .* tensors: .*holds others, such as module.bert"),
        (rename(lambda name: None if "layer.1." in name else name), r"lack 16 tensors: encoder.layer.1\."),
        (configure(num_hidden_layers=3), r"lack 16 tensors: encoder.layer.2\."),
        (configure(num_hidden_layers=1), "hold 16 tensors that its config.json has no place for: encoder.layer.1"),
        (rename(lambda name: f"{name}.lora_A" if "query.weight" in name else name), "lack 2 tensors"),
        (configure(intermediate_size=48), r"other shapes than .*\[64\], not \[48\]"),
        (configure(vocab_size=999), "word_embeddings.weight is"),
        (without("tokenizer", "vocab", "special_tokens"), "knows no words"),
        (longer_vocabulary, "gives ids up to"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter would be loaded with the model"),
        (without("model.safetensors"), "holds no weights"),
        (
            indexed("../elsewhere.safetensors"),
            "weight file '../elsewhere.safetensors', expected a file beside",
        ),
        (indexed("/etc/passwd"), "names the weight file '/etc/passwd'"),
        (indexed("absent.safetensors"), "names the weight file 'absent.safetensors'"),
    ],
    ids=[
        *("prefixed", "layer absent", "more layers", "fewer layers", "renamed", "narrower", "more words"),
        *("no vocabulary", "more ids than embeddings", "adapter beside", "no weights"),
        *("index outside", "index absolute", "index absent"),
    ],
)
def test_model_that_is_not_what_it_says_is_refused_in_one_line(folder: Path, spoil: Spoil, said: str) -> None:
    spoil(folder)

    with pytest.raises(ModelError, match=said) as refused:
        load_model(resolve_model(str(folder)))

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "spoil",
    [rename(lambda name: f"bert.{name}"), rename(lambda name: None if "pooler" in name else name)],
    ids=["prefix", "no pooler"],
)
def test_prefix_of_a_class_with_a_head_and_an_absent_pooler_do_no_harm(folder: Path, spoil: Spoil) -> None:
    spoil(folder)

    load_model(resolve_model(str(folder)))


def test_weights_of_another_framework_alone_are_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.bin")

    with pytest.raises(ModelError, match="holds no weights"):
        resolve_model(str(folder))


def test_every_file_that_a_tokenizer_reads_is_in_the_fingerprint(tmp_path: Path) -> None:
    """The names are the library's own."""
    import transformers

    kinds = {getattr(transformers, str(name), None) for name in TOKENIZER_MAPPING_NAMES.values() if name}
    names = {file for kind in kinds for file in (getattr(kind, "vocab_files_names", None) or {}).values()}
    assert len(names) > 10

    missed = [name for name in names if not any((tmp_path / name).match(p) for p in references._MODEL_FILES)]

    assert missed == []


def test_fingerprint_follows_an_index(folder: Path) -> None:
    indexed("model-00001-of-00001.safetensors")(folder)
    before = resolve_model(str(folder)).fingerprint
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("{}", '{"total_size": 1}'))
    references._folder_fingerprint.cache_clear()

    assert resolve_model(str(folder)).fingerprint != before


def test_hub_model_is_never_loaded_with_an_adapter(folder: Path) -> None:
    """What the check of a folder does for local models, loading does for all."""
    from adapeff.worker.models import _refuse_adapter

    _refuse_adapter(str(folder), "main", "org/model")
    (folder / "adapter_config.json").write_text("{}")

    with pytest.raises(AdapeffError, match=r"org/model' has adapter_config\.json"):
        _refuse_adapter(str(folder), "main", "org/model")

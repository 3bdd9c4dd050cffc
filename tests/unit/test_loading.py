"""Loading a model: what its folder holds is what is loaded, or one line says what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from adapeff.service.errors import AdapeffError, ModelError
from adapeff.service.specs import model_reference
from adapeff.service.specs.model_reference import resolve_model
from adapeff.worker.modeling.encoders import position_count
from adapeff.worker.modeling.models import load_model

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


def store_as(change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    """Change the weights of the first query."""

    def spoil(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        name = next(key for key in tensors if "query.weight" in key)
        save_file({**tensors, name: change(tensors[name])}, file, metadata={"format": "pt"})

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
        (without("model.safetensors"), "contains no weights"),
        (
            indexed("../elsewhere.safetensors"),
            "weight file '../elsewhere.safetensors', expected a file in the same folder",
        ),
        (indexed("/etc/passwd"), "names the weight file '/etc/passwd'"),
        (indexed("absent.safetensors"), "names the weight file 'absent.safetensors'"),
        (store_as(lambda weights: (weights * 100).to(torch.int8)), "query.weight as I8: they are quantised"),
        (store_as(lambda weights: weights * torch.nan), r"not finite, in encoder.layer.0.attention.self.query.weight"),
    ],
    ids=[
        *("prefixed", "layer absent", "more layers", "fewer layers", "renamed", "narrower", "more words"),
        *("no vocabulary", "more ids than embeddings", "adapter beside", "no weights"),
        *("index outside", "index absolute", "index absent", "quantised", "not finite"),
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
    stored = {key: tensor for key, tensor in load_file(folder / "model.safetensors").items() if "pooler" not in key}
    spoil(folder)

    loaded = load_model(resolve_model(str(folder))).encoder.state_dict()

    assert all(torch.equal(loaded[key], tensor) for key, tensor in stored.items())


def test_weights_of_another_framework_alone_are_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.bin")

    with pytest.raises(ModelError, match="contains no weights"):
        resolve_model(str(folder))


def test_every_file_that_a_tokenizer_reads_is_in_the_fingerprint(tmp_path: Path) -> None:
    """The names are the library's own."""
    import transformers

    kinds = {getattr(transformers, str(name), None) for name in TOKENIZER_MAPPING_NAMES.values() if name}
    names = {file for kind in kinds for file in (getattr(kind, "vocab_files_names", None) or {}).values()}
    assert len(names) > 10

    missed = [name for name in names if not any((tmp_path / name).match(p) for p in model_reference._MODEL_FILES)]

    assert missed == []


def test_fingerprint_follows_an_index(folder: Path) -> None:
    indexed("model-00001-of-00001.safetensors")(folder)
    before = resolve_model(str(folder)).fingerprint
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("{}", '{"total_size": 1}'))
    model_reference._folder_fingerprint.cache_clear()

    assert resolve_model(str(folder)).fingerprint != before


def test_hub_model_is_never_loaded_with_an_adapter(folder: Path) -> None:
    """What the check of a folder does for local models, loading does for all."""
    from adapeff.worker.modeling.weight_checks import refuse_adapter

    refuse_adapter(str(folder), "main", "org/model")
    (folder / "adapter_config.json").write_text("{}")

    with pytest.raises(AdapeffError, match=r"org/model' has adapter_config\.json"):
        refuse_adapter(str(folder), "main", "org/model")


def tokenizer_says(**changes: Any) -> Spoil:
    """Change tokenizer_config.json."""

    def spoil(folder: Path) -> None:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return spoil


def cased(folder: Path) -> None:
    """A tokenizer.json that keeps upper case, whatever the class would do by default."""
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": None}))


def test_tokenizer_that_is_not_what_its_file_says_is_refused(folder: Path) -> None:
    load_model(resolve_model(str(folder)))
    cased(folder)
    model_reference._folder_fingerprint.cache_clear()

    with pytest.raises(ModelError, match="reads text otherwise as BertTokenizer"):
        load_model(resolve_model(str(folder)))


@pytest.mark.parametrize("kind", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_segments_are_given_to_models_that_have_them_whatever_the_tokenizers_class(folder: Path, kind: str) -> None:
    """Without them the two texts of a pair would be told apart by the separator alone."""
    tokenizer_says(tokenizer_class=kind)(folder)
    pair = load_model(resolve_model(str(folder))).tokenizer("good film", "bad film")

    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1][: len(pair["input_ids"])]
    assert sum(pair["token_type_ids"]) > 0


def test_model_with_one_segment_type_is_given_none(tiny_model: Path, folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["embeddings.token_type_embeddings.weight"] = tensors["embeddings.token_type_embeddings.weight"][:1].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    configure(type_vocab_size=1)(folder)

    assert "token_type_ids" not in load_model(resolve_model(str(folder))).tokenizer("good", "bad")


def test_tokenizer_without_a_pad_token_pads_with_what_is_masked(folder: Path) -> None:
    from adapeff.service.specs.job import Training
    from adapeff.worker.families.encoding import collate
    from adapeff.worker.families.sequences import Example, SequenceClassification

    tokenizer = load_model(resolve_model(str(folder))).tokenizer
    tokenizer.pad_token = None
    family = SequenceClassification(("a", "b"), Training(learning_rate=1))
    data = family.encode([Example("1", "good", None, 0), Example("2", "good good film", None, 1)], tokenizer)

    batch = collate(data, [0, 1])

    assert batch.inputs["input_ids"][0].tolist()[-2:] == [0, 0]
    assert batch.inputs["attention_mask"][0].tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_decoder": True}, "makes it a decoder"),
        ({"model_type": "gpt2"}, "is of type gpt2, which is not an encoder"),
        ({"model_type": "fnet"}, "ignores the attention mask"),
        ({"hidden_size": 10**9}, "says hidden_size: 1,000,000,000, expected 1 to"),
        ({"max_position_embeddings": 10**12}, "says max_position_embeddings: 1,000,000,000,000, expected at most"),
        ({"type_vocab_size": 10**12}, "says type_vocab_size: 1,000,000,000,000, expected at most"),
        ({"max_position_embeddings": 10**8, "hidden_size": 10**5}, "asks for about .* parameters"),
        ({"attn_implementation": "someone/kernel"}, "asks for attention from the hub"),
        ({"num_hidden_layers": 10**6}, "says num_hidden_layers: 1,000,000"),
        ({"hidden_size": 10**6, "intermediate_size": 10**7}, "asks for about .* parameters"),
    ],
)
def test_configuration_that_is_no_encoders_is_refused_before_anything_is_built(
    folder: Path, changes: dict[str, Any], said: str
) -> None:
    configure(**changes)(folder)

    with pytest.raises(ModelError, match=said):
        load_model(resolve_model(str(folder)))


@pytest.mark.parametrize(
    ("kind", "config", "positions"),
    [
        ("Bert", {}, 64),
        ("Roberta", {"pad_token_id": 1}, 62),
        ("Data2VecText", {"pad_token_id": 1}, 62),
        ("XLMRobertaXL", {"pad_token_id": 1}, 62),
        ("RobertaPreLayerNorm", {"pad_token_id": 1}, 62),
        ("Xmod", {"pad_token_id": 1, "languages": ["en_XX"], "default_language": "en_XX"}, 62),
        ("MPNet", {"pad_token_id": 1}, 62),
        ("ModernBert", {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}, 64),
    ],
)
def test_positions_are_those_that_the_table_takes(kind: str, config: dict[str, Any], positions: int) -> None:
    """Held against the model itself: that many tokens run, and where there is a table one more does not."""
    import torch
    import transformers

    size = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    size |= {"intermediate_size": 64, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 3}
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**size, **config)).eval()

    assert position_count(model) == positions
    with torch.no_grad():
        model(input_ids=torch.full((1, positions), 7), attention_mask=torch.ones(1, positions, dtype=torch.long))
        if kind != "ModernBert":
            with pytest.raises(Exception, match=r"out of (range|bounds)|size of tensor|must match|expanded size"):
                model(input_ids=torch.full((1, positions + 1), 7))

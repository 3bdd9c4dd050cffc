"""Tiny random encoders of each supported architecture, and what tests do with them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from adapeff.service.plugins.catalog import get_method
from adapeff.service.plugins.plugin_reference import parse_plugin
from adapeff.worker.families.heads import ClassificationHead
from adapeff.worker.modeling.models import TaskModel, trained_state
from adapeff.worker.modeling.weights import WEIGHTS, describe

HIDDEN, LAYERS, LABELS, WIDE = 32, 2, 3, 64
SIZE = {
    "vocab_size": 100,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": WIDE,
    "max_position_embeddings": 64,
}
DISTIL = {"vocab_size": 100, "dim": HIDDEN, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": WIDE}
DISENTANGLED: dict[str, Any] = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SIZE), add_pooling_layer=False),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**SIZE), add_pooling_layer=False),
    "xlm-roberta": lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**SIZE), add_pooling_layer=False),
    "electra": lambda: transformers.ElectraModel(transformers.ElectraConfig(**SIZE, embedding_size=16)),
    "mpnet": lambda: transformers.MPNetModel(transformers.MPNetConfig(**SIZE), add_pooling_layer=False),
    "distilbert": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(**DISTIL, max_position_embeddings=64)
    ),
    "deberta-v2": lambda: transformers.DebertaV2Model(transformers.DebertaV2Config(**SIZE, **DISENTANGLED)),
    "modernbert": lambda: transformers.ModernBertModel(
        transformers.ModernBertConfig(
            **SIZE, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, local_attention=8
        )
    ),
}
"""Architecture -> a new random encoder without pooler."""


def make_encoder(architecture: str) -> nn.Module:
    """The same random encoder each time; no bias is zero, so that what depends on one shows."""
    torch.manual_seed(0)
    encoder = ENCODERS[architecture]()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.02)
    return encoder


def adapt(method: str, architecture: str) -> tuple[TaskModel, nn.Module]:
    """A classifier adapted by a method as a sweep writes it, such as `lora[rank=2]`, and its untouched base."""
    encoder = make_encoder(architecture)
    base = copy.deepcopy(encoder).eval()
    reference = parse_plugin(method)
    torch.manual_seed(1)
    adapted = get_method(reference.name, reference.parameters).attach(encoder)
    return TaskModel(adapted, ClassificationHead(HIDDEN, LABELS, 0.1)), base


def batch() -> dict[str, torch.Tensor]:
    """Four sequences of seven tokens, one padded."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(4, 7, dtype=torch.long)
    mask[0, 4:] = 0
    ids = torch.randint(5, 100, (4, 7), generator=draw)
    ids[:, 0] = 2  # as a special token that starts every sequence
    return {"input_ids": ids, "attention_mask": mask}


def store(folder: Path, method: str, architecture: str) -> str:
    """Train a little, leave the weights in a folder as a run does, and give its path."""
    model, _ = adapt(method, architecture)
    take_steps(model)
    reference = parse_plugin(method)
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in trained_state(model).items()}
    description = describe(method=reference.name, parameters=reference.parameters, model="tiny", task="t")
    save_file(state, folder / WEIGHTS, metadata=description)
    return str(folder)


def loss_of(model: TaskModel) -> torch.Tensor:
    """Cross entropy on the batch."""
    return nn.functional.cross_entropy(model(batch()).float(), torch.tensor([0, 1, 2, 0]))


def take_steps(model: TaskModel, count: int = 3) -> None:
    """Some optimizer steps on one batch; without weight decay, what moves has a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05, weight_decay=0.0)
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

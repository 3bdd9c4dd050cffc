"""The heads: the same for every method of a comparison, never the model's own pooler."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class ClassificationHead(nn.Module):
    """Dropout, dense + tanh, linear on the first token.

    Takes hidden states, rows x length x hidden; gives logits, rows x labels. (hidden + 1) * hidden + (hidden + 1) *
    labels parameters.
    """

    def __init__(self, hidden_size: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, labels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(torch.tanh(self.dense(self.dropout(hidden_states[:, 0]))))
        return logits


class TokenHead(nn.Module):
    """Dropout, linear on every token: tags, and the starts and ends of spans (Devlin et al. 2019, sections 4.2, 5.3).

    Takes hidden states, rows x length x hidden; gives logits, rows x length x labels. (hidden + 1) * labels parameters.
    """

    def __init__(self, hidden_size: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, labels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.dropout(hidden_states))
        return logits


def head_from_state(state: Mapping[str, torch.Tensor]) -> nn.Module | None:
    """The head whose tensors these are, without dropout; None if they belong to no head."""
    kinds = {("dense.bias", "dense.weight", "out.bias", "out.weight"): ClassificationHead,
             ("out.bias", "out.weight"): TokenHead}  # fmt: skip
    kind = kinds.get(tuple(sorted(state)))
    if kind is None:
        return None
    labels, hidden = state["out.weight"].shape
    head = kind(hidden, labels, 0.0)
    head.load_state_dict(dict(state))
    return head

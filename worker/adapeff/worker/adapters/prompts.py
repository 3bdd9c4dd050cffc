"""Wrappers that give PEFT's prompt tuning an encoder's outputs: one hidden state per token of the text."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModelForFeatureExtraction
from torch import nn

from adapeff.service.errors import ModelError
from adapeff.worker.modeling.encoders import position_count


class OneTaskPrompt(PeftModelForFeatureExtraction):  # type: ignore[misc]  # peft ships no types
    """Multi-task prompt tuning with one task; PEFT's own class for encoders passes no task on."""

    def get_prompt(self, batch_size: int, **options: Any) -> torch.Tensor:
        """The prompt of task 0 for every example."""
        tasks = torch.zeros(batch_size, dtype=torch.long, device=next(self.parameters()).device)
        prompt: torch.Tensor = super().get_prompt(batch_size, **{**options, "task_ids": tasks})
        return prompt


class OneTask(nn.Module):
    """A tuner that routes by task, with task 0 for every example."""

    def __init__(self, adapted: nn.Module) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
        return self.adapted(input_ids=input_ids, task_ids=input_ids.new_zeros(len(input_ids)), **inputs)


class WithoutPrompt(nn.Module):
    """PEFT's prompt learning without the virtual tokens' states, so that position 0 is the text's first token.

    PEFT passes no segment ids to such models: only the separator tells the two texts of a pair apart.
    """

    def __init__(self, adapted: Any, *, adds_tokens: bool) -> None:
        super().__init__()
        self.adapted = adapted
        self._virtual = int(adapted.active_peft_config.num_virtual_tokens)
        self._adds_tokens = adds_tokens
        self._positions = position_count(adapted)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs: Any) -> Any:
        if input_ids.shape[1] + self._virtual > self._positions:
            raise ModelError(
                f"an input has {input_ids.shape[1]} tokens, but with {self._virtual} virtual tokens at most "
                f"{self._positions - self._virtual} fit the model's positions; lower max_length"
            )
        inputs.pop("token_type_ids", None)
        output = self.adapted(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        if self._adds_tokens:
            output.last_hidden_state = output.last_hidden_state[:, self._virtual :]
        return output

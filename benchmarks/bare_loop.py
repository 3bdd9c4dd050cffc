"""A training loop in plain PyTorch, independent of adapeff: the baseline of the harness's overhead.

It takes ready batches (dictionaries of tensors and labels) and a model, and does what any script would do: AdamW with
linear warm-up and decay, clipping, one step a batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import nn

Batches = Iterable[tuple[dict[str, torch.Tensor], torch.Tensor]]


def bare_loop(
    encoder: nn.Module,
    head: nn.Module,
    batches: Batches,
    *,
    steps: int,
    learning_rate: float,
    warmup_ratio: float = 0.1,
    weight_decay: float = 0.01,
    fused: bool = True,
) -> tuple[list[float], float]:
    """Train; gives the loss of every step, and the seconds of the whole loop, fetching batches too."""
    parameters = [p for p in (*encoder.parameters(), *head.parameters()) if p.requires_grad]
    decayed = [p for p in parameters if p.dim() > 1]
    plain = [p for p in parameters if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=learning_rate,
        fused=fused,
    )
    warmup = round(warmup_ratio * steps)
    encoder.train()
    head.train()
    losses = []
    started = time.perf_counter()
    for step, (inputs, labels) in enumerate(batches):
        rate = step / max(1, warmup) if step < warmup else (steps - step) / max(1, steps - warmup)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(encoder(**inputs).last_hidden_state), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step + 1 == steps:
            break
    return losses, time.perf_counter() - started

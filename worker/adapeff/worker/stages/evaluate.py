"""Evaluate: predictions for every example of a split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from adapeff.worker.hardware import autocast
from adapeff.worker.models import Classifier
from adapeff.worker.stages.prepare import Encoded, collate

BATCH_SIZE = 64


@dataclass(frozen=True)
class Predictions:
    """One prediction per example, in the data's order; `scores` are the predicted label's probabilities."""

    ids: list[str]
    gold: list[int]
    predicted: list[int]
    scores: list[float]
    loss: float
    """Mean cross entropy."""


def evaluate(model: Classifier, data: Encoded, *, device: torch.device, precision: str) -> Predictions:
    """Predict every example once, dropout off, in batches of like length."""
    was_training = model.training
    model.eval()
    order = sorted(range(len(data)), key=data.length)
    predicted, scores, losses = [0] * len(data), [0.0] * len(data), 0.0
    with torch.inference_mode(), autocast(device, precision):
        for start in range(0, len(order), BATCH_SIZE):
            indices = order[start : start + BATCH_SIZE]
            batch = collate(data, indices).to(device)
            logits = model(batch.inputs).float()
            losses += functional.cross_entropy(logits, batch.labels, reduction="sum").item()
            best = logits.softmax(dim=-1).max(dim=-1)
            for index, label, score in zip(indices, best.indices.tolist(), best.values.tolist(), strict=True):
                predicted[index], scores[index] = label, score
    model.train(was_training)
    return Predictions(data.ids, data.labels, predicted, scores, losses / len(data))

"""The built-in metrics, registered like any package's: one entry point that points at `METRICS`."""

from __future__ import annotations

from collections.abc import Mapping

from adapeff.service.plugins.contracts import Metric
from adapeff.worker.metrics.classification import CLASSIFICATION_METRICS
from adapeff.worker.metrics.entities import ENTITY_METRICS
from adapeff.worker.metrics.mean_score import MEAN_SCORE
from adapeff.worker.metrics.multi_label import MULTI_LABEL_METRICS
from adapeff.worker.metrics.regression import REGRESSION_METRICS
from adapeff.worker.metrics.squad import SQUAD_METRICS

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *CLASSIFICATION_METRICS,
        *ENTITY_METRICS,
        *SQUAD_METRICS,
        *REGRESSION_METRICS,
        *MULTI_LABEL_METRICS,
        MEAN_SCORE,
    )
}

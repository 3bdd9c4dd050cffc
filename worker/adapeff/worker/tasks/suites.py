"""Named sets of tasks."""

from __future__ import annotations

from collections.abc import Mapping

from adapeff.service.plugins.contracts import Suite

SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="offline",
            description="Generated data in four languages, for machines without the hub.",
            tasks=(
                *("offline_sentiment", "offline_nli", "offline_paraphrase"),
                *("offline_ner", "offline_qa", "offline_choice"),
            ),
        ),
        Suite(
            name="indic",
            description="Six tasks in IndicXTREME's languages (Doddapaneni et al. 2023), trained in English.",
            tasks=("indicxnli", "indicxparaphrase", "indicsentiment", "naamapadam", "indicqa", "indiccopa"),
        ),
        Suite(
            name="xlmr",
            description="Inference, entities and answers, trained and selected in English, tested in their languages.",
            tasks=("xnli", "wikiann", "xquad"),
        ),
        Suite(
            name="glue-small",
            description="The small sets of GLUE, English (Wang et al. 2018): single texts and pairs.",
            tasks=("glue/cola", "glue/mrpc", "glue/rte", "sst2"),
        ),
    )
}

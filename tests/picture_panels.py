"""Panels of pictures with as many methods as asked for; figures are drawn at random, the same each time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from adapeff.service.reporting.picture_data import (
    Curve,
    CurvesPanel,
    Estimate,
    ForestPanel,
    ForestRow,
    LanguageScore,
    LanguagesPanel,
    Panel,
    ParetoPanel,
    ParetoPoint,
    RanksPanel,
)
from adapeff.service.reporting.picture_data_profiles import LatencyLine, LatencyPanel, StepBar, StepsPanel
from adapeff.service.reporting.verdicts import Kind
from adapeff.service.statistics.ranks import critical_difference

NAMES = (
    *("full", "head", "bitfit", "layernorm", "houlsby", "pfeiffer", "houlsby_parallel", "pfeiffer_parallel", "ia3"),
    *(
        "parallel_scaled",
        "compacter",
        "compacter++",
        "lora",
        "prefix_tuning",
        "mam",
        "unipelt",
        "top_k_layers[layers=2]",
    ),
    *("lora[rank=64,alpha=128]", "peft:vera", "peft:adalora"),
)
_TITLE = "xnli, 2,000 training examples · org/model · 3 seeds · Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz fp32"
_LANGUAGES = ["en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]


def panels_of(name: str, methods: Sequence[str] = NAMES, *, count: int = 2, seed: int = 0) -> list[Panel]:
    """That many panels of the picture of that name."""
    draw = random.Random(seed)
    return [_BUILD[name](draw, methods) for _ in range(count)]


def _around(draw: random.Random, value: float, spread: float) -> Estimate:
    return Estimate(value, value - spread * draw.random(), value + spread * draw.random())


def _pareto(draw: random.Random, methods: Sequence[str]) -> ParetoPanel:
    points = tuple(
        ParetoPoint(
            method, _around(draw, draw.gauss(0.8, 0.08), 0.02), _around(draw, draw.gauss(75, 3), 2), at < 3, at + 1
        )
        for at, method in enumerate(methods)
    )
    front = tuple(sorted((point.cost.value, point.quality.value) for point in points if point.is_on_front))
    return ParetoPanel(_TITLE, "Bars: 95 % intervals.", "time, x full (paired)", "accuracy, %", points, front, 83.0)


def _forest(draw: random.Random, methods: Sequence[str]) -> ForestPanel:
    kinds: Sequence[Kind] = [kind for kind in get_args(Kind) if kind not in ("reference", "alone")]
    verdict = "within 1 point of full, 0.62x the step time"
    rows = tuple(
        ForestRow(method, _around(draw, draw.gauss(-2, 3), 3), kinds[at % 4], verdict, at)
        for at, method in enumerate(methods)
    )
    return ForestPanel(_TITLE, "Bars: 95 % intervals.", "difference to full, points", 1.0, rows)


def _curves(draw: random.Random, methods: Sequence[str]) -> CurvesPanel:
    curves = []
    for method in methods:
        base, speed = draw.gauss(80, 3), draw.uniform(0.5, 1.5)
        seeds = [
            tuple((at * speed, base - 30 / at + draw.gauss(0, 1)) for at in range(1, 9)) for _ in range(3)
        ]  # fmt: skip
        mean = tuple((at * speed, sum(points[at - 1][1] for points in seeds) / 3) for at in range(1, 9))
        curves.append(Curve(method, mean, tuple(seeds)))
    targets = tuple((f"{share} %", 0.82 * share) for share in (90, 95, 98, 99, 100))
    return CurvesPanel(_TITLE, "Thick: mean.", "seconds", "validation accuracy, %", tuple(curves), targets)


def _languages(draw: random.Random, methods: Sequence[str]) -> LanguagesPanel:
    scores = {
        (method, language): LanguageScore(
            draw.uniform(30, 90), None if language == "en" else draw.gauss(-9, 5), at == 3
        )
        for method in methods
        for at, language in enumerate(_LANGUAGES)
    }
    return LanguagesPanel(_TITLE, "Means.", tuple(methods), tuple(_LANGUAGES), scores, "test accuracy, %")


def _latency(draw: random.Random, methods: Sequence[str]) -> LatencyPanel:
    lines = []
    for method in methods:
        for variant in ("", *(("merged",) if method == "lora" else ())):
            base = draw.uniform(1, 1.4)
            points = tuple((length, _around(draw, base * length / 4, length / 40)) for length in (16, 64, 128, 512))
            lines.append(LatencyLine(method, variant, points))
    return LatencyPanel(_TITLE, "Medians. Batch 8.", "latency, ms", is_ratio=False, lines=tuple(lines))


def _steps(draw: random.Random, methods: Sequence[str]) -> StepsPanel:
    bars = tuple(
        StepBar(
            method,
            (
                ("forward", draw.uniform(50, 60)),
                ("backward", draw.uniform(50, 120)),
                ("optimizer", draw.uniform(1, 20)),
            ),
            f"{draw.uniform(0.4, 1.2):.2f}x [0.60, 0.64]",
        )
        for method in methods
    )
    return StepsPanel(_TITLE, "Medians of the parts.", "time of a training step of 32x64 tokens, ms", bars)


def _ranks(draw: random.Random, methods: Sequence[str]) -> RanksPanel:
    scores = {method: [at + draw.gauss(0, 2) for _ in range(14)] for at, method in enumerate(methods)}
    return RanksPanel("14 tasks · org/model", "Bars join methods that do not differ.", critical_difference(scores))


_BUILD: Mapping[str, Callable[[random.Random, Sequence[str]], Panel]] = {
    "pareto": _pareto,
    "forest": _forest,
    "curves": _curves,
    "languages": _languages,
    "latency": _latency,
    "steps": _steps,
    "critical-difference": _ranks,
}

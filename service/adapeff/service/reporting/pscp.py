"""PEFT-Bench's score of a method: its quality, lowered by what it trains, computes and holds in memory.

PSCP = P x (1 + M_p / C_p)^-1 x (1 + M_f / C_f)^-1 x (1 + M_m / C_m)^-1, the PEFT Soft Cost Penalties of Belanec et al.
2026, "PEFT-Bench: A Parameter-Efficient Fine-Tuning Methods Benchmark" (EACL 2026, arXiv:2511.21285). P is the score in
percent, M_p the trainable parameters, M_f the FLOPs that the method adds to the base model's forward pass of 512
tokens, M_m the peak memory of training. The constants, and exponents of 1, are those of the authors' own computation
(github.com/kinit-sk/PEFT-Factory, scripts/peftfactory/cal_psqp.py and stat_utils/cal_flops.py, commit 45de8ee). They
suit language models of billions of parameters: on small encoders the penalties hardly differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adapeff.service.measurements import (
    PEAK_MEMORY_ALLOCATED,
    PEAK_MEMORY_PROCESS,
)
from adapeff.service.reporting.decision import Decision, Line

PARAMETERS = 5e8
FORWARD_FLOPS = 10e12
MEMORY_BYTES = 94e9
SHAPE = (1, 512)
"""Batch and tokens of the forward pass."""
_UNADAPTED = "full"
"""The method whose forward pass is the base model's."""


@dataclass(frozen=True)
class Pscp:
    """The score, 0 to 100; None with what is missing."""

    value: float | None
    basis: str
    lacks_flops: bool = False
    """Whether only the forward FLOPs were not measured."""


def pscp(score: float, *, parameters: float, extra_flops: float, memory_bytes: float) -> float:
    """The score from a quality in percent, trainable parameters, extra forward FLOPs, and bytes of training memory."""
    penalties = (parameters / PARAMETERS, extra_flops / FORWARD_FLOPS, memory_bytes / MEMORY_BYTES)
    for penalty in penalties:
        score /= 1 + penalty
    return score


def pscp_of(decision: Decision, line: Line) -> Pscp:
    """The score of a method; forward FLOPs are taken only from a profile of exactly 1 x 512 tokens."""
    if line.quality is None or decision.table.metric.unit != "%":
        return Pscp(None, "needs a score in percent")
    parameters = [_mean(line, key) for key in ("parameters_method", "parameters_head")]
    memory = next(filter(None, (_mean(line, part.name) for part in (PEAK_MEMORY_ALLOCATED, PEAK_MEMORY_PROCESS))), None)
    if memory is None or None in parameters:
        return Pscp(None, "trainable parameters or memory not measured")
    flops = next(_extra_flops(decision, line), None)
    if flops is None:
        return Pscp(None, f"forward FLOPs not measured at {SHAPE[0]}x{SHAPE[1]}", lacks_flops=True)
    extra, job_id = flops
    value = pscp(
        100 * line.quality.mean,
        parameters=sum(filter(None, parameters)),
        extra_flops=extra,
        memory_bytes=memory,
    )
    return Pscp(value, f"forward FLOPs of profile job {job_id}")


def _mean(line: Line, column: str) -> float | None:
    cell = line.row.cells.get(column)
    return cell.summary.mean if cell is not None and cell.summary is not None else None


def _extra_flops(decision: Decision, line: Line) -> Iterator[tuple[float, int]]:
    """Forward FLOPs beyond the base model's, and the job of the profile that counted them."""
    for profile in decision.profiles:
        if (profile.settings["batch"], profile.settings["length"]) != SHAPE:
            continue
        forward = {row.label: figure.value for row in profile.training if (figure := row.figures.get("FLOPs forward"))}
        own, base = forward.get(str(line.row.plugin)), forward.get(_UNADAPTED)
        if own is not None and base is not None:
            yield max(0.0, own - base), profile.job_id

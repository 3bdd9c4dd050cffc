"""The built-in methods, registered as a plug-in's are: one entry point that refers to `METHODS`."""

from __future__ import annotations

from collections.abc import Mapping

from adapeff.service.plugins.contracts import Method
from adapeff.worker.methods.adapterdrop import AdapterDropMethod
from adapeff.worker.methods.adapterfusion import AdapterFusion
from adapeff.worker.methods.baselines import BitFit, Full, Head, LayerNorms, TopKLayers
from adapeff.worker.methods.bottleneck import (
    Compacter,
    CompacterPlusPlus,
    Houlsby,
    HoulsbyParallel,
    ParallelScaled,
    Pfeiffer,
    PfeifferParallel,
)
from adapeff.worker.methods.lora import IA3, Lora
from adapeff.worker.methods.peft_types import peft_methods
from adapeff.worker.methods.prefix_tuning import PrefixTuning
from adapeff.worker.methods.unions import Mam, UniPelt

METHODS: Mapping[str, type[Method]] = {
    "full": Full,
    "head": Head,
    "bitfit": BitFit,
    "layernorm": LayerNorms,
    "top_k_layers": TopKLayers,
    "houlsby": Houlsby,
    "pfeiffer": Pfeiffer,
    "houlsby_parallel": HoulsbyParallel,
    "pfeiffer_parallel": PfeifferParallel,
    "parallel_scaled": ParallelScaled,
    "compacter": Compacter,
    "compacter++": CompacterPlusPlus,
    "prefix_tuning": PrefixTuning,
    "lora": Lora,
    "ia3": IA3,
    "mam": Mam,
    "unipelt": UniPelt,
    "adapterdrop": AdapterDropMethod,
    "adapterfusion": AdapterFusion,
    **peft_methods(),
}

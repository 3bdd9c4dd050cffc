"""Our methods, registered as anyone's are: one entry point that points at `METHODS`."""

from __future__ import annotations

from collections.abc import Mapping

from adapeff.service.plugins import Method
from adapeff.worker.methods.full import Full
from adapeff.worker.methods.head import Head
from adapeff.worker.methods.houlsby import Houlsby
from adapeff.worker.methods.lora import Lora

METHODS: Mapping[str, type[Method]] = {"full": Full, "head": Head, "houlsby": Houlsby, "lora": Lora}

"""Read a model's configuration; explain in one line why a model cannot be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from adapeff.service.errors import AdapeffError, ModelError, NotHereError
from adapeff.service.masking import mask
from adapeff.worker.hub_access import prepare_hub
from adapeff.worker.modeling.encoders import check_encoder, prepare_config

SAFE: dict[str, Any] = {"trust_remote_code": False}
"""For every call of transformers: code that comes with a model is never run."""


def read_config(place: str, name: str, *, revision: str = "main") -> Any:
    """Read a model's configuration and check that it is an encoder's.

    Args:
        place: a folder or a hub id.
        name: what to call the model in messages.

    Raises:
        ModelError: if it cannot be read, is not an encoder's, or contains implausible sizes.
    """
    if not Path(place).is_dir():
        prepare_hub()
    try:
        config = AutoConfig.from_pretrained(place, revision=revision, **SAFE)
    except Exception as error:
        raise unloadable(f"the configuration of model '{name}'", error) from error
    check_encoder(config, name)
    return prepare_config(config)


def unloadable(what: str, error: Exception) -> Exception:
    """The error for what transformers cannot load, which raises many types; a lack of memory stays what it is."""
    if isinstance(error, MemoryError | AdapeffError):
        return error
    lines = mask(str(error)).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    needs = "`pip install" in str(error) and "--upgrade transformers" not in str(error)
    if isinstance(error, ImportError) or needs:
        return NotHereError(f"{what} needs a package that is not installed: {line}")
    if "couldn't connect to" in line.lower() or isinstance(error, ConnectionError):
        return NotHereError(f"{what} is not cached on this host, and the hub cannot be reached: {line}")
    hint = " (check the name, the revision and the connection)" if isinstance(error, OSError) else ""
    return ModelError(f"{what} cannot be loaded: {line}{hint}")

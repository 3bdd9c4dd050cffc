"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from adapeff.service.errors import ConfigError


def expanded(path: str | Path) -> Path:
    """A path with `~` or `~user` replaced by that home folder.

    Raises:
        ConfigError: if there is no such home folder, as for a user the system does not know.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"'{path}': no home folder is known for it; set HOME, or write the whole path") from error

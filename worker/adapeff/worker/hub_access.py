"""Find out once whether the Hugging Face hub can be reached; if not, nothing waits for it again.

The hub's libraries retry each request several times with growing pauses. Without a connection a process would spend
minutes on that, so one quick request decides, and the libraries are set to use their cache.
"""

from __future__ import annotations

import logging
import os
import sys
import urllib.error
import urllib.request
from functools import cache

from adapeff.service.masking import mask

TIMEOUT_SECONDS = 5.0
logger = logging.getLogger("adapeff.hub")


@cache
def prepare_hub() -> bool:
    """Whether the hub answers; if not, its libraries work offline in this process from now on."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # any answer will do
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        logger.warning("the hub %s cannot be reached (%s); using the local cache", mask(constants.ENDPOINT), reason)
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if datasets := sys.modules.get("datasets"):  # imported later, it copies the constant
        datasets.config.HF_HUB_OFFLINE = True
    return False

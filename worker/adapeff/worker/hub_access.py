"""Find out once whether the Hugging Face hub can be reached; where not, nothing waits for it again.

The hub's libraries try each request several times with growing pauses. A process that has no way to the hub would spend
minutes on that, so it is asked once, quickly, and the libraries are told to use what they have kept.
"""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from functools import cache

from adapeff.service.masking import mask

TIMEOUT_SECONDS = 5.0
logger = logging.getLogger("adapeff.hub")


@cache
def prepare_hub() -> bool:
    """Whether the hub answers; else its libraries work offline in this process from now on."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # it answers, whatever it says of its front page
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        logger.warning("the hub %s cannot be reached (%s); using what is kept here", mask(constants.ENDPOINT), reason)
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    try:
        import datasets
    except ImportError:
        return False
    datasets.config.HF_HUB_OFFLINE = True
    return False

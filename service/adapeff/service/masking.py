"""Mask passwords and tokens in output."""

from __future__ import annotations

import re


def mask(text: str) -> str:
    """Replace passwords and tokens in the text by ***, both in URLs and in queries."""
    addresses = re.split(r"(?<=\s)(?=\S*\b(?:https?|rediss?|postgres(?:ql)?[+\w]*)://)", text)
    masked = "".join(map(_mask_one, addresses))
    return re.sub(
        r"((?:^|[?&#\s;])[\w-]*(?:password|passwd|token|secret|api_?key|access_?key|sig|signature|x-(?:amz|goog)-[a-z-]+)=)[^&#\s]*",
        r"\1***",
        masked,
        flags=re.IGNORECASE,
    )


def _mask_one(part: str) -> str:
    """Mask a text with at most one address; a password may contain any character, so it ends at the last @."""
    if re.search(r"://[^:/\s]*:.*@", part, re.DOTALL):
        return re.sub(r"(://[^:/\s]*):.*@", r"\1:***@", part, count=1, flags=re.DOTALL)
    return re.sub(r"(https?://)[^:/@\s]+@|(://)[^:/@\s]{16,}@", r"\1\2***@", part)

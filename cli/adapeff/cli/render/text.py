"""Make untrusted text safe to print: names and paths may contain text that a terminal or spreadsheet would execute."""

from __future__ import annotations

import re
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters that start a formula in a spreadsheet, with their full-width forms."""


def printable(text: str) -> str:
    """The text with control characters escaped; tabs and newlines stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """The printable text on one line."""
    return printable(text).replace("\n", "\\n").replace("\t", " ")


_ACTIVE = {"\\": "\\\\", "|": "\\|", "&": "&amp;", "<": "&lt;", "`": "\\`", "](": "]\\(", "![": "!\\["}


def markdown_cell(text: str) -> str:
    """The text as a cell of a Markdown table; brackets alone (lora[rank=4]) need no escaping."""
    return re.sub(r"\]\(|!\[|[\\|&<`]", lambda match: _ACTIVE[match[0]], one_line(text))


def spreadsheet_cell(value: Any) -> Any:
    """The value, quoted if a spreadsheet would read it as a formula."""
    if isinstance(value, str) and (value.lstrip().startswith(_FORMULA) or value.startswith(("\t", "\r", "\n"))):
        return f"'{value}"
    return value

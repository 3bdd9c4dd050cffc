"""Text from other people, as it may be shown: names and paths may hold what a terminal or a spreadsheet would obey."""

from __future__ import annotations

import re
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the start of a formula, full-width forms too."""


def printable(text: str) -> str:
    """The text with control characters written out; tabs and line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """The same on a single line."""
    return printable(text).replace("\n", "\\n").replace("\t", " ")


_ACTIVE = {"\\": "\\\\", "|": "\\|", "&": "&amp;", "<": "&lt;", "`": "\\`", "](": "]\\(", "![": "!\\["}


def markdown_cell(text: str) -> str:
    """A cell of a Markdown table that shows the text and nothing else; brackets alone (lora[rank=4]) do nothing."""
    return re.sub(r"\]\(|!\[|[\\|&<`]", lambda found: _ACTIVE[found[0]], one_line(text))


def spreadsheet_cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula."""
    if isinstance(value, str) and (value.lstrip().startswith(_FORMULA) or value.startswith(("\t", "\r", "\n"))):
        return f"'{value}"
    return value

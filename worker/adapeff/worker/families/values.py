"""Values as data files have them: lists written out as text, numbers with decimals, texts a tokenizer can take."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from adapeff.service.errors import DataError

_LISTS = ("[", "(")
_ADJACENT = re.compile(r"""['"]\s+['"]""")
"""Two texts without a comma between them, as numpy writes lists: Python would join them."""


def is_written_list(value: str) -> bool:
    """Whether a text begins as a list does."""
    return value.lstrip().startswith(_LISTS)


def words(value: str, column: str | None, where: str) -> list[Any]:
    """A list written out as text: as JSON or Python writes it, or as words separated by spaces.

    Raises:
        DataError: if it is neither.
    """
    if not (is_written_list(value) and value.rstrip().endswith(("]", ")"))):
        found = value.split()
        if len(found) == 1 and len(re.findall(r"[^\W\d][,|](?=[^\W\d])", value)) > 1:
            raise DataError(
                f"{where}: '{column}' is {shown(value)}, expected words separated by spaces, or a list such as "
                '["a", "b"]'
            )
        return found
    for read in (json.loads, ast.literal_eval):
        try:
            read_as = read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(read_as, list | tuple) and not _ADJACENT.search(value):
            return list(read_as)
    if value.split() != [value.strip()] and not re.search(r"['\",]", value):
        return value.split()  # brackets that are tokens, as in ( who )
    raise DataError(
        f'{where}: \'{column}\' is {shown(value)}, expected a list such as ["a", "b"], with commas, or words '
        "separated by spaces"
    )


def as_text(value: Any) -> Any:
    """YAML's true and false as they are written."""
    return str(value).lower() if isinstance(value, bool) else value


def truth(value: str | bool, labels: Sequence[str]) -> Any:
    """The label that means true or false, however each is written: True, true, TRUE."""
    written = str(value).lower()
    if written not in ("true", "false"):
        return value
    return next((label for label in labels if label.lower() == written), value)


def whole_number(text: str) -> str:
    """A whole number written with decimals (2.0, as tables with gaps are saved), without them."""
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0*", text) else text


def is_text(value: Any) -> bool:
    """Whether a value is text that a tokenizer can take: half a surrogate pair, which JSON can contain, is not."""
    return isinstance(value, str) and (
        value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    )


def shown(value: Any) -> str:
    """A value as an error message shows it, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def found_columns(row: Iterable[Any]) -> str:
    """The columns of a row, each cut short: a first line that is not a heading may contain anything."""
    names = [shown(str(name))[1:-1] if len(str(name)) > 40 else str(name) for name in row]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"found: {', '.join(names[:12]) or 'none'}{more}"

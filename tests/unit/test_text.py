"""Untrusted text is shown literally and executes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.cli.render.text import markdown_cell, one_line, printable, spreadsheet_cell


@given(st.text())
def test_control_characters_are_escaped(text: str) -> None:
    assert all(character.isprintable() or character in "\n\t" for character in printable(text))
    assert one_line(text).isprintable()


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("lora[rank=4]", "lora[rank=4]"),
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("<b>", "&lt;b>"),
        ("&#124;", "&amp;#124;"),
        ("[x](http://evil)", "[x]\\(http://evil)"),
        ("![x](y)", "!\\[x]\\(y)"),
        ("`x`", "\\`x\\`"),
        ("a\n# b", "a\\\\n# b"),
    ],
)
def test_markdown_in_a_cell_is_escaped(text: str, cell: str) -> None:
    assert markdown_cell(text) == cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\n=1", " =1", "\uff1d1"])
def test_text_is_not_a_formula_in_a_spreadsheet(text: str) -> None:
    assert spreadsheet_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["plain", -1.5, 3, None, ""])
def test_other_cells_are_unchanged(value: object) -> None:
    assert spreadsheet_cell(value) == value

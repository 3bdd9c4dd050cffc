"""Grids as LaTeX tables: booktabs rules, nothing else to install; put `\\usepackage{booktabs}` in the preamble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapeff.cli.render.grids import is_text
from adapeff.cli.render.text import one_line
from adapeff.service.reporting.grids import Grid

_ACTIVE = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "−": "$-$",
    "±": "$\\pm$",
    "≈": "$\\approx$",
    "–": "--",
    "·": "$\\cdot$",
    "×": "$\\times$",
    "³": "\\textsuperscript{3}",
    "²": "\\textsuperscript{2}",
}


def latex_text(text: str) -> str:
    """The text with everything escaped that LaTeX would act on."""
    return "".join(_ACTIVE.get(character, character) for character in one_line(text))


def latex_grids(grids: Sequence[Grid]) -> str:
    """A table environment for each grid, with its title as caption and its notes below."""
    return "\n\n".join("\n".join(_table(grid)) for grid in grids) + "\n"


def _table(grid: Grid) -> Iterator[str]:
    columns = "".join("l" if is_text(grid, column) else "r" for column in range(len(grid.headings)))
    yield "\\begin{table}"
    yield "\\centering"
    yield f"\\caption{{{latex_text(grid.title)}}}"
    yield f"\\begin{{tabular}}{{{columns}}}"
    yield "\\toprule"
    yield " & ".join(latex_text(heading.text.replace("\n", " ")) for heading in grid.headings) + " \\\\"
    yield "\\midrule"
    for row in grid.rows:
        yield " & ".join(_cell(value.text) for value in row) + " \\\\"
    yield "\\bottomrule"
    yield "\\end{tabular}"
    for note in grid.notes:
        yield f"\\par\\footnotesize {latex_text(note)}"
    yield "\\end{table}"


def _cell(text: str) -> str:
    """A cell; in braces where a bracket at its start would be taken for an option of the line break before it."""
    escaped = latex_text(text)
    return f"{{{escaped}}}" if escaped.startswith(("[", "*")) else escaped

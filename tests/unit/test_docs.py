"""The documentation: every command line in it is valid, every link and every file it names exists."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from adapeff.cli.main import app
from adapeff.service.measurements import MEASUREMENTS
from adapeff.service.plugins import catalog
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

EAGER = {"--help", "-h", "--version", "--install-completion", "--show-completion"}
"""Options that act while the command line is parsed."""

COMMAND: Any = typer.main.get_command(app)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]*\badapeff [^`]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
_OPERATORS = "|<>;&"


def block_commands(markdown: str) -> list[list[str]]:
    """The arguments of each `adapeff` command in shell blocks, which are fenced with `sh` or indented."""
    blocks = [text for language, text in _FENCE.findall(markdown) if language in ("sh", "")]
    prose = _FENCE.sub("", markdown)
    blocks.append("\n".join(line for line in prose.splitlines() if line.startswith("    ")))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [arguments for line in lines if (arguments := _arguments(line)) is not None]


def span_commands(markdown: str) -> list[list[str]]:
    """The arguments of each `adapeff` command in a code span; one with an ellipsis is not a whole command."""
    spans = [span.replace("\n", " ") for span in _SPAN.findall(_FENCE.sub("", markdown)) if "..." not in span]
    return [arguments for span in spans if (arguments := _arguments(span)) is not None]


def _arguments(line: str) -> list[str] | None:
    """What follows `adapeff` in a shell's line, without variable assignments, comments, pipes and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=_OPERATORS)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # unbalanced quotes: not a command, but output or prose
        return None
    while words and _ASSIGNMENT.fullmatch(words[0]):
        del words[0]
    if words[:1] != ["adapeff"]:
        return None
    end = next((place for place, word in enumerate(words) if set(word) <= set(_OPERATORS)), len(words))
    return words[1:end]


def parse(arguments: list[str]) -> None:
    """Parse a command line as the program does, and run nothing.

    Raises:
        Exception: the parser's, if there is no such command, option or argument, or a value is not valid.
    """
    rest = ["1" if word == "JOB" else word for word in arguments if word not in EAGER]
    command: Any = COMMAND
    name: str | None = "adapeff"
    context: Any = None
    while rest or not hasattr(command, "resolve_command"):
        context = command.make_context(name, rest, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_in_the_docs_is_valid(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    problems = {}
    for arguments in block_commands(text):
        try:
            parse(arguments)
        except Exception as error:  # noqa: BLE001 - the parser's exceptions are not public; all are reported together
            problems[" ".join(arguments)] = str(error)
    for arguments in span_commands(text):
        try:
            parse(arguments)
        except Exception as error:  # noqa: BLE001
            if not str(error).startswith("Missing parameter"):  # a span may name a command alone
                problems[" ".join(arguments)] = str(error)

    assert not problems


@pytest.mark.parametrize(
    "line",
    [
        "report --frmat json",
        "raport",
        "methods list",
        "logs twelve",
        "submit",
        "status --limit many",
    ],
)
def test_wrong_command_line_is_noticed(line: str) -> None:
    (arguments,) = block_commands(f"```sh\nVARIABLE=1 adapeff {line} | head  # comment\n```\n")

    assert arguments == line.split()
    with pytest.raises(Exception, match=r"[Nn]o such|[Ii]nvalid|valid integer|Missing|[Uu]nexpected"):
        parse(arguments)


def test_command_over_several_lines_is_one() -> None:
    assert block_commands("    $ true\n    adapeff run \\\n      demo --seeds 0,1\n") == [
        ["run", "demo", "--seeds", "0,1"]
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)\s#:]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), (page.name, target)
        if anchor:
            assert anchor in _anchors(path), (page.name, target, anchor)


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_import_in_the_docs_works(page: Path) -> None:
    for language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            for module, names in re.findall(r"^from (adapeff\S+) import (.+)$", block, re.MULTILINE):
                for name in names.split(", "):
                    assert hasattr(importlib.import_module(module), name), (page.name, module, name)


def test_architecture_names_only_files_that_exist() -> None:
    """A bare file name is in the folder of the path before it."""
    folder, names = Path(), []
    for span in re.findall(r"`([^`\s]+)`", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")):
        if re.fullmatch(r"(service|worker|cli|migrations|tests)/\S*", span):
            names.append(_of_root(span))
            folder = names[-1] if span.endswith("/") else names[-1].parent
        elif re.fullmatch(r"\w+\.(py|yaml)", span) and span != "task.yaml":
            names.append(folder / span)

    assert not [name for name in names if not (ROOT / name).exists()]


def _of_root(short: str) -> Path:
    """The path in the repository of a path as the page writes it."""
    part, _, rest = short.partition("/")
    return Path(short) if part == "tests" or "/adapeff/" in short else Path(part) / "adapeff" / part / rest


def load_tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "site" / "tables.py")
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    return tables


def test_pages_get_every_measurement_method_and_tuner_from_the_code() -> None:
    tables = load_tables()
    names = {"measurements.md": list(MEASUREMENTS), "methods.md": list(catalog.methods())}

    for page, expected in names.items():
        text = tables.filled((ROOT / "docs" / page).read_text())
        assert "<!-- table" not in text
        rows = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
        assert set(expected) <= set(rows), page

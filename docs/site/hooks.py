"""MkDocs hooks that add to the site what the code knows: the command line, the catalog's tables, and the API.

The README and the changelog become pages too. Pages may link to files of the repository that are not part of the site;
such a link is replaced by the file's path, and a link to a file that does not exist fails the build.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from adapeff.cli.main import app

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads this file alone
from tables import filled, suites_table, table, tasks_table

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PARTS = ("service", "worker", "cli")
SOURCES = {"index.md": ROOT / "README.md", "changelog.md": ROOT / "CHANGELOG.md"}
"""Pages of the site whose text is outside docs/."""

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> None:
    """Put the API pages into the navigation."""
    entries = [{part: [{name: f"api/{part}/{name}.md"} for name in _rooms(part)]} for part in PARTS]
    config.nav = [*(config.nav or []), {"API": entries}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that have no file in docs/."""
    pages = {name: source.read_text(encoding="utf-8") for name, source in SOURCES.items()}
    pages["command-line.md"] = command_line_page()
    pages["all-tasks.md"] = f"# All tasks\n\n{tasks_table()}\n## Suites\n\n{suites_table()}"
    for part in PARTS:
        for room, modules in _rooms(part).items():
            pages[f"api/{part}/{room}.md"] = f"# adapeff.{part}: {room}\n\n" + "\n".join(
                f"::: {module}\n" for module in modules
            )
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in tables and adapt links."""
    markdown = filled(markdown)
    source = SOURCES.get(page.file.src_uri, DOCS / page.file.src_uri)
    names = {path: name for name, path in SOURCES.items()}

    def adapt(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if ":" in target:
            return link[0]
        path = (source.parent / target).resolve()
        name = names.get(path) or (path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else "")
        if files.get_file_from_path(name):
            up = "../" * page.file.src_uri.count("/")
            return f"[{text}]({up}{name}{anchor})"
        if not path.exists() or not path.is_relative_to(ROOT):
            raise PluginError(f"{source.relative_to(ROOT)} links to {target}, which does not exist; correct the link")
        place = f"`{path.relative_to(ROOT)}`"
        return place if text.strip("`") in place else f"{text} ({place})"

    return _LINK.sub(adapt, markdown)


def command_line_page() -> str:
    """Every command with its help text, arguments and options."""
    root: Any = typer.main.get_command(app)
    sections = [_command_section(context, command) for context, command in _commands(root, "adapeff")]
    return "# Command line\n\n" + "\n".join(sections)


def _commands(command: Any, name: str, parent: Any = None) -> Iterator[tuple[Any, Any]]:
    """A command and all below it, each with the context it is parsed in."""
    context = command.context_class(command, parent=parent, info_name=name)
    is_group = hasattr(command, "list_commands")
    if parent is None or not is_group:
        yield context, command
    for below in command.list_commands(context) if is_group else ():
        _, subcommand, _ = command.resolve_command(context, [below])  # loads a lazy command
        yield from _commands(subcommand, below, context)


def _command_section(context: Any, command: Any) -> str:
    title = context.command_path
    parts = [f"## {title}\n", f"```\n{title} {' '.join(command.collect_usage_pieces(context))}\n```\n"]
    parts += [_help_text(command.help or "")]
    rows = []
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            rows.append(tuple(_plain(text) for text in record))
        elif parameter.param_type_name == "argument":
            rows.append((_plain(parameter.make_metavar(context)), _plain(getattr(parameter, "help", None) or "")))
    rows = [(f"`{name}`", text) for name, text in rows]
    return "\n".join([*parts, table(("parameter", "meaning"), rows)])


def _help_text(text: str) -> str:
    """Help as Markdown: the examples, which are paragraphs of their own, become code."""
    paragraphs = text.replace("\b\n", "").split("\n\n")
    return (
        "\n\n".join(
            f"```sh\n{paragraph.strip()}\n```" if paragraph.strip().startswith(("adapeff ", "ADAPEFF_")) else paragraph
            for paragraph in paragraphs
        )
        + "\n"
    )


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\[/?[a-z]+\]", "", text).split())


def _rooms(part: str) -> dict[str, list[str]]:
    """The public modules of a part by folder; those on its ground floor come under the part's own name."""
    folder = ROOT / part / "adapeff" / part
    rooms: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder)
        if path.name == "__main__.py":
            continue
        names = [*inside.parent.parts, *([] if path.stem == "__init__" else [path.stem])]
        room = inside.parts[0] if len(inside.parts) > 1 else part
        rooms.setdefault(room, []).append(".".join(["adapeff", part, *names]))
    return rooms

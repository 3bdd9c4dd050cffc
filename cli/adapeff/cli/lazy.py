"""Commands whose modules are imported only when they run, so that `adapeff --help` and Tab stay instant.

The command modules import heavy packages (SQLAlchemy, Celery, rich) at the top. A table in `main.py` maps each command
to its module. The overview shows the start of each command's help, which is read from the source text.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Mapping
from functools import cache
from importlib.abc import InspectLoader
from importlib.util import find_spec
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


class LazyGroup(TyperGroup):
    """A group with a table of commands, `{name: "module:attribute"}`; an attribute is a function or a Typer app."""

    package: ClassVar[str]
    """The package of the modules."""
    table: ClassVar[Mapping[str, str]]

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, target in self.table.items():
            self.commands[name] = CommandEntry(name, f"{self.package}.{target}")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the command that parses the remaining arguments; returns its name, the command, and those arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, CommandEntry) else command, rest


class CommandEntry(TyperCommand):
    """A placeholder for a command in the overview and in completion, which does not import its module."""

    def __init__(self, name: str, target: str) -> None:
        super().__init__(name)
        self._target = target

    @property
    def help(self) -> str:
        """The command's help."""
        return help_in_source(self._target)

    @help.setter
    def help(self, value: str | None) -> None:
        """Ignore the value set by the base class."""

    def load(self) -> Any:
        """Import the module and create the command from its function or Typer app, parsed by the module's `Parser`."""
        module, _, attribute = self._target.partition(":")
        source = importlib.import_module(module)
        command = getattr(source, attribute)
        parent = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False)
        if isinstance(command, typer.Typer):
            parent.add_typer(command, name=self.name)
        else:
            parent.command(self.name, cls=getattr(source, "Parser", None))(command)
        return typer.main.get_group(parent).commands[str(self.name)]


@cache
def help_in_source(target: str) -> str:
    """The docstring of a function, or the `help=` of a Typer app, read from a module's source."""
    module, _, attribute = target.partition(":")
    spec = find_spec(module)
    assert spec is not None and isinstance(spec.loader, InspectLoader), module
    for node in ast.parse(spec.loader.get_source(module) or "").body:
        if isinstance(node, ast.FunctionDef) and node.name == attribute:
            return ast.get_docstring(node) or ""
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == attribute:
            assert isinstance(node.value, ast.Call), target
            texts = {keyword.arg: keyword.value for keyword in node.value.keywords}
            return inspect.cleandoc(ast.literal_eval(texts["help"]))
    raise AssertionError(f"{module} does not define {attribute}")

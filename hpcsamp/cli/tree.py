"""Commands and groups of the command line, imported on use, with examples in their help.

The docstring of a command ends with a section ``Examples:`` of shell lines, one per paragraph. In
the help they come last and are never wrapped, so that they can be copied.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from hpcsamp.spelling import shown, suggest

SETTINGS: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False}
"""Settings of each Typer: help is plain text, because importing rich takes longer than anything
else."""

_EXAMPLES = re.compile(r"^Examples:?\n(?:-+\n)?(?P<lines>.*)\Z", re.MULTILINE | re.DOTALL)


def split(text: str | None) -> tuple[str, list[str]]:
    """Split a docstring into its text and the lines of its section ``Examples``."""
    whole = inspect.cleandoc(text or "")
    found = _EXAMPLES.search(whole)
    if found is None:
        return whole, []
    lines = [line.strip() for line in found["lines"].splitlines() if line.strip()]
    return whole[: found.start()].rstrip(), lines


class Command(TyperCommand):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.help, self.examples = split(self.help)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        _write(self.examples, formatter)


class Group(TyperGroup):
    """A group of commands that prints its help if no command is named."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.help, self.examples = split(self.help)

    def summaries(self, ctx: Any) -> list[tuple[str, str]]:
        """Return the names of the commands with the first line of their help."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        return [(n, (c.help or "").split("\n\n")[0]) for n, c in found if c and not c.hidden]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; without any, print the help and end with exit code 0."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with the first line of their help."""
        with formatter.section("Commands"):
            formatter.write_dl([(n, " ".join(h.split())) for n, h in self.summaries(ctx)])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        _write(self.examples, formatter)


def _write(examples: list[str], formatter: Any) -> None:
    if examples:
        formatter.write("\nExamples:\n" + "".join(f"  {line}\n" for line in examples))


def group(
    name: str, text: str, places: Mapping[str, tuple[str, str]], **settings: Any
) -> typer.Typer:
    """Make a group whose commands are imported when they are used.

    Parameters
    ----------
    name, text
        Name and help of the group.
    places
        For each command name: its location, as ``module:function`` or ``module:app``, and the first
        line of its help, which is listed without importing the command.
    settings
        More arguments of ``typer.Typer``.
    """

    class Lazy(Group):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(places)

        def get_command(self, ctx: Any, name: str) -> Any:
            if name not in places:
                return None
            if name not in self.commands:
                self.commands[name] = command(name, places[name][0])
            return self.commands[name]

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if args[0] not in places and not ctx.resilient_parsing:
                ctx.fail(f"No such command {shown(args[0])}{suggest(args[0], places)}")
            return super().resolve_command(ctx, args)

        def summaries(self, ctx: Any) -> list[tuple[str, str]]:
            return [(name, line) for name, (_, line) in places.items()]

    made = typer.Typer(name=name, cls=Lazy, help=text, **{**SETTINGS, **settings})
    made.callback()(_nothing)
    return made


def command(name: str, place: str) -> Any:
    """Import a command or a group of commands and build it."""
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        made = typer.Typer(**SETTINGS)
        made.command(name, cls=Command)(found)
        found = made
    built = typer.main.get_command(found)
    built.name = name
    return built


def _nothing() -> None:
    pass

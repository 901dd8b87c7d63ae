"""Reference pages that are written from the code: configuration keys, commands, the Python API.

They are written into ``reference/generated/`` when the documentation is built, and are not kept in
git.
"""

from __future__ import annotations

import importlib
import inspect
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import hpcsamp
from hpcsamp.cli import app as commands
from hpcsamp.config.schema import RunConfig
from hpcsamp.registry import Registry

#: Rooms whose public names are documented, in the order of the page.
ROOMS = ("methods", "losses", "models", "layers", "data", "collectives", "grid")
#: What else a user's code derives from or calls.
PLACES = (
    "hpcsamp.prediction.load.LoadedPosterior",
    "hpcsamp.prediction.mixture.LoadedMixture",
    "hpcsamp.training.callbacks.Callback",
    "hpcsamp.tasks.Task",
    "hpcsamp.ingest.build",
    "hpcsamp.ingest.named.from_named",
    "hpcsamp.ingest.source.ArraySource",
    "hpcsamp.campaign.schedulers.Scheduler",
)
CHANGES = {
    "weights": "fixed once a run has begun",
    "results": "may differ on resume; changes results",
    "nothing": "may differ on resume",
}


def write_all(docs: Path) -> None:
    """Write all generated pages."""
    folder = docs / "reference" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "configuration": configuration(),
        "commands": command_pages(),
        "names": registered(),
        "python": python_api(),
    }
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text() != text:  # unchanged pages are not read again
            path.write_text(text)


# -- configuration ------------------------------------------------------------------------------


def configuration() -> str:
    """Every key of every table: type, default, meaning, and whether it may change on resume."""
    lines = [
        "# Configuration keys",
        "",
        "Every key of a configuration file, with its type and default. A key that is not listed",
        "here is an error, unless it is an argument of the class that its table names (`[model]`,",
        "`[method]`, `[loss]`, `[likelihood]`, `[optimizer]`, `[schedule]`). The `config.toml` of",
        "a run folder holds the resolved value of every key.",
        "",
        "| key | type | default | meaning | when a run is resumed |",
        "| --- | --- | --- | --- | --- |",
        "| `seed` | integer | `1` | seed of all randomness of a run | fixed once a run has begun |",
        "",
    ]
    for name, field in RunConfig.model_fields.items():
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            continue
        lines += [f"## `[{name}]`", "", _summary(kind).removeprefix(f"``[{name}]``: "), ""]
        lines += [
            "| key | type | default | meaning | when a run is resumed |",
            "|---" * 5 + "|",
        ]
        lines += [_key(n, f) for n, f in kind.model_fields.items()]
        lines.append("")
    return "\n".join(lines)


def _key(name: str, field: Any) -> str:
    marks = field.json_schema_extra
    mark = marks.get("changes", "weights") if isinstance(marks, dict) else "weights"
    if field.is_required():
        default = "required"
    elif field.default is PydanticUndefined:
        default = f"`{_toml(field.default_factory())}`"
    else:
        default = f"`{_toml(field.default)}`"
    cells = (f"`{name}`", _type(field), default, field.description or "", CHANGES[mark])
    return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return str(list(value) if isinstance(value, tuple) else value)


def _plain_type(annotation: Any) -> Any:
    """A type without what validates it."""
    if get_origin(annotation) is Annotated:
        return _plain_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[tuple(_plain_type(part) for part in get_args(annotation))]  # noqa: UP007
    return annotation


def _type(field: Any) -> str:
    found = inspect.formatannotation(_plain_type(field.annotation))
    for old, new in (
        ("typing.", ""), ("hpcsamp.config.sections.", ""), ("NoneType", "none"), ("None", "none"),
        ("pathlib._local.", ""), ("pathlib.", ""), ("collections.abc.", ""),
    ):  # fmt: skip
        found = found.replace(old, new)
    if found.startswith("Literal["):
        found = found.removeprefix("Literal[").removesuffix("]").replace("'", '"')
    return f"`{found}`"


def registered() -> str:
    """What a configuration can name, by kind."""
    from hpcsamp import names

    lines = [
        "# Names in a configuration",
        "",
        "Each of these names stands for a class or a function of the package. In its place, you",
        "can name one of your own as `package.module:Class`.",
        "",
    ]
    for value in vars(names).values():
        if not isinstance(value, Registry) or not len(value):
            continue
        lines += [f"## `{value.key}`", "", "| name | stands for | what it is |", "|---|---|---|"]
        for name in value:
            found = value[name]
            first = (inspect.getdoc(found) or "").split("\n\n")[0].replace("\n", " ")
            lines.append(f"| `{name}` | `{value.place(name)}` | {_plain(first)} |")
        lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A sentence of a docstring in Markdown."""
    return text.replace("``", "`").replace("|", "\\|").replace("*", "\\*")


# -- commands -----------------------------------------------------------------------------------


def command_pages() -> str:
    """Every command with its arguments and options, as ``--help`` has them."""
    lines = [
        "# Commands",
        "",
        "The text of `hpcsamp COMMAND --help`. Commands that compute something run in one process,",
        "or on every rank under `mpirun` and `srun`.",
        "",
    ]
    for name, command in _inner(typer.main.get_command(commands)):
        lines += _command(f"hpcsamp {name}", command, 2)
    return "\n".join(lines)


def _inner(group: Any) -> list[tuple[str, Any]]:
    """Commands of a group by name; those of ``ingest`` with the options of their source."""
    context = typer.Context(group)
    names = [] if not hasattr(group, "list_commands") else group.list_commands(context)
    found = [(name, group.get_command(context, name)) for name in names]
    return [(name, getattr(c, "whole", lambda c=c: c)()) for name, c in found if not c.hidden]


def _command(path: str, command: Any, depth: int) -> list[str]:
    words = inspect.cleandoc(command.help or "").replace("\b", "").replace("\f", "")
    lines = [f"{'#' * depth} `{path}`", "", _plain(words), ""]
    inner = _inner(command)
    if not inner:
        lines += _parameters(path, command)
    lines += ["```bash", *command.examples, "```", ""]
    for name, sub in inner:
        lines += _command(f"{path} {name}", sub, depth + 1)
    return lines


def _parameters(path: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(
        [path, *("[OPTIONS]" if options else "",),
         *(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in arguments)]
    )  # fmt: skip
    rows = [
        (f"`{p.name.upper()}`", getattr(p, "help", "") or "", "required" if p.required else "")
        for p in arguments
    ]
    for p in options:
        if p.name == "help":
            continue
        names = ", ".join(f"`{o}`" for o in (*p.opts, *p.secondary_opts))
        default = p.default() if callable(p.default) else p.default
        shown = "" if default in (None, False, ()) or p.required else f"`{default}`"
        rows.append((names, p.help or "", "required" if p.required else shown))
    lines = ["```text", usage, "```", ""]
    if rows:
        lines += ["| argument | meaning | default |", "|---|---|---|"]
        for first, *others in rows:
            cells = (first, *(_plain(c).replace("\n", " ") for c in others))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines


# -- Python -------------------------------------------------------------------------------------


def public() -> dict[str, list[str]]:
    """Documented names by room: ``hpcsamp`` itself first."""
    found = {"hpcsamp": [n for n in hpcsamp.__all__ if n not in hpcsamp._ROOMS]}
    for room in ROOMS:
        module = importlib.import_module(f"hpcsamp.{room}")
        found[f"hpcsamp.{room}"] = list(module.__all__)
    return found


def python_api() -> str:
    """Classes and functions with their docstrings."""
    lines = ["# Python API", "", "`import hpcsamp as hs`.", ""]
    shown: set[int] = set()
    for room, names in public().items():
        module = importlib.import_module(room)
        lines += [f"## `{room}`", "", _plain(_summary(module)), ""]
        for name in names:
            lines += _documented(room, name, getattr(module, name), shown)
    lines += ["## To derive from, and to call", ""]
    for place in PLACES:
        room, _, name = place.rpartition(".")
        lines += _documented(room, name, getattr(importlib.import_module(room), name), shown)
    return "\n".join(lines)


def _documented(room: str, name: str, value: Any, shown: set[int]) -> list[str]:
    if inspect.isclass(value):
        directive, options = "autoclass", ["   :members:", "   :show-inheritance:"]
    elif inspect.isroutine(value):
        directive, options = "autofunction", []
    else:
        return []  # constants and registries have a page of their own
    if id(value) in shown:
        return []
    shown.add(id(value))
    return ["```{eval-rst}", f".. {directive}:: {room}.{name}", *options, "```", ""]


def undocumented() -> list[str]:
    """Public classes, functions and methods without a docstring."""
    found = []
    for room, names in public().items():
        module = importlib.import_module(room)
        for name in names:
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            if not inspect.getdoc(value):
                found.append(f"{room}.{name}")
            if inspect.isclass(value):
                found += [
                    f"{room}.{name}.{own}"
                    for own, member in vars(value).items()
                    if not own.startswith("_")
                    and (inspect.isroutine(member) or isinstance(member, property))
                    and not inspect.getdoc(getattr(value, own))
                ]
    return found


def _summary(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")

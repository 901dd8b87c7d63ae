"""Build the options of a command from the signature of the function that it calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from hpcsamp.ingest.asked import Asked

Arguments = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass
class ExtraOptions:
    """Additional parameters of a command."""

    parameters: list[inspect.Parameter]

    def insert(self, command: Callable[..., None]) -> None:
        """Replace the ``**given`` of a command with these parameters, required ones first."""
        own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
        named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        whole = [*self.parameters, *named]
        target: Any = command
        target.__signature__ = inspect.Signature(whole)
        target.__annotations__ = {p.name: p.annotation for p in whole}


def ask(function: Callable[..., Any]) -> tuple[ExtraOptions, Arguments]:
    """Build options for the marked arguments of a function.

    An argument that is a mapping with a default becomes one option per key; an argument that is a
    dataclass becomes one option per field.

    Returns
    -------
    options
        Options to insert into a command.
    arguments
        Function that builds the arguments of ``function`` from the values of the options.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    makers: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint, default = hints.get(name, Any), parameter.default
        parts = [h for h in (hint, *get_args(hint)) if is_dataclass(h)]
        if _mark(hint) is not None:
            made = _parameter(name, hint, default)
            makers[name] = _value(made.name, default)
            parameters.append(made)
        elif get_origin(hint) is Mapping and _mark(get_args(hint)[1]) is not None:
            parameters += [_parameter(k, get_args(hint)[1], v) for k, v in default.items()]
            makers[name] = _table(dict, default)
        elif parts:
            inner = get_type_hints(parts[0], include_extras=True)
            asked = {f.name: f.default for f in fields(parts[0]) if _mark(inner[f.name])}
            parameters += [_parameter(k, inner[k], v) for k, v in asked.items()]
            makers[name] = _table(parts[0], asked)
    return ExtraOptions(parameters), lambda given: {k: make(given) for k, make in makers.items()}


def _value(name: str, default: Any) -> Callable[[Mapping[str, Any]], Any]:
    return lambda given: default if given[name] is None else given[name]


def _table(kind: Any, defaults: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    makers = {name: _value(name, default) for name, default in defaults.items()}
    return lambda given: kind(**{name: make(given) for name, make in makers.items()})


def _mark(hint: Any) -> Asked | None:
    return next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Asked)), None)


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    mark = _mark(hint)
    assert mark is not None
    kind = mark.kind or get_args(hint)[0]
    if get_origin(kind) is Sequence:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
        default = None if default == () else default
        kind = kind if default is inspect.Parameter.empty else kind | None
    bounds: dict[str, Any] = {"min": mark.least, "max": mark.most, "help": mark.help}
    required = default is inspect.Parameter.empty
    if required and not mark.option.startswith("--"):
        how: Any = typer.Argument(**bounds)
    else:
        how = typer.Option(*([mark.option] if mark.option.startswith("--") else []), **bounds)
    return inspect.Parameter(
        name if mark.option.startswith("--") or not mark.option else mark.option,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, how],
    )

"""Check the keys of a configuration table against the signature of the class that it names.

Tables such as ``[model]`` and ``[method]`` pass their keys to a class that the schema does not
know. Names and types are compared with the signature of the class, so that a mistake is reported
by its key before the run starts.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from hpcsamp import config
from hpcsamp.config import refused, split_key
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.names import LIKELIHOODS, LOSSES
from hpcsamp.spelling import hint, shown, suggest

ALIKE = 0.85
"""Smallest similarity to a known argument at which an unknown one counts as misspelt, if the
class accepts arguments of any name."""


def accepted(kind: Callable[..., Any], but: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """Return the named parameters that a configuration may set.

    Parameters
    ----------
    kind
        Class or function.
    but
        Names of parameters that the program sets.
    """
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {n: p for n, p in _parameters(kind).items() if n not in but and p.kind in named}


def open_ended(kind: Callable[..., Any]) -> bool:
    """Whether a class or function accepts arguments of any name."""
    parameters = _parameters(kind)
    ends = [p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()]
    return any(ends) or not _has_signature(kind)


def _parameters(kind: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind).parameters if _has_signature(kind) else {}


def _has_signature(kind: Callable[..., Any]) -> bool:
    try:
        inspect.signature(kind)
    except ValueError:  # compiled code may have none
        return False
    return True


def defaults(kind: Callable[..., Any], but: Collection[str] = ()) -> dict[str, Any]:
    """Return the default values of a class's arguments that can be written in TOML."""
    plain = (bool, int, float, str, list, tuple)
    return {n: p.default for n, p in accepted(kind, but).items() if isinstance(p.default, plain)}


def changes(key: str, table: Mapping[str, Any]) -> str:
    """Return what a dotted key of a run affects: ``"weights"``, ``"results"`` or ``"nothing"``.

    The effect is marked on the field of the schema, or in the annotation of the argument, e.g.
    ``checkpoint: Annotated[bool, NOTHING]``. If the loss has no likelihood, only evaluations use
    the arguments of the likelihood.

    Parameters
    ----------
    key
        Key of the resolved configuration.
    table
        The configuration, which names the classes.
    """
    known = config.changes(key)
    if known is not None:
        return known
    section, argument = split_key(key)[:2]
    names = {s: table.get(s, {}).get(config.name_key(s)) for s in (section, "loss")}
    if section == "likelihood" and names["loss"] is not None and names[section] in LIKELIHOODS:
        read = "likelihood" in accepted(LOSSES.find(names["loss"]))
        return "weights" if read else "results"
    registry = config.CLASSES.get(section)
    name = names[section]
    if registry is None or name is None:
        return "weights"
    hint = _hints(registry.find(name)).get(argument)
    marks = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Mapping)]
    return str(marks[0]["changes"]) if marks else "weights"


def check(
    section: str,
    name: str,
    kind: Callable[..., Any],
    given: Mapping[str, Any],
    but: Collection[str] = (),
) -> dict[str, Any]:
    """Check arguments against a class and convert them to the annotated types.

    Parameters
    ----------
    section
        Table of the configuration, for messages.
    name
        Registered name of the class, for messages.
    kind, but
        As in :func:`accepted`.
    given
        Arguments by name.

    Raises
    ------
    UsageError
        If the class does not accept a name, or a value has another type.
    """
    known = accepted(kind, but)
    hints = _hints(kind)
    passes_on = section == "model" and open_ended(kind)
    fixed = _fixed(section)
    taken = sorted(fixed & known.keys() - given.keys())
    if taken:
        raise UsageError(
            f"{name} has an argument {taken[0]!r}, but {section}.{taken[0]} is a key of its own: "
            f"rename the argument"
        )
    result = {}
    for argument, value in given.items():
        if argument not in known and passes_on:
            slip = difflib.get_close_matches(argument, known, 1, ALIKE)
            if slip:
                key = f"{section}.{argument}"
                raise UsageError(f"unknown key {key!r} for {name}; did you mean {slip[0]!r}?")
            result[argument] = value
            continue
        if argument not in known:
            near = suggest(argument, fixed - known.keys()) or hint(argument, known)
            raise UsageError(f"unknown key '{section}.{argument}' for {name}{near}")
        kind_of_it = hints.get(argument, _usual(known[argument].default))
        result[argument] = _typed(f"{section}.{argument}", value, kind_of_it)
    return result


def _fixed(section: str) -> set[str]:
    """Return the keys of a table that are not passed to its class."""
    table = config.section(section)
    if table is None:
        return set()
    return set(table.model_fields) - getattr(table, "SHARED", frozenset())


def construct(
    section: str,
    name: str,
    kind: Callable[..., Any],
    given: Mapping[str, Any],
    *first: Any,
    **others: Any,
) -> Any:
    """Create an object from the program's arguments and checked arguments of the configuration.

    Parameters
    ----------
    section, name, kind, given
        As in :func:`check`.
    first, others
        Arguments that the program passes.

    Raises
    ------
    UsageError
        As in :func:`check` and :func:`called`.
    """
    positional = list(_parameters(kind))[: len(first)]
    arguments = check(section, name, kind, given, {*positional, *others})
    return called(section, name, kind, *first, **others, **arguments)


def called(section: str, name: str, kind: Callable[..., Any], *first: Any, **others: Any) -> Any:
    """Call a class and report any exception as one line.

    Raises
    ------
    UsageError
        If the class refuses a value (``TypeError``, ``ValueError`` ...) or raises another
        exception.
    """
    try:
        return kind(*first, **others)
    except HpcsampError:
        raise
    except Exception as e:
        usual = isinstance(e, TypeError | ValueError | ArithmeticError | RuntimeError | MemoryError)
        line = " ".join(str(e).split())[:400]
        line = line if usual and line else f"{type(e).__name__}: {line}"
        raise UsageError(f"{section} {name!r}: {line}{_meant(e)}") from e


def _meant(error: Exception) -> str:
    """Suggest a name for an unexpected argument of a call inside the class."""
    found = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected .*argument '(\w+)'", str(error))
    trace = error.__traceback__
    while found and trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if found is None or trace is None:
        return ""
    there = [trace.tb_frame.f_globals.get(found[1]), *trace.tb_frame.f_locals.values()]
    kinds = [k for k in there if callable(k) and getattr(k, "__name__", "") == found[1]]
    return suggest(found[2], accepted(kinds[0])) if kinds else ""


def _hints(kind: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(kind.__init__ if inspect.isclass(kind) else kind, include_extras=True)
    except (NameError, TypeError):  # annotations that only a type checker can resolve
        return {}


def _usual(default: Any) -> Any:
    """Infer the type of an argument without annotation from its default; None if unknown."""
    if isinstance(default, bool | str):
        return type(default)
    return int | float if isinstance(default, int | float) else None


def _typed(key: str, value: Any, hint: Any) -> Any:
    result = value
    if hint is not None:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hint)
            result = adapter.validate_python(value)
        except PydanticSchemaGenerationError:  # a type that pydantic does not know: float | Tensor
            pass
        except ValidationError as e:
            reason = e.errors()[0]["msg"]
            raise UsageError(f"{key} = {shown(value)}: {reason[0].lower()}{reason[1:]}") from None
    reason = refused(value, result)
    if reason:
        raise UsageError(f"{key} = {shown(value)}: {reason}")
    return result

"""Check a configuration: one, or many that share most of their tables."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from hpcsamp.config import former
from hpcsamp.config.messages import explain
from hpcsamp.config.schema import RunConfig
from hpcsamp.config.tables import flatten
from hpcsamp.config.toml import unwritable
from hpcsamp.errors import UsageError
from hpcsamp.names import LIKELIHOODS, LOSSES, METHODS, MODELS, TASKS
from hpcsamp.registry import Registry
from hpcsamp.spelling import shown, suggest

#: Tables whose additional keys are arguments of a class, with the registry of these classes.
CLASSES = {
    "task": TASKS,
    "model": MODELS,
    "method": METHODS,
    "loss": LOSSES,
    "likelihood": LIKELIHOODS,
}


def name_key(table: str) -> str:
    """Return the key that names the class in a table of :data:`CLASSES`."""
    return "kind" if table == "task" else "name"


class Known:
    """Tables that :func:`check` has accepted, so that equal ones are not checked again.

    Only what a table decides by itself is remembered. All checks that concern several tables, the
    validators of :class:`RunConfig` included, see every configuration.

    Parameters
    ----------
    base
        Tables that most of the configurations contain unchanged, as the same objects.
    """

    def __init__(self, base: Mapping[str, Any] | None = None) -> None:
        self._base = base or {}
        self._sections: dict[tuple[str, str], BaseModel] = {}

    def section(self, name: str, table: Any) -> BaseModel | None:
        """Return the section made from an equal table; None if there is none."""
        key = self._key(name, table)
        return None if key is None else self._sections.get(key)

    def add(self, name: str, table: Any, section: Any) -> None:
        """Remember the section made from a table; a value that is no table is left out."""
        key = self._key(name, table)
        if key is not None and isinstance(section, BaseModel):
            self._sections[key] = section

    def _key(self, name: str, table: Any) -> tuple[str, str] | None:
        """Identify a table; None if nothing should be remembered of it."""
        if table is self._base.get(name):
            return name, ""
        try:  # unlike the values themselves, their texts distinguish 1, 1.0 and true
            return name, repr(table)
        except ValueError:  # an integer of thousands of digits
            return None


def check(
    table: Mapping[str, Any], source: str = "configuration", known: Known | None = None
) -> RunConfig:
    """Check a configuration table and return the configuration.

    Parameters
    ----------
    table
        The configuration.
    source
        Its name in messages.
    known
        Tables that need not be checked again; those of this configuration are added.

    Raises
    ------
    UsageError
        If a key or value is wrong; the message names all of them, with suggestions.
    """
    former.check(table, source)
    known = Known() if known is None else known
    old = {name: known.section(name, value) for name, value in table.items()}
    new = {name: value for name, value in table.items() if old[name] is None}
    for key, value in flatten(new).items():
        reason = unwritable(value) if value is not None else ""
        if reason:
            raise UsageError(f"{source}: {key} = {shown(value)}: {reason}")
    try:
        config = RunConfig.model_validate({**old, **new})
    except ValidationError as e:
        raise UsageError(f"{source}: {explain(e)}") from None
    for name in CLASSES.keys() & new.keys():
        _check_spelling(name, getattr(config, name), CLASSES[name], source)
    _check_best(config, source)
    for name, value in new.items():
        known.add(name, value, getattr(config, name))
    return config


def _check_best(config: RunConfig, source: str) -> None:
    best, kind = config.training.best, config.task.kind
    if best != "nll" and kind is not None:  # importing a task takes seconds
        known = TASKS.find(kind).best
        if "/" not in best and best not in known:  # TARGET/metric: by the run
            raise UsageError(
                f'{source}: training.best = "{best}" is not a metric of task = "{kind}"; choose '
                f"one of {', '.join(known)}{suggest(best, known)}"
            )
    if config.training.min_delta and config.training.patience is None:
        raise UsageError(
            f"{source}: training.min_delta = {config.training.min_delta} has no effect without "
            f"training.patience: set training.patience as well, or leave training.min_delta out"
        )


def _check_spelling(table: str, section: Any, registry: Registry, source: str) -> None:
    """Refuse a misspelt key of the schema that is not an argument of the class.

    Other arguments are checked when the class is instantiated, because importing it here would take
    seconds.
    """
    for key in section.model_extra:
        near = suggest(key, type(section).model_fields)
        name = getattr(section, name_key(table))
        if not near or not name or registry.writes(name, key):
            continue
        if not _takes(registry.find(name), key):
            raise UsageError(f"{source}: unknown key '{table}.{key}'{near}")


def _takes(kind: Any, key: str) -> bool:
    """Whether a class, or its configuration class, may accept an argument of this name."""
    known = inspect.signature(kind).parameters
    if key in known or any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return True
    config_class = getattr(kind, "config_class", None)  # networks of the package transformers
    return inspect.isclass(config_class) and _takes(config_class, key)

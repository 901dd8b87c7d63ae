"""TOML in, checked values out; presets and overrides on the way."""

from __future__ import annotations

import copy
import inspect
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from hpcsamp.config import former
from hpcsamp.config.messages import explain
from hpcsamp.config.schema import RunConfig
from hpcsamp.config.tables import flatten, put
from hpcsamp.config.toml import (
    exists,
    join_key,
    parse_toml,
    read_toml,
    split_key,
    split_pair,
    unwritable,
)
from hpcsamp.errors import UsageError
from hpcsamp.names import LIKELIHOODS, LOSSES, METHODS, MODELS, TASKS
from hpcsamp.registry import Registry
from hpcsamp.spelling import shown, suggest

#: Tables whose further keys are the arguments of a class.
CLASSES = {
    "task": TASKS,
    "model": MODELS,
    "method": METHODS,
    "loss": LOSSES,
    "likelihood": LIKELIHOODS,
}


def name_key(table: str) -> str:
    """The key of a table of :data:`CLASSES` that names the class."""
    return "kind" if table == "task" else "name"


def parse_override(text: str) -> tuple[list[str], Any]:
    """Path and value of one ``--set optimizer.lr=1e-3``; the value is TOML, or else a word.

    Raises
    ------
    UsageError
        If it is no ``KEY=VALUE``, or its value begins like TOML without being a value.
    """
    pair = split_pair(text)
    if pair is None:
        raise UsageError(f"--set {shown(text)}: expected KEY=VALUE, e.g. --set optimizer.lr=1e-3")
    key, value = pair
    path = list(split_key(key))
    word = value.strip(" \t")
    try:
        table = tomllib.loads(f"v = {value}")
    except tomllib.TOMLDecodeError as e:
        if word.startswith(('"', "'", "[", "{")):
            raise UsageError(f"--set {shown(text)}: the value is not valid TOML: {e}") from None
        return path, word
    except (ValueError, RecursionError):  # a number of too many digits; lists in lists
        raise UsageError(f"--set {shown(text)}: the value is too large to be read") from None
    if table.keys() != {"v"}:
        raise UsageError(f"--set {shown(text)}: one value is expected, on one line")
    return path, table["v"]


def apply_overrides(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a configuration table with ``--set`` values put in."""
    result = copy.deepcopy(dict(table))
    if isinstance(result.get("task"), str):  # the short form, of which a key may be set
        result["task"] = {"kind": result["task"]}
    for text in overrides:
        path, value = parse_override(text)
        try:
            put(result, join_key(path), value)
        except ValueError as e:
            raise UsageError(f"--set {shown(text)}: {e}") from None
    former.check_overrides(overrides, result)
    return result


def check(table: Mapping[str, Any], source: str = "configuration") -> RunConfig:
    """A checked configuration.

    Raises
    ------
    UsageError
        Naming every wrong key, with a suggestion.
    """
    former.check(table, source)
    for key, value in flatten(table).items():
        reason = unwritable(value) if value is not None else ""
        if reason:
            raise UsageError(f"{source}: {key} = {shown(value)}: {reason}")
    try:
        config = RunConfig.model_validate(dict(table))
    except ValidationError as e:
        raise UsageError(f"{source}: {explain(e)}") from None
    for name, registry in CLASSES.items():
        _check_spelling(name, getattr(config, name), registry, source)
    best, kind = config.training.best, config.task.kind
    if best != "nll" and kind is not None:  # opening a task takes seconds
        known = TASKS.find(kind).best
        if "/" not in best and best not in known:  # those of one of several are checked by a run
            raise UsageError(
                f'{source}: training.best = "{best}" is no metric of task = "{kind}"; there is '
                f"{', '.join(known)}{suggest(best, known)}"
            )
    if config.training.min_delta and config.training.patience is None:
        raise UsageError(
            f"{source}: training.min_delta = {config.training.min_delta} says what counts as an "
            f"improvement for training.patience, which is not given"
        )
    return config


def _check_spelling(table: str, section: Any, registry: Registry, source: str) -> None:
    """Refuse a key that is nearly one of the schema and no argument of the class.

    Other arguments are checked where the class is made: opening it here would take seconds.
    """
    for key in section.model_extra:
        near = suggest(key, type(section).model_fields)
        name = getattr(section, name_key(table))
        if near and name and not _takes(registry.find(name), key):
            raise UsageError(f"{source}: unknown key '{table}.{key}'{near}")


def _takes(kind: Any, key: str) -> bool:
    """Whether a class, or that of its configuration, may have an argument of this name."""
    known = inspect.signature(kind).parameters
    if key in known or any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return True
    theirs = getattr(kind, "config_class", None)  # of transformers' networks
    return inspect.isclass(theirs) and _takes(theirs, key)


def named_configs() -> list[str]:
    """Configurations that come with the package."""
    folder = resources.files("hpcsamp") / "configs"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def apply_preset(table: Mapping[str, Any], preset: str | None) -> dict[str, Any]:
    """A copy of a configuration table without its presets, one of which has its keys put in.

    Parameters
    ----------
    table
        As in the file; ``[preset.NAME]`` holds keys that replace those of the file, table by table.
    preset
        Which one; None for none.

    Raises
    ------
    UsageError
        If there is no such preset, or ``preset`` is not a table of tables.
    """
    result = copy.deepcopy(dict(table))
    presets = result.pop("preset", {})
    if not isinstance(presets, dict) or not all(isinstance(p, dict) for p in presets.values()):
        raise UsageError("preset: tables [preset.NAME] are needed")
    if preset is None:
        return result
    if preset not in presets:
        known = ", ".join(presets) or "none"
        raise UsageError(f"--preset {preset}: there is {known}{suggest(preset, presets)}")
    _put_in(result, presets[preset])
    return result


def _put_in(table: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _put_in(table[key], value)
        else:
            table[key] = value


def read(name: str | Path) -> dict[str, Any]:
    """The table of a configuration, unchecked: of a file, or of one that comes with the package.

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    path = Path(name)
    if str(name) in named_configs() and not path.is_file():
        text = (resources.files("hpcsamp") / "configs" / f"{name}.toml").read_text("utf-8")
        table = parse_toml(text, str(name))
    elif exists(path):
        table = read_toml(path, "the configuration")
    else:
        known = ", ".join(named_configs())
        raise UsageError(f"no configuration {name}: not a file, and not one of {known}")
    if "format" in table:  # the config.toml of a run, taken for a new one
        table.pop("format")
        table.pop("run", None)
    return table


def load(
    name: str | Path, overrides: Sequence[str] = (), *, preset: str | None = None
) -> RunConfig:
    """Read a configuration: a file, or the name of one that comes with the package.

    Parameters
    ----------
    name
        Path of a TOML file, or e.g. ``vit-digits``.
    overrides
        ``KEY=VALUE`` strings, see :func:`parse_override`; they win over a preset.
    preset
        One of the file's presets, see :func:`apply_preset`.

    Raises
    ------
    UsageError
        If it cannot be read, there is no such preset, or a key or value is wrong.
    """
    table = read(name)
    return check(apply_overrides(apply_preset(table, preset), overrides), str(name))


def to_toml(config: RunConfig) -> str:
    """The resolved configuration as TOML, every default written out."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))

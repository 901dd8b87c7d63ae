"""Read a configuration from TOML, apply its preset and overrides, and check it."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from hpcsamp.config import former
from hpcsamp.config.checking import check
from hpcsamp.config.schema import RunConfig
from hpcsamp.config.tables import put
from hpcsamp.config.toml import (
    exists,
    join_key,
    parse_toml,
    read_toml,
    split_key,
    split_pair,
)
from hpcsamp.errors import UsageError
from hpcsamp.spelling import shown, suggest

_LIST = re.compile(r"\[\n(?:    [^\n\[\]{}]*,\n)+\]")
"""A list of numbers or strings as tomli_w writes it, with an entry in each line."""
_ENTRY = re.compile(r"^    (.*),$", re.MULTILINE)


def parse_override(text: str) -> tuple[list[str], Any]:
    """Parse one ``--set KEY=VALUE`` into the path of its key and its value.

    The value is read as TOML if it is valid TOML, and as a plain string otherwise.

    Raises
    ------
    UsageError
        If the text is not ``KEY=VALUE``, or its value begins like TOML (a quote or a bracket) but
        is not valid TOML.
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
    except (ValueError, RecursionError):  # a number with too many digits, or deeply nested lists
        raise UsageError(f"--set {shown(text)}: the value is too large to be read") from None
    if table.keys() != {"v"}:
        raise UsageError(f"--set {shown(text)}: expected a single value on one line")
    return path, table["v"]


def apply_overrides(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``--set`` options to a copy of a configuration table."""
    result = copy.deepcopy(dict(table))
    if isinstance(result.get("task"), str):  # an override can set task.KEY
        result["task"] = {"kind": result["task"]}
    for text in overrides:
        path, value = parse_override(text)
        try:
            put(result, join_key(path), value)
        except ValueError as e:
            raise UsageError(f"--set {shown(text)}: {e}") from None
    former.check_overrides(overrides, result)
    return result


def named_configs() -> list[str]:
    """Return the names of the configurations that are part of the package."""
    folder = resources.files("hpcsamp") / "configs"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def apply_preset(table: Mapping[str, Any], preset: str | None) -> dict[str, Any]:
    """Apply a preset to a copy of a configuration table and remove the presets from it.

    Parameters
    ----------
    table
        The table of the file; ``[preset.NAME]`` holds keys that replace those of the file, table
        by table.
    preset
        Name of the preset; None for none.

    Raises
    ------
    UsageError
        If the preset does not exist, or ``preset`` is not a table of tables.
    """
    result = copy.deepcopy(dict(table))
    presets = result.pop("preset", {})
    if not isinstance(presets, dict) or not all(isinstance(p, dict) for p in presets.values()):
        raise UsageError("preset: expected tables [preset.NAME]")
    if preset is None:
        return result
    if preset not in presets:
        known = f"the presets are {', '.join(presets)}" if presets else "there are no presets"
        raise UsageError(f"--preset {preset}: {known}{suggest(preset, presets)}")
    _put_in(result, presets[preset])
    return result


def _put_in(table: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _put_in(table[key], value)
        else:
            table[key] = value


def read(name: str | Path) -> dict[str, Any]:
    """Read the table of a configuration file or a packaged configuration without checking it.

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
        raise UsageError(f"no configuration {name}: it is neither a file nor one of {known}")
    if "format" in table:  # this is the config.toml of a run, used for a new run
        table.pop("format")
        table.pop("run", None)
    return table


def load(
    name: str | Path, overrides: Sequence[str] = (), *, preset: str | None = None
) -> RunConfig:
    """Read and check a configuration, given as a file or as the name of a packaged one.

    Parameters
    ----------
    name
        Path of a TOML file, or the name of a configuration, e.g. ``vit-digits``.
    overrides
        Strings ``KEY=VALUE``, see :func:`parse_override`; they take precedence over a preset.
    preset
        Name of one of the file's presets, see :func:`apply_preset`.

    Raises
    ------
    UsageError
        If it cannot be read, the preset does not exist, or a key or value is wrong.
    """
    table = read(name)
    return check(apply_overrides(apply_preset(table, preset), overrides), str(name))


def to_toml(config: RunConfig) -> str:
    """Write a resolved configuration as TOML, with every default value; no table is empty."""
    return chosen_toml(config.model_dump(exclude_none=True))


def chosen_toml(table: Mapping[str, Any]) -> str:
    """Write the keys of a configuration as TOML; no table is empty, and lists are on one line."""
    text = tomli_w.dumps({key: value for key, value in table.items() if value != {}})
    return _LIST.sub(lambda found: "[" + ", ".join(_ENTRY.findall(found[0])) + "]", text)

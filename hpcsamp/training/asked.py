"""Convert the arguments of ``hs.fit`` to the configuration of a run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp import config as configuration
from hpcsamp.config import RunConfig, flatten, put
from hpcsamp.config.reading import read
from hpcsamp.errors import UsageError
from hpcsamp.run.kind import SEVERAL

#: Default number of items per step; a smaller dataset limits it.
BATCH = 64
#: Tables of the configuration that may be written as a name alone.
SHORT = ("loss", "likelihood", "method", "model", "optimizer")


def asked_for(
    config: str | Path | Mapping[str, Any] | None, keys: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge ``config`` with the keys of a call, which take precedence.

    Raises
    ------
    UsageError
        If a key does not fit into the tables of ``config``.
    """
    if config is None:
        table: dict[str, Any] = {}
    elif isinstance(config, Mapping):
        table = copy.deepcopy(dict(config))
        table |= {key: {"name": table[key]} for key in SHORT if isinstance(table.get(key), str)}
    else:
        table = configuration.apply_preset(read(config), None)
        for own in ("format", "run"):  # keys of the config.toml of a run
            table.pop(own, None)
    try:
        for key, value in keys.items():
            if value is not None:
                short = isinstance(value, str) and key in SHORT
                _put(table, f"{key}.name" if short else key, _plain(value))
    except ValueError as e:
        raise UsageError(f"hs.fit: {e}") from None
    return table


def _outputs(table: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the tables of ``[task.outputs]`` by the name of the target."""
    task = table.get("task")
    found = task.get("outputs") if isinstance(task, Mapping) else None
    named = found if isinstance(found, Mapping) else {}
    each = {n: {"kind": of} if isinstance(of, str) else of for n, of in named.items()}
    return {n: of for n, of in each.items() if isinstance(of, Mapping)}


def tasks_of(table: Mapping[str, Any]) -> Any:
    """Return the kind of task in a configuration, or the kind of each target by its name."""
    task = table.get("task")
    kinds = {n: of["kind"] for n, of in _outputs(table).items() if "kind" in of}
    kind = task.get("kind") if isinstance(task, Mapping) else task
    return kinds or (None if kind == SEVERAL else kind)


def modelled(table: Mapping[str, Any]) -> list[str]:
    """Names of the targets with a likelihood in the configuration; ``y`` for that of the run."""
    found = [name for name, of in _outputs(table).items() if of.get("likelihood")]
    return [*found, *(["y"] if table.get("likelihood") else [])]


def completed(
    asked: Mapping[str, Any],
    task: Any,
    model: Mapping[str, Any],
    path: str,
    kind: str,
    items: int,
) -> RunConfig:
    """Return the complete, checked configuration of a call.

    Parameters
    ----------
    asked
        Result of :func:`asked_for`.
    task
        Argument ``task``; a dictionary for several targets.
    model
        Keys of ``[model]`` that represent a network passed as an object.
    path, kind, items
        Properties of the dataset: folder, task, and number of training items.

    Raises
    ------
    UsageError
        If the result is not a valid configuration.
    """
    table = copy.deepcopy(dict(asked))
    try:
        if kind != SEVERAL:
            own = table.get("task")
            output = dict(own) if isinstance(own, Mapping) else {"kind": own}
            put(table, "task", {**output, "kind": task or output.get("kind") or kind})
        elif isinstance(task, Mapping):  # the kinds of the others are those of the dataset
            own = table.get("task")
            own = dict(own) if isinstance(own, Mapping) else {}
            each = {n: {**_outputs(table).get(n, {}), "kind": of} for n, of in task.items()}
            put(table, "task", {**own, "outputs": {**own.get("outputs", {}), **each}})
        others = table.get("model", {})
        put(table, "model", {**others, **model})
        put(table, "data.path", path)
        if "batch" not in table["data"]:
            put(table, "data.batch", min(BATCH, items))
    except ValueError as e:
        raise UsageError(f"hs.fit: {e}") from None
    return configuration.check(table, "hs.fit")


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set a key; merge a table, so that its other keys are kept."""
    if not isinstance(value, Mapping):
        put(table, key, value)
        return
    for name, part in flatten(value).items():
        put(table, f"{key}.{name}", part)


def _plain(value: Any) -> Any:
    """Convert a value to a type that TOML supports."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value

"""Renamed configuration keys: the table ``[loss.arguments]`` and ``method.fold`` of mc_dropout.

``[loss.arguments]`` held the arguments of both the loss and its likelihood. A new configuration
with former keys is refused with a message that lists the current ones; the configuration of an
existing run is converted when it is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from hpcsamp.config.sections.loss import LossSection
from hpcsamp.config.toml import join_key, split_key, split_pair, toml_value
from hpcsamp.errors import UsageError
from hpcsamp.names import LOSSES
from hpcsamp.spelling import shown

FORMER = ("loss", "arguments")


def is_former(key: str) -> bool:
    """Whether a dotted key lies in ``[loss.arguments]``."""
    path = split_key(key)
    return path[:2] == FORMER and len(path) > 2


def renamed(key: str, loss: Any) -> str | None:
    """Return the current key for a former key, e.g. ``likelihood.std``; None if it has not changed.

    Parameters
    ----------
    key
        A dotted key.
    loss
        ``loss.name``, or None. The class of the loss decides which of the arguments belong to it.
    """
    if not is_former(key):
        return None
    own, *inner = split_key(key)[2:]
    if own == "likelihood":
        return join_key(["likelihood", "name", *inner])
    known = "expected_nll" if loss is None else loss
    of_loss = own in LossSection.model_fields or any(own in _own(n) for n in (known, *LOSSES))
    return join_key(["loss" if of_loss else "likelihood", own, *inner])


def key_of_before(key: str) -> str:
    """Return the former key for a current key (inverse of :func:`renamed`), or ``key`` itself."""
    if key == "task.kind":  # the task was a string before it became a table
        return "task"
    table, *path = split_key(key)
    if table == "likelihood" and path:
        return join_key([*FORMER, *(["likelihood"] if path == ["name"] else path)])
    if table == "loss" and path and path[0] not in LossSection.model_fields:
        return join_key([*FORMER, *path])
    return key


def check(table: Mapping[str, Any], source: str) -> None:
    """Refuse a new configuration with former keys.

    Raises
    ------
    UsageError
        If the configuration has former keys; the message lists the keys to write instead.
    """
    loss, method = table.get("loss"), table.get("method")
    if isinstance(method, Mapping) and method.get("name") == "mc_dropout" and "fold" in method:
        raise UsageError(
            f"{source}: method.fold = {shown(method['fold'])}: write method.samples_per_pass, "
            f"the number of samples evaluated at once by any method; without it, a short "
            f"measurement finds the fastest number"
        )
    if not isinstance(loss, Mapping) or "arguments" not in loss:
        return
    given = loss["arguments"]
    if not isinstance(given, Mapping) or not given:
        raise UsageError(
            f"{source}: loss.arguments = {shown(given)}: leave it out; the arguments of the loss "
            f"are now keys of [loss], those of the likelihood are keys of [likelihood]"
        )
    tables: dict[str, list[str]] = {"loss": [], "likelihood": []}
    for name, value in given.items():
        key = renamed(join_key([*FORMER, name]), loss.get("name"))
        assert key is not None
        table_name, own = split_key(key)
        tables[table_name].append(f"{join_key([own])} = {_written(value)}")
    current = " and ".join(f"[{name}] {', '.join(keys)}" for name, keys in tables.items() if keys)
    raise UsageError(f"{source}: [loss.arguments] no longer exists: write {current}")


def check_overrides(overrides: Sequence[str], table: Mapping[str, Any]) -> None:
    """Refuse ``--set`` with a former key.

    Parameters
    ----------
    overrides
        Strings ``KEY=VALUE``.
    table
        The configuration with all overrides applied.

    Raises
    ------
    UsageError
        If one of the keys is a former one; the message shows the option with the current key.
    """
    for text in overrides:
        key, value = split_pair(text) or ("", "")
        if key and is_former(key):
            today = renamed(key, table["loss"].get("name"))
            raise UsageError(f"--set {shown(text)}: write --set {today}={value}")


def converted(table: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the configuration of an existing run from former keys to current ones."""
    method = table.get("method")
    if isinstance(method, Mapping) and method.get("name") == "mc_dropout" and "fold" in method:
        table = {**table, "method": {k: v for k, v in method.items() if k != "fold"}}
    loss = table.get("loss")
    if not isinstance(loss, Mapping) or not isinstance(loss.get("arguments"), Mapping):
        return dict(table)
    tables: dict[str, dict[str, Any]] = {"loss": {}, "likelihood": {}}
    for name, value in loss["arguments"].items():
        key = renamed(join_key([*FORMER, name]), loss.get("name"))
        assert key is not None
        table_name, own = split_key(key)
        tables[table_name][own] = value
    rest = {k: v for k, v in loss.items() if k != "arguments"}
    return {**table, "loss": {**rest, **tables["loss"]}, "likelihood": tables["likelihood"]}


def _own(loss: Any) -> set[str]:
    """Names of the configuration keys of a loss, without those of its likelihood."""
    names = set(inspect.signature(LOSSES.find(loss)).parameters)
    return names - {"likelihood"} | ({"latitudes"} if "weights" in names else set())


def _written(value: Any) -> str:
    try:
        return toml_value(value)
    except TypeError:
        return shown(value)

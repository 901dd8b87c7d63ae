"""Keys of before, when ``[loss.arguments]`` held the arguments of the loss and of its likelihood,
and mc_dropout had a ``fold`` of its own.

New configurations are refused with the keys of today spelled out; what a run has written before is
converted as it is read.
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
    """Whether a dotted key is one of ``[loss.arguments]``."""
    path = split_key(key)
    return path[:2] == FORMER and len(path) > 2


def renamed(key: str, loss: Any) -> str | None:
    """Today's key of a former one, e.g. ``likelihood.std``; None for a key that has not changed.

    Parameters
    ----------
    key
        Dotted.
    loss
        ``loss.name``, or None: which of the arguments are the loss's own depends on its class.
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
    """The former key of one of today, the inverse of :func:`renamed`; another as it is."""
    if key == "task.kind":  # was a string, then a table
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
        With the keys to write instead.
    """
    loss, method = table.get("loss"), table.get("method")
    if isinstance(method, Mapping) and method.get("name") == "mc_dropout" and "fold" in method:
        raise UsageError(
            f"{source}: method.fold = {shown(method['fold'])}: write method.samples_per_pass, "
            f"which is the number of samples of a pass for every method; without it the fastest "
            f"is found by a short measurement"
        )
    if not isinstance(loss, Mapping) or "arguments" not in loss:
        return
    given = loss["arguments"]
    if not isinstance(given, Mapping) or not given:
        raise UsageError(
            f"{source}: loss.arguments = {shown(given)}: leave it out; the arguments of the loss "
            f"are keys of [loss], those of the likelihood keys of [likelihood]"
        )
    tables: dict[str, list[str]] = {"loss": [], "likelihood": []}
    for name, value in given.items():
        key = renamed(join_key([*FORMER, name]), loss.get("name"))
        assert key is not None
        table_name, own = split_key(key)
        tables[table_name].append(f"{join_key([own])} = {_written(value)}")
    said = " and ".join(f"[{name}] {', '.join(keys)}" for name, keys in tables.items() if keys)
    raise UsageError(f"{source}: there is no [loss.arguments] any more: write {said}")


def check_overrides(overrides: Sequence[str], table: Mapping[str, Any]) -> None:
    """Refuse ``--set`` of a former key.

    Parameters
    ----------
    overrides
        ``KEY=VALUE``.
    table
        The configuration with all of them put in.

    Raises
    ------
    UsageError
        With the same in today's key.
    """
    for text in overrides:
        key, value = split_pair(text) or ("", "")
        if key and is_former(key):
            today = renamed(key, table["loss"].get("name"))
            raise UsageError(f"--set {shown(text)}: write --set {today}={value}")


def converted(table: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run, with the keys of today where it was written with former ones."""
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
    """Arguments that a loss itself takes in a configuration."""
    names = set(inspect.signature(LOSSES.find(loss)).parameters)
    return names - {"likelihood"} | ({"latitudes"} if "weights" in names else set())


def _written(value: Any) -> str:
    try:
        return toml_value(value)
    except TypeError:
        return shown(value)

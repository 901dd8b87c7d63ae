"""The kind of task of a run: as configured, else that of its dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcsamp.config import RunConfig
from hpcsamp.data.manifest import NAME, read_manifest
from hpcsamp.errors import UsageError
from hpcsamp.ingest.synthetic import synthetic
from hpcsamp.spelling import suggest
from hpcsamp.tasks import Targets

SEVERAL = "several"
"""The kind of a set with several targets, each of which has its own."""


def kind_of(config: RunConfig) -> str:
    """Name of the task of a configuration.

    Raises
    ------
    DataError
        If neither the configuration nor a dataset says what it is.
    """
    if config.task.kind is not None:
        return config.task.kind
    return str(_told(config).task)


def completed(config: RunConfig) -> RunConfig:
    """The configuration with a kind of task, of several targets with one for each.

    Raises
    ------
    DataError, UsageError
        If neither the configuration nor a dataset says what it is, or they name other targets.
    """
    kind, outputs = config.task.kind, config.task.arguments.get("outputs", {})
    whole = outputs and all(
        isinstance(of, dict) and {"kind", "weight"} <= of.keys() for of in outputs.values()
    )
    if kind not in (None, SEVERAL) or (kind == SEVERAL and whole):
        return config
    return with_kind(config, Targets.of(_told(config)))


def with_kind(config: RunConfig, targets: Targets) -> RunConfig:
    """The configuration with the kind of task of a set, as far as it has none.

    Raises
    ------
    UsageError
        If it names targets that the set does not have.
    """
    kind = config.task.kind or targets.kind
    table: dict[str, Any] = {**config.task.model_dump(), "kind": kind}
    if kind == SEVERAL and targets.parts:
        table["outputs"] = _outputs(table.get("outputs") or {}, targets)
    return config.model_copy(update={"task": type(config.task).model_validate(table)})


def _outputs(given: Any, targets: Targets) -> dict[str, Any]:
    """The tables of all targets in the order of the set, each with a kind and a weight."""
    if not isinstance(given, dict):
        raise UsageError(f"task.outputs = {given!r}: tables [task.outputs.NAME] are needed")
    for name, of in given.items():
        if name not in targets.parts:
            raise UsageError(
                f"task.outputs.{name}: the set has the targets {', '.join(targets.parts)}"
                f"{suggest(name, targets.parts)}"
            )
        if not isinstance(of, dict | str):
            raise UsageError(f"task.outputs.{name} = {of!r}: a table is needed, or a kind of task")
    named = {n: {"kind": of} if isinstance(of, str) else of for n, of in given.items()}
    return {
        name: {"kind": part.kind, "weight": 1.0, **named.get(name, {})}
        for name, part in targets.parts.items()
    }


def _told(config: RunConfig) -> Any:
    """The manifest of the dataset, or the source of a made-up one that is not there yet."""
    made_up, path = config.data.synthetic, config.data.path
    if made_up is not None and not Path(path, NAME).is_file():
        return synthetic(made_up.like, made_up.items, seed=made_up.seed, grid=made_up.grid)
    return read_manifest(path)

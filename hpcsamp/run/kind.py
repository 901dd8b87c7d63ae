"""Determine the kind of task of a run from its configuration, or else from its dataset."""

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
"""Kind of a dataset with several targets, each of which has its own kind."""


def kind_of(config: RunConfig) -> str:
    """Name of the task of a configuration.

    Raises
    ------
    DataError
        If neither the configuration nor a dataset determines it.
    """
    if config.task.kind is not None:
        return config.task.kind
    return str(_target_source(config).task)


def completed(config: RunConfig) -> RunConfig:
    """Add a missing kind of task to a configuration; with several targets, that of each target.

    Raises
    ------
    DataError, UsageError
        If neither the configuration nor a dataset determines it, or they name different targets.
    """
    kind, outputs = config.task.kind, config.task.arguments.get("outputs", {})
    whole = outputs and all(
        isinstance(of, dict) and {"kind", "weight"} <= of.keys() for of in outputs.values()
    )
    if kind not in (None, SEVERAL) or (kind == SEVERAL and whole):
        return config
    return with_kind(config, Targets.of(_target_source(config)))


def with_kind(config: RunConfig, targets: Targets) -> RunConfig:
    """Add the kind of task of a dataset to a configuration that does not name one.

    Raises
    ------
    UsageError
        If it names targets that the dataset does not have.
    """
    kind = config.task.kind or targets.kind
    table: dict[str, Any] = {**config.task.model_dump(), "kind": kind}
    if kind == SEVERAL and targets.parts:
        table["outputs"] = _outputs(table.get("outputs") or {}, targets)
    return config.model_copy(update={"task": type(config.task).model_validate(table)})


def _outputs(given: Any, targets: Targets) -> dict[str, Any]:
    """Return the tables of all targets in the dataset's order, each with a kind and a weight."""
    if not isinstance(given, dict):
        raise UsageError(f"task.outputs = {given!r}: must be tables [task.outputs.NAME]")
    for name, of in given.items():
        if name not in targets.parts:
            raise UsageError(
                f"task.outputs.{name}: the dataset has the targets {', '.join(targets.parts)}"
                f"{suggest(name, targets.parts)}"
            )
        if not isinstance(of, dict | str):
            raise UsageError(f"task.outputs.{name} = {of!r}: must be a table or a kind of task")
    named = {n: {"kind": of} if isinstance(of, str) else of for n, of in given.items()}
    return {
        name: {"kind": part.kind, "weight": 1.0, **named.get(name, {})}
        for name, part in targets.parts.items()
    }


def _target_source(config: RunConfig) -> Any:
    """The manifest of the dataset, or the source of a synthetic one that does not exist yet."""
    made_up, path = config.data.synthetic, config.data.path
    if made_up is not None and not Path(path, NAME).is_file():
        return synthetic(made_up.like, made_up.items, seed=made_up.seed, grid=made_up.grid)
    return read_manifest(path)

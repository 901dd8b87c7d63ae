"""The kind of task of a run: as configured, else that of its dataset."""

from __future__ import annotations

from pathlib import Path

from hpcsamp.config import RunConfig
from hpcsamp.data.manifest import NAME, read_manifest
from hpcsamp.ingest.synthetic import synthetic


def kind_of(config: RunConfig) -> str:
    """Name of the task of a configuration.

    Raises
    ------
    DataError
        If neither the configuration nor a dataset says what it is.
    """
    if config.task.kind is not None:
        return config.task.kind
    made_up, path = config.data.synthetic, config.data.path
    if made_up is not None and not Path(path, NAME).is_file():
        return synthetic(made_up.like, made_up.items, seed=made_up.seed, grid=made_up.grid).task
    return read_manifest(path).task


def with_kind(config: RunConfig, kind: str) -> RunConfig:
    """The configuration with a kind of task, unless it has one."""
    if config.task.kind is not None:
        return config
    return config.model_copy(update={"task": config.task.model_copy(update={"kind": kind})})

"""Configurations with every default written out, for records and their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcsamp import losses, methods, models, tasks
from hpcsamp.config import RunConfig, check
from hpcsamp.run.assemble import likelihood
from hpcsamp.run.kind import kind_of


def resolved(config: RunConfig) -> RunConfig:
    """The configuration with the arguments of model, method, loss and likelihood written out."""
    table = config.model_dump(exclude_none=True)
    table["model"] = models.defaults(config.model) | table["model"]
    table["method"] = methods.registry.defaults(config.method.name) | table["method"]
    kind = kind_of(config)
    table["task"] = {"kind": kind} | tasks.defaults(kind) | table["task"]
    of_loss, outputs = losses.defaults(config.loss.name, kind, config.likelihood.table)
    table["loss"] = of_loss | table["loss"]
    table["likelihood"] = outputs | table["likelihood"]
    return check(table)


def of_version(config: RunConfig, version: int) -> RunConfig:
    """A configuration with those defaults written out that differed in a version of checkpoints.

    In version 1 the noise of a regression had the standard deviation 1 unless another was given.
    """
    if version > 1 or not isinstance(likelihood(config), losses.LearnedGaussian):
        return config
    table = config.model_dump(exclude_none=True)
    table["likelihood"]["name"] = "gaussian"
    return check(table)


def table_of(config: RunConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A configuration for checkpoints and their comparison.

    What an older version did not know has today's defaults: a new key is no other configuration.

    Parameters
    ----------
    config
        Of a run, or the table of a checkpoint.
    """
    run = config if isinstance(config, RunConfig) else check(config, "checkpoint")
    return resolved(run).model_dump(mode="json", exclude_none=True)

"""Add all default values to a configuration, for records and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcsamp import losses, methods, models, tasks
from hpcsamp.config import RunConfig, check
from hpcsamp.run.assemble import likelihood
from hpcsamp.run.kind import SEVERAL, completed, kind_of


def resolved(config: RunConfig) -> RunConfig:
    """Configuration with the arguments of model, method, loss and likelihood written out."""
    table = config.model_dump(exclude_none=True)
    table["model"] = models.defaults(config.model) | table["model"]
    table["method"] = methods.registry.defaults(config.method.name) | table["method"]
    config = completed(config)
    kind = kind_of(config)
    table["task"] = {"kind": kind} | tasks.defaults(kind) | config.task.model_dump()
    of_loss, noise = losses.defaults(config.loss.name, kind, config.likelihood.table)
    if kind == SEVERAL:
        noise = {}  # each target has its own
        outputs = config.task.arguments.get("outputs", {})
        table["task"]["outputs"] = {name: _output(of, config) for name, of in outputs.items()}
    table["loss"] = of_loss | table["loss"]
    table["likelihood"] = noise | table["likelihood"]
    return check(table)


def _output(given: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """Table of one of several targets with the arguments of its classes written out."""
    kind, own = given["kind"], given.get("loss")
    loss = {"name": own} if isinstance(own, str) else own
    name = config.loss.name if loss is None else loss.get("name", config.loss.name)
    noise = given.get("likelihood", {})
    noise = {"name": noise} if isinstance(noise, str) else noise
    of_loss, of_noise = losses.defaults(name, kind, noise)
    table = tasks.defaults(kind) | dict(given)
    if loss is not None:
        table["loss"] = {"name": name} | of_loss | loss
    if of_noise or noise:
        table["likelihood"] = of_noise | noise
    return table


def of_version(config: RunConfig, version: int) -> RunConfig:
    """Add the defaults that were different in an older version of checkpoints.

    In version 1, the default standard deviation of the noise of a regression was 1.
    """
    if version > 1 or not isinstance(likelihood(config), losses.LearnedGaussian):
        return config
    table = config.model_dump(exclude_none=True)
    table["likelihood"]["name"] = "gaussian"
    return check(table)


def table_of(config: RunConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Table of a configuration for checkpoints and their comparison.

    Keys that an older version did not have get the present defaults, so a new key does not
    count as a difference.

    Parameters
    ----------
    config
        Configuration of a run, or the table in a checkpoint.
    """
    run = config if isinstance(config, RunConfig) else check(config, "checkpoint")
    return resolved(run).model_dump(mode="json", exclude_none=True)

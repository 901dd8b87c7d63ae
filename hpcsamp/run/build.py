"""From a configuration to the objects of a run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from hpcsamp import arguments as free
from hpcsamp import losses, methods, models
from hpcsamp.config import RunConfig, check, suggest
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology
from hpcsamp.losses import Likelihood
from hpcsamp.methods import Method

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


def method(config: RunConfig, dataset: Dataset, topology: Topology) -> Method:
    """The model under its sampling method, on this rank's device.

    Raises
    ------
    UsageError
        If the dataset is for another task, or the model does not fit the data.
    """
    if dataset.task != config.task:
        raise UsageError(
            f'task = "{config.task}", but the dataset {dataset.path} is for {dataset.task}'
        )
    outputs = models.output_size(dataset.task, dataset.classes, dataset.y_shape)
    mean, std = dataset.y_scale()
    c = config.method
    made = methods.make(
        c.name,
        partial(network, config, dataset.x_shape, outputs, std, mean),
        c.arguments,
        samples=c.samples,
        own=topology.samples(c.samples),
        seed=config.seed,
        samples_per_pass=c.samples_per_pass,
        autocast=torch.bfloat16 if config.training.precision == "bfloat16" else None,
    )
    return made.to(device=topology.device, dtype=DTYPES[config.training.precision])


def network(
    config: RunConfig,
    x_shape: tuple[int, ...],
    values: int,
    std: Any = 1.0,
    mean: Any = 0.0,
    member: int | None = None,
) -> torch.nn.Module:
    """The network of a run with what its likelihood adds to it.

    Parameters
    ----------
    x_shape
        Of an input.
    values
        Classes, or values of a target.
    std, mean
        Of the training targets.
    member
        See :func:`hpcsamp.models.build`.
    """
    m, noise = config.model, likelihood(config)
    outputs = values * (noise.parameters - noise.beside)
    made = models.build(m.name, m.arguments, x_shape, outputs, config.seed, member)
    return noise.complete(made, std, mean)


def resolved(config: RunConfig) -> RunConfig:
    """The configuration with the arguments of model, method and loss written out."""
    table = config.model_dump(exclude_none=True)
    table["model"] = models.defaults(config.model.name) | table["model"]
    table["method"] = methods.registry.defaults(config.method.name) | table["method"]
    loss = table["loss"]
    loss["arguments"] = (
        losses.defaults(loss["name"], config.task, loss["arguments"]) | loss["arguments"]
    )
    return check(table)


def of_version(config: RunConfig, version: int) -> RunConfig:
    """A configuration with those defaults written out that differed in a version of checkpoints.

    In version 1 the noise of a regression had the standard deviation 1 unless another was given.
    """
    if version > 1 or not isinstance(likelihood(config), losses.LearnedGaussian):
        return config
    table = config.model_dump(exclude_none=True)
    table["loss"]["arguments"]["likelihood"] = "gaussian"
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


def likelihood(config: RunConfig) -> Likelihood:
    """The observation model: what an output means."""
    return losses.make_likelihood(config.task, config.loss.arguments, config.loss.name)


#: Optimisers that treat each element alone, so that a part can be updated without the rest.
ELEMENTWISE = {
    "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop",
    "SGD",
}  # fmt: skip


def optimizer(config: RunConfig, method: Method, parameters: Any) -> torch.optim.Optimizer:
    """An optimiser of ``torch.optim``, or the method's own, by its name; fused where it can be.

    The parameters are few flat tensors, so a fused update is one pass over memory (Adam of 5.4
    million parameters on a CPU: 6 ms for 34 ms).

    Parameters
    ----------
    parameters
        The method's, or this rank's shards of them.

    Raises
    ------
    UsageError
        For an unknown name or argument, one that does not suit the method, or
        ``optimizer.sharded`` where it cannot be had.
    """
    c = config.optimizer
    own = method.optimizers
    if own and c.name not in own:
        raise UsageError(
            f"method {config.method.name!r} needs optimizer.name = "
            f"{' or '.join(repr(n) for n in own)}, not {c.name!r}"
        )
    if c.sharded and (method.members is not None or c.name not in ELEMENTWISE):
        raise UsageError(
            f"optimizer.sharded: every rank has parameters of its own with method "
            f"{config.method.name!r}, there is nothing to share out"
            if method.members is not None
            else f"optimizer.sharded cannot be had with {c.name}, which looks at whole tensors; "
            f"with {', '.join(sorted(ELEMENTWISE))} it can"
        )
    if own:
        made: torch.optim.Optimizer = free.construct(
            "optimizer", c.name, own[c.name], c.arguments, parameters
        )
        return made
    arguments = dict(c.arguments)
    kind = getattr(torch.optim, c.name, None)
    ways = {"fused", "foreach", "differentiable"}
    if inspect.isclass(kind) and "fused" in inspect.signature(kind).parameters:
        arguments |= {} if ways & arguments.keys() else {"fused": True}
    return _named(torch.optim, torch.optim.Optimizer, "optimizer", c.name, parameters, arguments)


def schedule(
    config: RunConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """A schedule of ``torch.optim.lr_scheduler`` by its name, counted in steps.

    ``T_max``, ``total_steps`` and ``total_iters`` are the whole run unless given. A warm-up grows
    the learning rate linearly from near zero before the schedule begins.
    """
    c, family = config.schedule, torch.optim.lr_scheduler
    total = config.training.epochs * steps_per_epoch
    warm = round(c.warmup_epochs * steps_per_epoch)
    said = getattr(optimizer, "own_schedule", None)
    if said and (c.name != "none" or warm):
        key = f"name = {c.name!r}" if c.name != "none" else f"warmup_epochs = {c.warmup_epochs}"
        raise UsageError(f"schedule.{key}, but {said}; leave [schedule] out")
    main: Any = None
    if c.name != "none":
        arguments = dict(c.arguments)
        kind = getattr(family, c.name, None)
        for length in ("T_max", "total_steps", "total_iters"):
            if inspect.isclass(kind) and length in inspect.signature(kind).parameters:
                arguments.setdefault(length, max(1, total - warm))
        main = _named(family, family.LRScheduler, "schedule", c.name, optimizer, arguments)
    if not warm:
        return main
    grow = family.LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
    if main is None:
        return grow
    return family.SequentialLR(optimizer, [grow, main], milestones=[warm])


def _named(room: Any, base: type, section: str, name: str, first: Any, arguments: Any) -> Any:
    known = [
        n
        for n, v in vars(room).items()
        if inspect.isclass(v) and issubclass(v, base) and v is not base and not n.startswith("_")
    ]
    if name not in known:
        raise UsageError(f"{section}.name = {name!r} is not in torch{suggest(name, known)}")
    return free.construct(section, name, getattr(room, name), arguments, first)

"""What trains a run: its loss with the penalty, its optimiser, and the schedule of that."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from hpcsamp import arguments as free
from hpcsamp import collectives as exchange
from hpcsamp.collectives import Collectives
from hpcsamp.config import RunConfig
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology, together
from hpcsamp.losses import ELBO, schedules
from hpcsamp.methods import Method
from hpcsamp.methods.eager import eager
from hpcsamp.run.assemble import Run
from hpcsamp.spelling import suggest

#: Steps between comparisons of ranks, which every evaluation compares whole.
COMPARE_EVERY = 16


class Optimisation:
    """The loss, the optimiser and the schedule of a run. Collective over the world.

    Parameters
    ----------
    run
        What is trained.
    topology, collectives
        The grid, and the exchange between its ranks.
    items
        ``N``, the number of training items.
    steps_per_epoch
        By which schedules and warm-ups count.

    Attributes
    ----------
    loss
        Data term and penalty, see :class:`~hpcsamp.losses.ELBO`.
    optimizer
        Exchanges the gradients of all ranks.
    schedule
        Of the learning rate, or None.
    updates
        What of the parameters this rank updates.

    Raises
    ------
    UsageError
        If loss, method, optimiser and schedule do not fit; the same on every rank.
    """

    def __init__(
        self,
        run: Run,
        topology: Topology,
        collectives: Collectives,
        *,
        items: int,
        steps_per_epoch: int,
    ) -> None:
        config, method = run.config, run.method
        c = config.loss
        with together(topology.world):
            whole = config.training.epochs * steps_per_epoch  # also of a run that stops before
            method.begin(items, whole, steps_per_epoch)
            method.check_loss(c.name, run.data_loss.linear)
            if c.kl == "monte_carlo" or run.data_loss.joint:
                with torch.no_grad():  # have its draws a density at all?
                    method.log_ratio(run.own[:1], 0)
            self.updates = exchange.updates_of(method, collectives, config.optimizer.sharded)
            self.optimizer = optimizer(config, method, self.updates.parts)
            warm = round(c.kl_warmup_epochs * steps_per_epoch)
            self.loss = ELBO(
                run.data_loss,
                items,
                collectives,
                temperature=c.temperature,
                warmup=schedules.linear(warm) if warm > 0 else None,
                exact=c.exact,
                memory=c.memory,
                kl=c.kl,
                accumulate=config.data.accumulate,
            )
            self.loss.check_samples(config.method.samples)
            self.schedule = schedule(config, self.optimizer, steps_per_epoch)
        exchange.distribute(
            self.optimizer,
            collectives,
            method,
            clip=config.optimizer.clip,
            updates=self.updates,
            compare_every=COMPARE_EVERY,
        )


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
        What of the method's this rank updates.

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
    if c.sharded and c.name not in ELEMENTWISE:
        raise UsageError(
            f"optimizer.sharded cannot be had with {c.name}, which looks at whole tensors; "
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
    kind = getattr(room, name)
    if base is torch.optim.Optimizer:
        kind = eager(kind)
    return free.construct(section, name, kind, arguments, first)

"""The optimisation of a run: loss with penalty, optimiser, and learning-rate schedule."""

from __future__ import annotations

import torch

from hpcsamp import collectives as exchange
from hpcsamp.collectives import Collectives
from hpcsamp.grid import Topology, together
from hpcsamp.losses import ELBO, schedules
from hpcsamp.run.assemble import Run
from hpcsamp.run.average import Average
from hpcsamp.run.optimizer import optimizer, updates
from hpcsamp.run.schedule import Schedule

#: Number of steps between comparisons of replicas; evaluations compare all of their tensors.
COMPARE_EVERY = 16


class Optimisation:
    """Loss, optimiser and schedule of a run. Collective over the world.

    Parameters
    ----------
    run
        Run to be trained.
    topology, collectives
        Grid, and transport between its ranks.
    items
        ``N``, number of training items.
    steps_per_epoch
        Number of steps per epoch, the unit of schedules and warm-ups.

    Attributes
    ----------
    loss
        Data term and penalty, see :class:`~hpcsamp.losses.ELBO`.
    optimizer
        Optimiser that exchanges the gradients of all ranks.
    schedule
        Schedule of the learning rate.
    average
        Average of the weights, for evaluations.
    updates
        Part of the parameters that this rank updates.

    Raises
    ------
    UsageError
        If loss, method, optimiser and schedule do not fit together; the same on every rank.
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
        if config.optimizer.sharded == "weights":
            with together(topology.world):
                method.check_shares()
            method.share_out(exchange.SampleGroup(collectives))
        with together(topology.world):
            whole = config.training.epochs * steps_per_epoch  # even if the run stops earlier
            method.begin(items, whole, steps_per_epoch)
            method.check_loss(c.name, run.data_loss.linear)
            if c.kl == "monte_carlo" or run.data_loss.joint:
                with torch.no_grad():  # do its draws have a density?
                    method.log_ratio(run.own[:1], 0)
            self.updates = updates(config, method, collectives)
            self.optimizer = optimizer(config, method, self.updates)
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
                graphs=config.training.graphs,
            )
            self.loss.check_samples(config.method.samples)
            self.average = Average(method, config.training.ema)
            self.schedule = Schedule(config, self.optimizer, steps_per_epoch)
        exchange.distribute(
            self.optimizer,
            collectives,
            method,
            clip=config.optimizer.clip,
            updates=self.updates,
            compare_every=COMPARE_EVERY,
            buckets=config.parallel.buckets,
        )
        with together(topology.world):
            self.loss.check_method(method)

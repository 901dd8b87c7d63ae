"""Lower bound of a step: one pass of the plain network for each sample."""

from __future__ import annotations

from hpcsamp.bench.baselines import feed
from hpcsamp.bench.baselines.network import Training, criterion, network, optimizer
from hpcsamp.config import RunConfig
from hpcsamp.grid import Topology


def passes(config: RunConfig, topology: Topology) -> Training:
    """S forward and backward passes of the plain network, gradients added up, one update."""
    net = network(config, topology.device)
    update, loss = optimizer(config, net.parameters()), criterion(config)
    batches = feed.batches(config, topology.device)

    def step() -> None:
        x, y = next(batches)
        for _ in range(config.method.samples):
            (loss(net(x), y) / config.method.samples).backward()
        update.step()
        update.zero_grad()

    return Training(net, step)

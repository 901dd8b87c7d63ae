"""Baselines with torch's DistributedDataParallel: the paper's sample split and data parallelism."""

from __future__ import annotations

import gc
from typing import Any

import torch

# its functions hold the process group as a default argument if it is imported later, as DDP does
import torch.distributed.nn
from torch import nn

from hpcsamp.bench.baselines import feed, torch_blue
from hpcsamp.bench.baselines.network import Training, criterion, network, optimizer, repeated
from hpcsamp.config import RunConfig
from hpcsamp.grid import Topology, share


def sampling(config: RunConfig, topology: Topology) -> Training:
    """DDP as in the paper: every rank computes S/P samples of a batch that it loads itself."""
    own = len(share(config.method.samples, topology.size, topology.rank))
    return _step(config, topology, own, 0, 1)


def sampling_by_products(config: RunConfig, topology: Topology) -> Training:
    """DDP as in the paper, with an implementation of attention that vmap can vectorise."""
    own = len(share(config.method.samples, topology.size, topology.rank))
    return _step(config, topology, own, 0, 1, math=True)


def data(config: RunConfig, topology: Topology) -> Training:
    """DDP as data parallelism: every rank computes all S samples for 1/P of the batch."""
    return _step(config, topology, config.method.samples, topology.rank, topology.size)


def join(topology: Topology) -> None:
    """Create torch's process group over the MPI ranks: gloo on CPUs, NCCL on GPUs. Collective."""
    import socket

    store_host = topology.world.bcast(socket.gethostname() if topology.is_root else None)
    port = None
    if topology.is_root:
        with socket.socket() as s:
            s.bind(("", 0))
            port = s.getsockname()[1]
    port = topology.world.bcast(port)
    if topology.node_comm.Get_size() == topology.size:
        store_host = "127.0.0.1"
    torch.distributed.init_process_group(
        "nccl" if topology.device.type == "cuda" else "gloo",
        init_method=f"tcp://{store_host}:{port}",
        rank=topology.rank,
        world_size=topology.size,
    )


def _step(
    config: RunConfig,
    topology: Topology,
    samples: int,
    part: int,
    parts: int,
    math: bool = False,
) -> Training:
    join(topology)
    torch.manual_seed(config.seed + topology.rank)  # as the paper's code: draws depend on the rank
    blue = config.method.name == "mean_field"
    device = topology.device
    net = torch_blue.converted(config, device) if blue else network(config, device)
    ddp: Any = nn.parallel.DistributedDataParallel(net)
    update = optimizer(config, net.parameters())
    batches = feed.batches(config, device, part, parts)
    elbo = torch_blue.likelihood_loss(config) if blue else None
    of_mean = criterion(config)

    def step() -> None:
        x, y = next(batches)
        if elbo is not None:
            with torch_blue.calling(math):
                elbo(ddp(x, samples=samples), y).backward()
        else:
            of_mean(repeated(ddp, x, samples).mean(0), y).backward()
        update.step()
        update.zero_grad()

    def close() -> None:
        # gloo's threads end with the last holder of the group, and DDP is one; a thread that
        # outlives the interpreter aborts the process, now and then
        nonlocal ddp
        del ddp
        gc.collect()
        torch.distributed.destroy_process_group()

    return Training(net, step, close)

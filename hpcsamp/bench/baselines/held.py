"""Bounds of a step: passes over one batch that stays on the device, in the precision of the run.

They include neither feed nor update; the training step that is compared with them includes both.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from hpcsamp.bench.baselines import feed, torch_blue
from hpcsamp.bench.baselines.network import Training, criterion, network, optimizer
from hpcsamp.config import RunConfig
from hpcsamp.devices import synchronise
from hpcsamp.grid import Topology

Pass = Callable[[], None]
#: Number of warm-up passes and of timed passes when each way is tried.
WARM, TRIED = 3, 5


def passes(config: RunConfig, topology: Topology) -> Training:
    """S plain passes on one batch: in turn, folded or vmapped, whichever is fastest here."""
    net, device = network(config, topology.device), topology.device
    ways = {"in turn": _in_turn, "folded": _folded, "vmapped": _vmapped}
    passing = {name: way(config, net, device) for name, way in ways.items()}
    seconds = {}
    for name, one in passing.items():
        try:
            seconds[name] = _trial(one, device)
        except (
            RuntimeError
        ):  # not every module can be vmapped, and memory may not suffice for all samples
            if name == "in turn":
                raise
    fastest = min(seconds, key=lambda name: seconds[name])
    return Training(net, passing[fastest], facts={"way": fastest, "ways": seconds})


def captured(config: RunConfig, topology: Topology) -> Training:
    """One plain pass over S times the batch; on a GPU captured in a CUDA graph."""
    net, device = network(config, topology.device), topology.device
    once = _folded(config, net, device)
    if device.type == "cuda":
        once = _graph(net, once)
    return Training(net, once, facts={"captured": device.type == "cuda"})


def monte_carlo(config: RunConfig, topology: Topology) -> Training:
    """torch_blue on one batch, all samples vectorised, Monte Carlo KL."""
    net = torch_blue.converted(config, topology.device)
    loss, update = torch_blue.likelihood_loss(config), optimizer(config, net.parameters())
    x, y = next(feed.batches(config, topology.device))

    def step() -> None:
        with torch_blue.calling(math=False):
            with _precision(config, topology.device):
                value = loss(net(x, samples=config.method.samples), y)
            value.backward()
        update.step()
        update.zero_grad()

    return Training(net, step)


def _in_turn(config: RunConfig, net: nn.Module, device: torch.device) -> Pass:
    (x, y), loss = next(feed.batches(config, device)), criterion(config)
    samples = config.method.samples

    def run() -> None:
        net.zero_grad()
        for _ in range(samples):
            with _precision(config, device):
                value = loss(net(x), y) / samples
            value.backward()

    return run


def _folded(config: RunConfig, net: nn.Module, device: torch.device) -> Pass:
    (x, y), loss = next(feed.batches(config, device)), criterion(config)
    samples = config.method.samples
    x, y = (t.repeat(samples, *[1] * (t.dim() - 1)) for t in (x, y))

    def run() -> None:
        net.zero_grad()
        with _precision(config, device):
            value = loss(net(x), y)
        value.backward()

    return run


def _vmapped(config: RunConfig, net: nn.Module, device: torch.device) -> Pass:
    (x, y), loss = next(feed.batches(config, device)), criterion(config)
    samples = config.method.samples
    weights, buffers = stack_module_state([net] * samples)

    def one(own: dict[str, Tensor], fixed: dict[str, Tensor]) -> Tensor:
        out: Tensor = loss(functional_call(net, (own, fixed), (x,)), y)
        return out

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vmap warns about missing batching rules
            with _precision(config, device):
                value = torch.vmap(one, randomness="different")(weights, buffers).mean()
            torch.autograd.grad(value, list(weights.values()))

    return run


def _precision(config: RunConfig, device: torch.device) -> AbstractContextManager[object]:
    """Autocast as in the run. Each pass converts the weights again, as CUDA graphs require."""
    if config.training.precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def _trial(run: Pass, device: torch.device) -> float:
    """Return the median seconds of a pass."""
    seconds = []
    for _ in range(WARM + TRIED):
        synchronise(device)
        began = time.perf_counter()
        run()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM:])


def _graph(net: nn.Module, run: Pass) -> Pass:
    """Capture a pass in a CUDA graph.

    The pass is warmed up on another stream, as capturing requires. The capture allocates the
    gradients in the memory of the graph, and each replay overwrites them.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            run()
    torch.cuda.current_stream().wait_stream(side)
    net.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay(kept: Pass = run) -> None:  # it holds the inputs, which the graph reads in place
        graph.replay()

    return replay

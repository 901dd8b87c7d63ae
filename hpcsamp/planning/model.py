"""Predict the time of a training step on one grid, phase by phase.

With ``s = ceil(S/P)`` samples on the fullest rank and ``b = B/D`` items of a data group,

    step = feed + augment + s (draw + k (pass(b) + model exchange(b))) + penalty/P
           + statistics + agreement + gradient exchange + optimiser + waiting

in seconds, with k the steps of a rollout, 1 without one. A step whose input needs a gradient counts
as more than one pass (:attr:`~hpcsamp.planning.workload.Workload.passes`). With M model ranks, all
of these refer to one rank's part of the network and of an item, and the rank exchanges with the
others of its model group within a pass. Passes are computed in
:mod:`.rates`, exchanges in :mod:`.network`, waiting in :mod:`.jitter`. A prefetch thread reads data
during the step, so reading only counts if it takes longer than the rest (:mod:`.simulate` models it
step by step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpcsamp.collectives.horovod import CYCLE_COST, cycle_time
from hpcsamp.grid import share
from hpcsamp.planning import network
from hpcsamp.planning.jitter import expected_maximum
from hpcsamp.planning.machine import Machine
from hpcsamp.planning.network import Cost, NodeSpread
from hpcsamp.planning.rates import HOST_LINK, By, Rates
from hpcsamp.planning.workload import Workload


@dataclass(frozen=True)
class NodeLayout:
    """A grid on nodes: ``D`` data groups of ``P`` sample ranks of ``M`` model ranks, node by node.

    Attributes
    ----------
    sample_size, data_size
        ``P`` and ``D``.
    per_node
        Number of ranks per node; the last node may have fewer.
    model_size
        ``M``.
    """

    sample_size: int = 1
    data_size: int = 1
    per_node: int = 1
    model_size: int = 1

    @property
    def ranks(self) -> int:
        """Number of ranks, ``D * P * M``."""
        return self.group_size * self.data_size

    @property
    def group_size(self) -> int:
        """Number of ranks that share a batch, ``P * M``."""
        return self.sample_size * self.model_size

    @property
    def nodes(self) -> int:
        """Number of nodes in use."""
        return -(-self.ranks // self.per_node)

    @property
    def on_node(self) -> int:
        """Number of ranks on the fullest node."""
        return min(self.ranks, self.per_node)

    @property
    def world(self) -> NodeSpread:
        """Distribution of all ranks over nodes."""
        return NodeSpread(self.ranks, self.nodes, self.nodes)

    @property
    def replicas(self) -> NodeSpread:
        """Distribution of the ranks with the same part of the network, one per model group."""
        if self.model_size == 1:
            return self.world
        ranks = self.sample_size * self.data_size
        nodes = min(ranks, self.nodes)
        at_once = -(-self.on_node * nodes // ranks)
        return NodeSpread(ranks, nodes, self.nodes, max(1, min(at_once, self.model_size)))

    @property
    def model_group(self) -> NodeSpread:
        """Distribution of the model group that spans the most nodes."""
        nodes = self._span(self.model_size)
        return NodeSpread(
            self.model_size, nodes, nodes, max(1, -(-self.on_node // self.model_size))
        )

    @property
    def sample_group(self) -> NodeSpread:
        """Distribution of the ranks along a sample axis, in the group that spans most nodes."""
        p, m = self.sample_size, self.model_size
        nodes = self._span(self.group_size)
        mine = min(p, nodes)  # a model group may itself span several nodes
        groups = max(1, -(-self.on_node // self.group_size))
        return NodeSpread(p, mine, nodes, groups * min(m, self.on_node))

    @property
    def data_group(self) -> NodeSpread:
        """Distribution of the ranks of a data group, one per sample group."""
        nodes = min(self.data_size, self.nodes)
        at_once = -(-self.on_node * nodes // self.data_size) if self.data_size > 1 else 1
        return NodeSpread(self.data_size, nodes, self.nodes, max(1, min(at_once, self.group_size)))

    def _span(self, size: int) -> int:
        """Largest number of nodes that a group of ``size`` neighbouring ranks spans."""
        r = self.per_node
        starts = range(0, self.ranks, size) if r % size else range(1)
        return max((start + size - 1) // r - start // r for start in starts) + 1

    def __str__(self) -> str:
        along_model = f" x {self.model_size}" if self.model_size > 1 else ""
        return f"{self.data_size} x {self.sample_size}{along_model}"


@dataclass(frozen=True)
class StepPhase:
    """A part of a step: its seconds, the share of latency in them, and its limiting factor."""

    name: str
    seconds: float
    by: By
    latency: float = 0.0
    way: str = ""


@dataclass(frozen=True)
class StepPrediction:
    """The predicted time of a step on one grid.

    Attributes
    ----------
    samples
        Number of samples of the rank with the largest share.
    items
        Number of items of a data group in a step.
    taking, reading
        Seconds in which a rank takes its batch from the ring; and seconds to read the batches of a
        step, including those hidden behind computation.
    """

    layout: NodeLayout
    work: Workload
    phases: tuple[StepPhase, ...]
    samples: int
    items: int
    taking: float
    reading: float

    @property
    def seconds(self) -> float:
        """Seconds per step."""
        return sum(p.seconds for p in self.phases)

    @property
    def items_per_second(self) -> float:
        """Training items per second."""
        return self.work.batch / self.seconds

    @property
    def samples_per_second(self) -> float:
        """Passes of one sample over one item per second: S times the items."""
        return self.work.samples * self.items_per_second

    def phase(self, name: str) -> float:
        """Seconds of a phase."""
        return sum(p.seconds for p in self.phases if p.name == name)


AGREEMENT = 48
"""Bytes that ranks exchange to agree on a step: two values of the loss and four requests."""
MODEL_EXCHANGE = "model exchange"
COMPUTE = ("augment", "draw", "forward+backward", "penalty")
"""Phases in which a rank uses its own core or device, before it meets the others."""


def predict(work: Workload, layout: NodeLayout, machine: Machine, rates: Rates) -> StepPrediction:
    """Predict a step of a run on a grid.

    Parameters
    ----------
    work
        Work of the run.
    layout
        The grid; callers must check that it is valid
        (:func:`~hpcsamp.planning.grid_choice.layouts`).
    machine
        Machine with its network, storage and jitter.
    rates
        Rates of its ranks.
    """
    if layout.model_size != work.model:
        work = work.on_model_ranks(layout.model_size)
        rates = rates.on(work)
    p, d = layout.sample_size, layout.data_size
    samples, items = -(-work.samples // p), -(-work.batch // d)
    crowd = rates.crowd if layout.on_node > 1 else 1.0
    views = {"none": 0, "all": 1, "rank": 1, "sample": samples}[work.views]
    one = rates.of_pass(items, min(work.together or samples, samples))
    by = rates.elementwise
    compute = (
        StepPhase("augment", views * items * work.x_bytes * rates.augment * crowd, by),
        StepPhase("draw", samples * work.drawn * rates.draw * crowd, by),
        StepPhase("forward+backward", samples * work.passes * one.seconds * crowd, one.by),
        StepPhase("penalty", (rates.overhead + work.drawn * rates.penalty / p) * crowd, by),
    )
    busy = sum(part.seconds for part in compute)
    trained = work.trained * samples if work.own else work.trained
    updated = trained / (p if work.sharded and not work.own else 1)
    phases = (
        *compute,
        _between_parts(work, layout, machine, rates, samples, items, one.seconds * crowd),
        _statistics(work, layout, machine, rates, items),
        _exchange("agreement", network.allreduce(machine.network, layout.world, AGREEMENT),
                  rates.stage, layout.ranks),
        _gradient(work, layout, machine, trained, samples, busy),
        StepPhase("optimiser", updated * rates.update * crowd, "optimiser"),
        StepPhase("waiting", expected_maximum(busy, machine.jitter, _fullest(work, layout)) - busy,
              "waiting"),
    )  # fmt: skip
    rest = sum(part.seconds for part in phases)
    taking = _taking(work, layout, rates, items)
    read = reading(work, layout, machine, items)
    feed = StepPhase("feed", max(taking, read - rest), "feed")
    return StepPrediction(layout, work, (feed, *phases), samples, items, taking, read)


def one_rank(work: Workload, machine: Machine, rates: Rates) -> StepPrediction:
    """Predict all samples and items on a single rank, the reference of the speed-up."""
    return predict(work, NodeLayout(), machine, rates)


def reading(work: Workload, layout: NodeLayout, machine: Machine, items: int) -> float:
    """Seconds to read a step's batches from storage, each once per sample group.

    This is the larger one of the time to read into a node and the time to read out of the file
    system.
    """
    batch = items * work.read_bytes  # of a model rank's part of each item
    groups = max(1, -(-layout.on_node // layout.group_size))
    here, all_parts = min(layout.model_size, layout.on_node), layout.model_size
    storage = machine.storage
    return max(
        groups * here * batch / storage.node,
        layout.data_size * all_parts * batch / storage.total,
    )


def _taking(work: Workload, layout: NodeLayout, rates: Rates, items: int) -> float:
    """Seconds to take a batch from the ring, and also to read it if the reader shares the core."""
    batch = items * work.read_bytes
    own = batch / layout.sample_size * rates.read if rates.shares_core else 0.0
    return batch * rates.copy + own


FORWARD_AGAIN = 1.5
"""Factor by which the number of exchanges grows if forward passes are recomputed: a backward pass
has at least as many exchanges as a forward pass."""


def _between_parts(
    work: Workload, layout: NodeLayout, machine: Machine, rates: Rates, samples: int, items: int,
    one: float,
) -> StepPhase:  # fmt: skip
    """Predict the exchanges of a model rank with the others of its group, for all its samples.

    Data is sent while a rank multiplies its own part: this hides 1/M of a pass. On GPUs data is
    copied through the host before and after. Then the sums over the values of items are exchanged,
    once per step.
    """
    m, counts = layout.model_size, work.counts
    if m == 1:
        return StepPhase(MODEL_EXCHANGE, 0.0, "latency")
    again = FORWARD_AGAIN if work.recompute else 1.0
    sent = again * counts.sent_of(items)
    together = min(work.together or samples, samples)
    cost = network.to_others(machine.network, layout.model_group, counts.exchanges, sent)
    late = again * (cost.latency + counts.exchanges * rates.stage) / together
    seen = max(0.0, cost.volume - one / m)
    copied = 2 * sent / HOST_LINK if machine.device.kind == "gpu" else 0.0
    compared = samples * items * work.leads
    sums = network.allreduce(machine.network, layout.model_group, compared * work.item)
    volume = seen + copied
    passes = samples * work.leads
    late, volume = passes * late + sums.latency + rates.stage, passes * volume + sums.volume
    by: By = "latency" if late >= volume else "network"
    return StepPhase(MODEL_EXCHANGE, late + volume, by, late, cost.way)


def _statistics(
    work: Workload, layout: NodeLayout, machine: Machine, rates: Rates, items: int
) -> StepPhase:
    """Predict the exchanges of the loss within a sample group."""
    p, net, cost = layout.sample_size, machine.network, Cost()
    compared = items * work.leads  # the losses of all steps of a rollout are exchanged together
    for e in work.statistics:
        size = e.bytes(work.samples, compared, work.values, p) * work.item / 4
        if e.way == "all-to-all":
            cost = cost + network.to_others(net, layout.sample_group, 1, size * (p - 1) / p)
        else:
            cost = cost + network.allreduce(net, layout.sample_group, size)
    return _exchange("statistics", cost, rates.stage * len(work.statistics), p)


def _exchange(name: str, cost: Cost, stage: float, ranks: int) -> StepPhase:
    if ranks < 2:
        return StepPhase(name, 0.0, "latency")
    latency = cost.latency + stage
    by: By = "latency" if latency >= cost.volume else "network"
    return StepPhase(name, latency + cost.volume, by, latency, cost.way)


def _gradient(
    work: Workload, layout: NodeLayout, machine: Machine, trained: float, samples: int, busy: float
) -> StepPhase:
    """Predict the exchange of the gradient.

    It is exchanged over the world; over data groups if each sample has its own parameters; in
    shares over sample groups if the optimiser is sharded. If the weights are sharded, means and
    deviations are gathered for each chunk of samples and its gradients are scattered:
    ``ceil(samples / k)`` rounds, with another gather in each if passes are recomputed.

    Horovod polls for tensors once per cycle: a gradient waits for one cycle, and each cycle takes
    some compute time (:func:`hpcsamp.collectives.horovod.cycle_time`).
    """
    size, net = float(trained * work.item), machine.network
    if work.own:
        ranks, cost = layout.data_size, network.allreduce(net, layout.data_group, size)
    elif work.sharded and layout.sample_size > 1:
        ranks, group = layout.ranks // layout.model_size, layout.sample_group
        scattered = network.scatter_sum(net, group, size)
        gathered = network.allgather(net, group, size)
        rounds = -(-samples // (work.together or samples)) if work.shares else 1
        cost = Cost()
        for _ in range(rounds):
            cost = cost + scattered + gathered
            if work.shares and work.recompute:
                cost = cost + gathered
        cost = cost + network.allreduce(net, layout.data_group, size / layout.sample_size)
    else:
        ranks = layout.ranks // layout.model_size
        cost = network.allreduce(net, layout.replicas, size)
    cycle = 0.0
    on_host = machine.device.kind == "cpu"
    if size >= work.horovod_from if on_host else math.isfinite(work.horovod_from):
        every = net.cycle or cycle_time(busy)
        cycle = net.cycles * every + CYCLE_COST * busy / every
    return _exchange("gradient exchange", cost, cycle, ranks)


def _fullest(work: Workload, layout: NodeLayout) -> int:
    """Number of ranks that have the largest share of samples: a step waits for the slowest."""
    p = layout.sample_size
    shares = [len(share(work.samples, p, i)) for i in range(p)]
    return layout.data_size * shares.count(max(shares)) * layout.model_size

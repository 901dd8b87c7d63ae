"""Cost of collectives: alpha-beta (Hockney) formulas, within and between nodes.

A message of ``m`` bytes takes ``alpha + m * beta`` seconds (Hockney 1994; LogGP of Alexandrov et
al. 1995 with ``alpha = L + 2 o`` and ``beta = G``). Costs of collectives over ``p`` ranks are those
Thakur, Rabenseifner & Gropp 2005 (section 4) and Chan et al. 2007 (table 1); ``gamma`` is the time
per byte to add received data.

    ring                2 (p-1) alpha + 2 (p-1)/p m beta + (p-1)/p m gamma
    recursive doubling  lg p alpha    + lg p m beta      + lg p m gamma
    Rabenseifner        2 lg p alpha  + 2 (p-1)/p m beta + (p-1)/p m gamma

If ``p`` is not a power of two, the last two first fold the additional ranks into others and send
them the result at the end: one more ``alpha + m beta + m gamma``, and one more ``alpha + m beta``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hpcsamp.planning.machine import Fabric, NetworkLinks


@dataclass(frozen=True)
class Link:
    """A connection between two ranks.

    Attributes
    ----------
    alpha
        Latency: seconds of an empty message.
    beta
        Seconds per byte.
    gamma
        Seconds per byte to add received data.
    """

    alpha: float
    beta: float
    gamma: float = 0.0


@dataclass(frozen=True)
class Cost:
    """Seconds of an exchange: ``latency`` (number of messages) and ``volume`` (their bytes)."""

    latency: float = 0.0
    volume: float = 0.0
    way: str = ""

    @property
    def seconds(self) -> float:
        """Sum of latency and volume, in seconds."""
        return self.latency + self.volume

    def __add__(self, other: Cost) -> Cost:
        ways = [w for w in (self.way, other.way) if w]
        return Cost(
            self.latency + other.latency,
            self.volume + other.volume,
            " + ".join(dict.fromkeys(ways)),
        )


def ring_allreduce(ranks: int, size: float, link: Link) -> Cost:
    """Reduce-scatter and allgather in a ring; best for long messages.

    Parameters
    ----------
    ranks
        ``p``.
    size
        ``m``, bytes.
    """
    if ranks < 2:
        return Cost()
    part = (ranks - 1) / ranks * size
    return Cost(2 * (ranks - 1) * link.alpha, part * (2 * link.beta + link.gamma), "ring")


def doubling_allreduce(ranks: int, size: float, link: Link) -> Cost:
    """Recursive doubling: ranks exchange whole vectors ``lg p`` times; best for short messages."""
    if ranks < 2:
        return Cost()
    rounds = int(math.log2(ranks))
    extra = ranks != 1 << rounds
    return Cost(
        (rounds + 2 * extra) * link.alpha,
        size * (rounds * (link.beta + link.gamma) + extra * (2 * link.beta + link.gamma)),
        "recursive doubling",
    )


def rabenseifner_allreduce(ranks: int, size: float, link: Link) -> Cost:
    """Recursive halving, then recursive doubling of the parts (Rabenseifner 2004)."""
    if ranks < 2:
        return Cost()
    rounds = int(math.log2(ranks))
    core = 1 << rounds
    extra = ranks != core
    part = (core - 1) / core * size
    return Cost(
        (2 * rounds + 2 * extra) * link.alpha,
        part * (2 * link.beta + link.gamma) + extra * size * (2 * link.beta + link.gamma),
        "Rabenseifner",
    )


def ring_allgather(ranks: int, size: float, link: Link) -> Cost:
    """Gather parts of ``size`` bytes in total, ``(p-1) alpha + (p-1)/p m beta``."""
    if ranks < 2:
        return Cost()
    return Cost((ranks - 1) * link.alpha, (ranks - 1) / ranks * size * link.beta, "ring")


def reduce_scatter(ranks: int, size: float, link: Link) -> Cost:
    """Reduce-scatter in a ring: ``(p-1) alpha + (p-1)/p m (beta + gamma)``."""
    if ranks < 2:
        return Cost()
    part = (ranks - 1) / ranks * size
    return Cost((ranks - 1) * link.alpha, part * (link.beta + link.gamma), "ring")


ALLREDUCE: dict[str, Callable[[int, float, Link], Cost]] = {
    "ring": ring_allreduce,
    "recursive doubling": doubling_allreduce,
    "Rabenseifner": rabenseifner_allreduce,
}


@dataclass(frozen=True)
class NodeSpread:
    """Distribution of the ranks of an exchange over nodes.

    Attributes
    ----------
    ranks
        Number of ranks.
    nodes
        Number of nodes.
    job_nodes
        Number of nodes of the job, which determines how far it extends into the fabric.
    at_once
        Number of exchanges that use a node's adapters at the same time.
    """

    ranks: int
    nodes: int = 1
    job_nodes: int = 1
    at_once: int = 1

    @property
    def per_node(self) -> int:
        """Number of ranks of the exchange per node."""
        return -(-self.ranks // self.nodes)


def contention(fabric: Fabric, nodes: int, *, neighbours: bool) -> float:
    """Factor by which contention increases the time per byte between nodes, at least 1.

    Parameters
    ----------
    fabric
        ``kind`` ``"flat"`` (none), ``"fat-tree"`` or ``"dragonfly"``; ``group``, nodes below one
        leaf switch or in one group; ``taper``, bandwidth into a leaf over that out of it.
    nodes
        Number of nodes of the exchange, assumed adjacent.
    neighbours
        Whether messages only go to the next node (a ring), so that one flow leaves each group;
        otherwise partners are anywhere, and ``1 - (group - 1)/(nodes - 1)`` of the bytes leave.

    Notes
    -----
    Fat tree (Leiserson 1985): the bytes that leave share ``group / taper`` links. Dragonfly (Kim et
    al. 2008): the same for the global links; non-minimal routing uses two of them, which halves the
    bandwidth of uniform traffic.
    """
    if fabric.kind == "flat" or nodes <= fabric.group:
        return 1.0
    group = fabric.group
    leaving = 1 / group if neighbours else 1 - (group - 1) / (nodes - 1)
    doubled = 2 if fabric.kind == "dragonfly" and not neighbours else 1
    return max(1.0, leaving * fabric.taper * doubled)


def hops(fabric: Fabric, nodes: int) -> int:
    """Number of switches beyond the first on a message's path: 0 below a leaf switch, else 2."""
    return 0 if fabric.kind == "flat" or nodes <= fabric.group else 2


def between(network: NetworkLinks, spread: NodeSpread, flows: int, *, neighbours: bool) -> Link:
    """The link between nodes as seen by one of ``flows`` flows of a node."""
    share = max(1.0, flows / network.adapters)
    slow = contention(network.fabric, spread.job_nodes, neighbours=neighbours)
    far = hops(network.fabric, spread.job_nodes) * network.fabric.hop
    return Link(
        network.between.alpha + far,
        share * slow / network.between.bandwidth,
        network.gamma,
    )


def within(network: NetworkLinks) -> Link:
    """The link between ranks of a node."""
    return Link(network.within.alpha, 1 / network.within.bandwidth, network.gamma)


def allreduce(network: NetworkLinks, spread: NodeSpread, size: float) -> Cost:
    """Cost of the cheapest way to sum ``size`` bytes over the ranks.

    Compares all algorithms over all ranks at the speed of the slowest link, and the hierarchical
    one: reduce-scatter within nodes, allreduce of the parts between nodes through all adapters at
    the same time, allgather within nodes.
    """
    inside = within(network)
    if spread.nodes <= 1:
        return min((f(spread.ranks, size, inside) for f in ALLREDUCE.values()), key=_seconds)
    local, flows = spread.per_node, spread.at_once
    found = []
    for name, cost in ALLREDUCE.items():
        ring = name == "ring"
        # a ring enters and leaves each node once; in the others every rank sends at the same time
        link = between(network, spread, flows * (1 if ring else local), neighbours=ring)
        found.append(cost(spread.ranks, size, link))
        if local > 1:
            parts = between(network, spread, flows * local, neighbours=ring)
            middle = cost(spread.nodes, size / local, parts)
            around = reduce_scatter(local, size, inside) + ring_allgather(local, size, inside)
            whole = around + middle
            found.append(Cost(whole.latency, whole.volume, f"{name} between nodes, ring within"))
    return min(found, key=_seconds)


def allgather(network: NetworkLinks, spread: NodeSpread, size: float) -> Cost:
    """Cost of gathering parts of ``size`` bytes in total on all ranks."""
    if spread.nodes <= 1:
        return ring_allgather(spread.ranks, size, within(network))
    link = between(network, spread, spread.at_once, neighbours=True)
    return ring_allgather(spread.ranks, size, link)


def scatter_sum(network: NetworkLinks, spread: NodeSpread, size: float) -> Cost:
    """Cost of a reduce-scatter of ``size`` bytes."""
    if spread.nodes <= 1:
        return reduce_scatter(spread.ranks, size, within(network))
    return reduce_scatter(
        spread.ranks, size, between(network, spread, spread.at_once, neighbours=True)
    )


def to_others(network: NetworkLinks, spread: NodeSpread, number: int, size: float) -> Cost:
    """Cost of ``number`` exchanges in which each rank sends ``size`` bytes in total to the others.

    The messages of one exchange are sent at the same time. Those to other nodes share the node's
    adapters with the messages of its other ranks.
    """
    if spread.ranks < 2:
        return Cost()
    inside = within(network)
    if spread.nodes <= 1:
        return Cost(number * inside.alpha, size * inside.beta, "neighbours")
    away = (spread.ranks - spread.per_node) / (spread.ranks - 1)
    link = between(network, spread, spread.at_once * spread.per_node, neighbours=False)
    volume = size * ((1 - away) * inside.beta + away * link.beta)
    return Cost(number * link.alpha, volume, "neighbours and other nodes")


def _seconds(cost: Cost) -> float:
    return cost.seconds

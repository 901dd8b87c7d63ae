"""Sums and gathers over ranks and the exchange of gradients, with one of several transports."""

from __future__ import annotations

import sys

from hpcsamp.collectives.base import Alone, Collectives
from hpcsamp.collectives.distribute import distribute, early_of, transport_of
from hpcsamp.collectives.early import EarlySums
from hpcsamp.collectives.flat import FlatGradient, in_one
from hpcsamp.collectives.groups import Divided, Group
from hpcsamp.collectives.horovod import SMALL, HorovodCollectives
from hpcsamp.collectives.mpi import MpiCollectives
from hpcsamp.collectives.sample_group import SampleGroup
from hpcsamp.collectives.updates import Shards, Updates, updates_of
from hpcsamp.errors import UsageError
from hpcsamp.explain import more
from hpcsamp.grid import Topology
from hpcsamp.names import TRANSPORTS

__all__ = [
    "SMALL",
    "Alone",
    "Collectives",
    "Divided",
    "EarlySums",
    "FlatGradient",
    "Group",
    "MpiCollectives",
    "SampleGroup",
    "Shards",
    "Updates",
    "choose",
    "distribute",
    "early_of",
    "in_one",
    "transport_of",
    "updates_of",
]


def choose(topology: Topology, name: str = "auto") -> Collectives:
    """Choose the transport. Collective over the world.

    Parameters
    ----------
    name
        One of :data:`hpcsamp.names.TRANSPORTS`, ``package.module:Class``, or ``"auto"``: for
        several ranks, Horovod if it works on all of them and was built for their devices (gradients
        below a mebibyte are exchanged with MPI); otherwise torch.distributed on GPUs if each rank
        has its own, and else mpi4py. If it is not Horovod, rank 0 writes the reason in one line.

    Raises
    ------
    UsageError
        If the name is unknown, or the named transport cannot be used.
    """
    if name != "auto":
        named: Collectives = TRANSPORTS.find(name)(topology)
        return named
    if topology.size == 1:
        return Alone(topology)
    made, why = _first(topology)
    if why and topology.is_root:
        by = {"mpi": "mpi4py", "torch": "torch.distributed"}[made.name]
        told = f"{'; '.join(why)}; gradients are exchanged with {by}{more('horovod')}"
        sys.stderr.write(f"hpcsamp: {told}\n")
    return made


def _first(topology: Topology) -> tuple[Collectives, list[str]]:
    """Return the first transport that can be used, and why those before it cannot."""
    why: list[str] = []
    try:
        return HorovodCollectives(topology, SMALL), why
    except UsageError as e:
        why.append(str(e))
    if topology.device.type != "cpu":
        try:
            return TRANSPORTS.find("torch")(topology), why
        except UsageError as e:
            why.append(str(e))
    return MpiCollectives(topology), why

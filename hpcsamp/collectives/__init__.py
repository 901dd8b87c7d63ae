"""Sums and gathers over ranks, and the exchange of gradients, by one of several transports."""

from __future__ import annotations

import sys

from hpcsamp.collectives.base import Alone, Collectives
from hpcsamp.collectives.distribute import distribute, transport_of
from hpcsamp.collectives.flat import FlatGradient
from hpcsamp.collectives.groups import Divided, Group
from hpcsamp.collectives.horovod import SMALL, HorovodCollectives
from hpcsamp.collectives.mpi import MpiCollectives
from hpcsamp.collectives.sample_group import SampleGroup
from hpcsamp.collectives.updates import Shards, Updates, updates_of
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology
from hpcsamp.names import TRANSPORTS

__all__ = [
    "SMALL",
    "Alone",
    "Collectives",
    "Divided",
    "FlatGradient",
    "Group",
    "MpiCollectives",
    "SampleGroup",
    "Shards",
    "Updates",
    "choose",
    "distribute",
    "transport_of",
    "updates_of",
]


def choose(topology: Topology, name: str = "auto") -> Collectives:
    """The transport to use. Collective over the world.

    Parameters
    ----------
    name
        One of :data:`hpcsamp.names.TRANSPORTS`, ``package.module:Class``, or ``"auto"``: Horovod
        where there are several ranks and it works on all of them with their devices (gradients
        below a mebibyte by MPI); else torch.distributed on GPUs and mpi4py on CPUs, with a line
        that says why.

    Raises
    ------
    UsageError
        If a transport is asked for by name and cannot be used, or the name is unknown.
    """
    if name != "auto":
        made: Collectives = TRANSPORTS.find(name)(topology)
        return made
    if topology.size > 1:
        try:
            return HorovodCollectives(topology, SMALL)
        except UsageError as e:
            other = "mpi" if topology.device.type == "cpu" else "torch"
            if topology.is_root:
                by = {"mpi": "mpi4py", "torch": "torch.distributed"}[other]
                sys.stderr.write(f"hpcsamp: {e}; gradients are exchanged with {by}\n")
            made = TRANSPORTS.find(other)(topology)
            return made
    return MpiCollectives(topology)

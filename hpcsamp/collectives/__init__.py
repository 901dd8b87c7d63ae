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
        where there are several ranks and it works on all of them (gradients below a mebibyte by
        MPI), else mpi4py, saying why in one line.

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
            if topology.is_root:
                sys.stderr.write(f"hpcsamp: {e}; gradients are exchanged with mpi4py\n")
    return MpiCollectives(topology)

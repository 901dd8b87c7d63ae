"""Group sums, gathers and the gradient reducer, over Horovod (default) or mpi4py alone."""

from __future__ import annotations

import sys

from hpcsamp.collectives.base import Alone, Collectives
from hpcsamp.collectives.distribute import distribute, transport_of
from hpcsamp.collectives.flat import FlatGradient
from hpcsamp.collectives.mpi import MpiCollectives
from hpcsamp.collectives.updates import Shards, Updates, updates_of
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology, together

__all__ = [
    "SMALL",
    "Alone",
    "Collectives",
    "FlatGradient",
    "MpiCollectives",
    "Shards",
    "Updates",
    "choose",
    "distribute",
    "transport_of",
    "updates_of",
]

#: Bytes below which a gradient is not worth a cycle of Horovod.
SMALL = 1 << 20


def choose(topology: Topology, name: str = "auto") -> Collectives:
    """The transport to use. Collective over the world.

    Parameters
    ----------
    name
        ``"horovod"``, ``"mpi"`` or ``"auto"``: Horovod where there are several ranks and it works
        on all of them (gradients below a mebibyte by MPI), else mpi4py, saying why in one line.

    Raises
    ------
    UsageError
        If Horovod is asked for by name and cannot be used, or the name is unknown.
    """
    if name not in ("auto", "horovod", "mpi"):
        raise UsageError(f'parallel.collectives must be "auto", "horovod" or "mpi", got {name!r}')
    if name == "mpi" or (name == "auto" and topology.size == 1):
        return MpiCollectives(topology)
    from hpcsamp.collectives import horovod

    try:
        with together(topology.world):
            horovod.load()
    except UsageError as e:
        if name == "horovod":
            raise
        if topology.is_root:
            sys.stderr.write(f"hpcsamp: {e}; gradients are exchanged with mpi4py\n")
        return MpiCollectives(topology)
    return horovod.HorovodCollectives(topology, SMALL if name == "auto" else 0)

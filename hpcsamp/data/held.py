"""Arrays held in shared memory for the whole run: read once per job, stored once per node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcsamp.data.dataset import Dataset
from hpcsamp.data.following import Follows, read_for
from hpcsamp.data.parts import ReadBoxes
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.grid import together
from hpcsamp.grid.window import SHARED_MEMORY, Window, shared_memory_free
from hpcsamp.serial import library

if TYPE_CHECKING:
    from hpcsamp.grid import Topology

PIECE = 2**30
"""Largest number of bytes in one broadcast; counts in MPI are below 2**31."""


class SplitInMemory:
    """Arrays of a split in memory that the ranks of a node share. Collective over the world.

    Rank 0 reads and checks them and broadcasts them to the first ranks of the other nodes.

    Parameters
    ----------
    dataset
        The split.
    names
        Names of the arrays.
    topology
        The grid.
    parts
        The parts of every item that this rank needs. Memory holds whole items, since the ranks of
        a node share it.
    follows
        See :class:`~hpcsamp.data.Loader`.

    Raises
    ------
    DataError, UsageError
        On every rank, if the data are damaged or a node has too little shared memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        names: Iterable[str],
        topology: Topology,
        parts: ReadBoxes,
        follows: Follows,
    ) -> None:
        self._parts, self._follows = parts, follows
        world, node = topology.world, topology.node_comm
        MPI = library(world)  # noqa: N806
        specs = {name: dataset.manifest.arrays[name] for name in names}
        sizes = {name: spec.item_bytes * dataset.count for name, spec in specs.items()}
        self.bytes = sum(sizes.values())
        with together(world):
            if node.Get_size() > 1 and self.bytes > 0.95 * shared_memory_free():
                raise UsageError(
                    f"{SHARED_MEMORY} on {MPI.Get_processor_name()} has "
                    f"{shared_memory_free() / 1e6:,.1f} MB free, but holding "
                    f"{', '.join(sizes)} of {dataset.path} needs {self.bytes / 1e6:,.1f} MB; "
                    f'choose data.reader = "auto" or mount a larger {SHARED_MEMORY}'
                )
        world.Barrier()  # no rank allocates before all have read the free memory
        shared = node if sizes else MPI.COMM_SELF
        self._window = Window(shared, sum(-(-size // 64) * 64 for size in sizes.values()))
        self._arrays: dict[str, np.ndarray] = {}
        begin = 0
        for name, size in sizes.items():
            raw = self._window.memory[begin : begin + size]
            self._arrays[name] = raw.view(specs[name].dtype).reshape(-1, *specs[name].shape)
            begin += -(-size // 64) * 64
        try:
            with together(world):
                if world.Get_rank() == 0:
                    for name, values in self._arrays.items():
                        values[...] = dataset.read_all(name)
        except HpcsampError:
            self.free()
            raise
        leads = node.Get_rank() == 0
        leaders = world.Split(0 if leads else MPI.UNDEFINED, world.Get_rank())
        if leads:
            for start in range(0, len(self._window.memory), PIECE):
                leaders.Bcast(self._window.memory[start : start + PIECE])
            leaders.Free()
        self._window.sync()
        world.Barrier()
        self._window.sync()

    def rows(self, items: np.ndarray) -> dict[str, np.ndarray]:
        """Copy this rank's part of some items of each array."""
        copies = {}
        for name, values in self._arrays.items():
            read = read_for(items, self._follows.get(name))
            at: tuple[Any, ...] = (read, *self._parts.slices(name))
            copies[name] = values[at]
        return copies

    def free(self) -> None:
        """Free the shared memory; collective over the node."""
        self._arrays = {}
        self._window.free()

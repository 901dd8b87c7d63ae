"""Several jobs in one: some of its ranks work while the others sleep."""

from __future__ import annotations

import time

from hpcsamp.runtime import mpi


def on(ranks: int, work) -> None:
    """Let the first ranks work while the others sleep: to wait within MPI takes a core."""
    world = mpi().COMM_WORLD
    comm = world.Split(int(world.rank >= ranks), world.rank)
    if world.rank < ranks:
        work(comm)
    done = world.Ibarrier()
    while not done.Test():
        time.sleep(0.01)

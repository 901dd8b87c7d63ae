"""Rendezvous of torch.distributed without settings: rank 0 opens a store, MPI sends its port.

The store also shows, after a time-out, which ranks have not joined an exchange.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from hpcsamp.errors import HpcsampError, UsageError, one_line
from hpcsamp.grid import together

if TYPE_CHECKING:
    from mpi4py import MPI

#: Time limit of a connection to rank 0.
CONNECT = timedelta(seconds=60)
LOOPBACK = "127.0.0.1"
#: Seconds in which ranks report that their exchange has timed out, after the first one did.
REPORT = 5.0


def open_store(world: MPI.Comm, host: str) -> Any:
    """Open a store on rank 0 and connect all ranks to it. Collective.

    The operating system chooses a free port. Each rank compares a random word from the store with
    the one that rank 0 sent by MPI, so that it cannot join another job.

    Parameters
    ----------
    host
        Name or address of the host of rank 0 for the other ranks.

    Raises
    ------
    UsageError
        If rank 0 cannot listen, a rank cannot connect, or another program answers at the address.
    """
    store, place = None, None
    with together(world):
        if world.rank == 0:
            try:
                store = dist.TCPStore(host, 0, None, True, CONNECT, wait_for_workers=False)
            except RuntimeError as e:
                raise UsageError(
                    f"rank 0 on {socket.gethostname()} cannot listen at {host} ({_short(e)}); "
                    f'parallel.collectives = "mpi" needs no port'
                ) from e
            place = host, store.port, secrets.token_hex(16)
            store.set("word", place[2])
    host, port, word = world.bcast(place)
    with together(world):
        if store is None:
            store = _connect(host, port, word, world.rank)
    return store


def _connect(host: str, port: int, word: str, rank: int) -> Any:
    """Connect to the store of rank 0 and compare its word."""
    try:
        store = dist.TCPStore(host, port, None, False, CONNECT, wait_for_workers=False)
        answer = store.get("word").decode(errors="replace")
    except RuntimeError as e:
        raise UsageError(
            f"rank {rank} on {socket.gethostname()} cannot connect to rank 0 at {host}:{port} "
            f"({_short(e)}); check that nodes may connect to each other, or set "
            f'parallel.collectives = "mpi", which needs no connections of its own'
        ) from e
    if answer != word:
        raise UsageError(
            f"rank {rank} on {socket.gethostname()} reached a program other than rank 0 at "
            f"{host}:{port}"
        )
    return store


def _short(error: RuntimeError) -> str:
    return one_line(str(error).strip().splitlines()[0])[:120]


def missing(store: Any, name: str, own: int, ranks: Sequence[int]) -> list[int] | None:
    """Return the ranks that have not reported a time-out of an exchange.

    Parameters
    ----------
    store
        Store of :func:`open_store`.
    name
        Name of the group of ranks.
    own, ranks
        World rank of this process, and those of its group.

    Returns
    -------
    list or None
        World ranks without a report, None if rank 0 does not answer.
    """
    try:
        store.set_timeout(timedelta(seconds=2 * REPORT))
        store.set(f"late/{name}/{own}", "")
        end = time.monotonic() + REPORT
        while True:
            without = [rank for rank in ranks if not store.check([f"late/{name}/{rank}"])]
            if not without or time.monotonic() > end:
                break
            time.sleep(0.1)
        if own != min(set(ranks) - set(without)):
            time.sleep(REPORT)  # the first of those that report ends the job, with one line
    except RuntimeError:
        return None
    return without


def timed_out(
    error: RuntimeError, without: Sequence[int] | None, ranks: int, seconds: float
) -> HpcsampError:
    """Return the error for an exchange that failed on this rank."""
    if without:
        names = ", ".join(map(str, without))
        who = f"rank{'s' * (len(without) > 1)} {names} of {ranks} did not take part in it"
    elif without is None:
        who = "rank 0, which holds the store of torch.distributed, does not answer"
    else:
        who = "it failed on all ranks"
    return HpcsampError(
        f"an exchange was not complete within {seconds:g} s: {who} ({_short(error)})"
    )

"""State that is spread over the ranks of a sample group, as one whole for checkpoints.

A rank holds the rows of its own members, or its shard of the optimiser's state. On disk there are
no ranks: tensors are whole, so that a run may go on on another grid. Whatever is split is split
along the first axis, in the order of ranks; numbers and tensors without axes are the same on all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from mpi4py import MPI

#: Elements that travel in one message: counts are 32-bit integers in MPI.
PIECE = 1 << 28


def gather(table: Any, comm: MPI.Comm) -> Any:
    """The whole state on rank 0 of a sample group, None elsewhere. Collective.

    Parameters
    ----------
    table
        Nested dictionaries and lists of tensors and numbers, of the same form on all ranks.
    """
    if isinstance(table, Mapping):
        return {k: gather(v, comm) for k, v in table.items()}
    if isinstance(table, list):
        return [gather(v, comm) for v in table]
    if isinstance(table, Tensor) and table.dim() > 0:
        return _gather_tensor(table, comm)
    return table


def part(table: Any, own: range) -> Any:
    """The rows of a whole state that are ``own``."""
    if isinstance(table, Mapping):
        return {k: part(v, own) for k, v in table.items()}
    if isinstance(table, Tensor) and table.dim() > 0:
        return table[own.start : own.stop].clone()
    return table


def part_of_method(table: Any, members: range | None) -> Any:
    """The part of a whole method's state for a rank with these members (None: it has no parts)."""
    return table if members is None else part(table, members)


def part_of_optimizer(table: Mapping[str, Any], own: Sequence[range]) -> dict[str, Any]:
    """The part of a whole optimiser's state that belongs to one range of each parameter."""
    state = {i: part(v, own[i]) for i, v in table["state"].items()}
    return {**table, "state": state}


def _gather_tensor(x: Tensor, comm: MPI.Comm) -> Tensor | None:
    host = x.detach().cpu().contiguous()
    counts = comm.allgather(len(host))
    row = int(np.prod(host.shape[1:]))  # 1 where there is one axis
    if comm.rank > 0:
        _send(host.view(-1).numpy(), comm)
        return None
    whole = host.new_empty((sum(counts), *host.shape[1:]))
    whole[: counts[0]] = host
    flat, start = whole.view(-1).numpy(), counts[0] * row
    for rank, count in enumerate(counts[1:], start=1):
        _receive(flat[start : start + count * row], comm, rank)
        start += count * row
    return whole


def _send(array: np.ndarray, comm: MPI.Comm) -> None:
    for lo in range(0, len(array), PIECE):
        comm.Send(array[lo : lo + PIECE], dest=0)


def _receive(array: np.ndarray, comm: MPI.Comm, source: int) -> None:
    for lo in range(0, len(array), PIECE):
        comm.Recv(array[lo : lo + PIECE], source=source)

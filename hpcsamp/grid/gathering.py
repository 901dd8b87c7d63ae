"""Gather rows of tensors of any type and size on one rank, bit for bit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mpi4py import MPI

#: Bytes per message: counts are 32-bit integers in MPI.
PIECE = 1 << 30


def gather_rows(x: Tensor, comm: MPI.Comm) -> Tensor | None:
    """Gather the rows of all ranks in order on rank 0; None elsewhere. Collective.

    Parameters
    ----------
    x
        ``(rows, ...)``; the number of rows may differ between ranks and be 0.
    """
    host = x.detach().resolve_conj().resolve_neg().cpu().contiguous()
    counts = comm.allgather(len(host))
    if comm.rank > 0:
        _send(_bytes(host), comm)
        return None
    whole = host.new_empty((sum(counts), *host.shape[1:]))
    whole[: counts[0]] = host
    row = math.prod(host.shape[1:]) * host.element_size()
    flat, start = _bytes(whole), counts[0] * row
    for rank, count in enumerate(counts[1:], start=1):
        _receive(flat[start : start + count * row], comm, rank)
        start += count * row
    return whole


def _bytes(x: Tensor) -> np.ndarray:
    """Return the memory of a tensor of any type as bytes."""
    flat: np.ndarray = x.view(-1).view(torch.uint8).numpy()
    return flat


def _send(array: np.ndarray, comm: MPI.Comm) -> None:
    for lo in range(0, len(array), PIECE):
        comm.Send(array[lo : lo + PIECE], dest=0)


def _receive(array: np.ndarray, comm: MPI.Comm, source: int) -> None:
    for lo in range(0, len(array), PIECE):
        comm.Recv(array[lo : lo + PIECE], source=source)

"""Messages between the ranks along one direction of the model axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import HpcsampError
from hpcsamp.grid.gathering import PIECE
from hpcsamp.serial import library
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    from mpi4py import MPI


#: Tags that every MPI has.
TAGS = 1 << 15


@dataclass(slots=True, repr=False)  # no state of a network that could be taken for one
class Counted:
    """What this rank has exchanged.

    Attributes
    ----------
    exchanges
        How many: a message to each of the others of a group, and one from each, are one exchange.
    bytes
        Sent by this rank.
    """

    exchanges: int = 0
    bytes: int = 0


class Group:
    """The ranks along a direction of the model axis.

    Parameters
    ----------
    comm
        Their communicator, of this group's own.
    counted
        What they exchange is counted here.
    """

    def __init__(self, comm: MPI.Comm, counted: Counted) -> None:
        self.comm, self.counted = comm, counted
        self.size: int = comm.Get_size()
        self.rank: int = comm.Get_rank()

    def __deepcopy__(self, memo: dict[int, Any]) -> Group:
        """Copies of a network lie on the same ranks."""
        return self

    @property
    def others(self) -> list[int]:
        """The other ranks, the next one first: at no time do all send to the same."""
        return [(self.rank + i) % self.size for i in range(1, self.size)]

    def begin(self) -> Exchange:
        """A new exchange."""
        return Exchange(self)


class Exchange:
    """Messages under way; every rank of the group begins its exchanges in the same order.

    This one travels by MPI, and stages what is not in host memory. All layers exchange through it:
    another transport has its own :class:`Group` and exchange.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._requests: list[Any] = []
        self._sizes: list[int | None] = []  # of what is received, None for what is sent
        self._arriving: list[tuple[Tensor, Tensor]] = []
        self._kept: list[Tensor] = []
        group.counted.exchanges += 1
        # what a pass that was broken off has left under way is never taken for a later message
        self._tag = group.counted.exchanges % TAGS

    def send(self, x: Tensor, to: int) -> None:
        """Begin to send a tensor."""
        host = x.detach().cpu().contiguous()
        self._kept.append(host)
        self._group.counted.bytes += host.numel() * host.element_size()
        for piece in _pieces(host):
            self._requests.append(self._group.comm.Isend(piece, dest=to, tag=self._tag))
            self._sizes.append(None)

    def receive(self, shape: Sequence[int], like: Tensor, source: int) -> Tensor:
        """Begin to receive a tensor of the type of another; it is there after :meth:`wait`."""
        found = like.new_empty(tuple(shape))
        host = found if found.device.type == "cpu" else torch.empty_like(found, device="cpu")
        self._arriving.append((found, host))
        for piece in _pieces(host):
            self._requests.append(self._group.comm.Irecv(piece, source=source, tag=self._tag))
            self._sizes.append(len(piece))
        return found

    def wait(self) -> None:
        """Wait until everything has been sent and received.

        Raises
        ------
        HpcsampError
            If a message is not as long as it should be: ranks have built different networks.
        """
        if self._requests:
            MPI = library(self._group.comm)  # noqa: N806
            statuses = [MPI.Status() for _ in self._requests]
            with here.waiting(Doing.EXCHANGE):
                MPI.Request.Waitall(self._requests, statuses)
            for size, status in zip(self._sizes, statuses, strict=True):
                if size is not None and status.Get_count(MPI.BYTE) != size:
                    raise HpcsampError(
                        f"model rank {self._group.rank} was to receive {size} bytes of model rank "
                        f"{status.Get_source()}, got {status.Get_count(MPI.BYTE)}: their networks "
                        f"or inputs differ"
                    )
        for found, host in self._arriving:
            if found is not host:
                found.copy_(host)
        self._requests, self._sizes, self._arriving, self._kept = [], [], [], []


def _pieces(host: Tensor) -> Iterator[np.ndarray]:
    """Its memory in messages of a length that MPI can count."""
    flat = host.view(-1).view(torch.uint8).numpy()
    for start in range(0, len(flat), PIECE):
        yield flat[start : start + PIECE]

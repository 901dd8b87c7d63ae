"""Reduce tensors that MPI cannot use in place, in pieces through host memory.

While MPI reduces a piece, the next one is copied to the host. Two buffers are enough: the copies of
a stream are made in their order, so a buffer is not overwritten before its result is back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Types that lose digits in sums over many ranks and that MPI does not know; float32 is used.
HALVES = (torch.bfloat16, torch.float16)
#: Bytes of a piece: large compared with the latency of a network, small compared with a gradient.
PIECE = 4 << 20


class Staging:
    """Two buffers in host memory, which are page-locked if the tensors are on a GPU.

    Parameters
    ----------
    piece
        Size of a buffer in bytes.
    """

    def __init__(self, piece: int = PIECE) -> None:
        self.piece = piece
        self._buffers: dict[tuple[torch.dtype, bool], list[Tensor]] = {}

    def reduce_(self, x: Tensor, begin: Callable[[Any], Any]) -> None:
        """Reduce a contiguous tensor in place.

        Parameters
        ----------
        x
            Tensor of any type and shape, the same on all ranks.
        begin
            Function that begins to reduce a NumPy array in place and returns the MPI request.
        """
        on_gpu = x.device.type == "cuda"
        dtype = torch.float32 if x.dtype in HALVES else x.dtype
        parts = x.detach().view(-1).split(max(1, self.piece // dtype.itemsize))
        buffers = self._two(dtype, on_gpu, len(parts[0]))
        hosts = [buffers[i % 2][: len(part)] for i, part in enumerate(parts)]
        wait = torch.cuda.current_stream(x.device).synchronize if on_gpu else _nothing
        hosts[0].copy_(parts[0], non_blocking=True)
        for i, (part, host) in enumerate(zip(parts, hosts, strict=True)):
            wait()
            request = begin(host.numpy())
            if i + 1 < len(parts):
                hosts[i + 1].copy_(parts[i + 1], non_blocking=True)
            request.Wait()
            part.copy_(host, non_blocking=True)
        wait()  # the next call may be made on another stream

    def _two(self, dtype: torch.dtype, pinned: bool, size: int) -> list[Tensor]:
        found = self._buffers.get((dtype, pinned))
        if found is None or len(found[0]) < size:
            found = [torch.empty(size, dtype=dtype, pin_memory=pinned) for _ in range(2)]
            self._buffers[dtype, pinned] = found
        return found


def _nothing() -> None:
    """Copies within host memory are complete when the call returns."""

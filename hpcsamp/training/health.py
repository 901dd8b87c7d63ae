"""Is the run still a run? Losses are finite, and all ranks hold the same parameters."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from hpcsamp.errors import DivergedError
from hpcsamp.methods import Method
from hpcsamp.topology import Topology, together


def agree_finite(
    loss: float, topology: Topology, when: str, samples: Iterable[tuple[int, Tensor]]
) -> None:
    """End the run on all ranks if the loss of any is not finite. Collective over the world.

    Parameters
    ----------
    loss
        This rank's loss.
    when
        For the message, e.g. ``step 12 (epoch 1)``.
    samples
        ``(sample, numbers)`` of this rank; looked through only if something is wrong, to say which
        sample it was.

    Raises
    ------
    DivergedError
        Naming step, rank and sample, on all ranks.
    """
    from mpi4py import MPI

    if not topology.world.allreduce(not math.isfinite(loss), op=MPI.LOR):
        return
    with together(topology.world):
        for sample, numbers in samples:
            if not bool(torch.isfinite(numbers).all()):
                raise DivergedError(
                    f"the loss is not finite at {when}: rank {topology.rank}, sample {sample}; "
                    f"lower optimizer.lr, clip gradients (optimizer.clip), or look at the data"
                )
    # every sample's outputs are finite: it is the loss or the penalty itself
    with together(topology.world):
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is not finite at {when}: {loss} on rank {topology.rank}, though the "
                f"outputs of all samples are"
            )


def check_replicas(method: Method, topology: Topology) -> None:
    """All ranks must hold the same parameters, to the bit. Collective over the world.

    Raises
    ------
    DivergedError
        Naming the first rank that differs from rank 0, on all ranks.
    """
    hashes = topology.world.allgather(parameters_sha256(method))
    with together(topology.world):
        for rank, other in enumerate(hashes):
            if other != hashes[0]:
                raise DivergedError(
                    f"replicas differ at step {method.step}: rank 0 has parameters "
                    f"{hashes[0][:12]}, rank {rank} has {other[:12]}"
                )


def parameters_sha256(method: Method) -> str:
    """Hash of the trained parameters, in name order, little-endian."""
    digest = hashlib.sha256()
    for _, value in sorted(method.named_variational()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()

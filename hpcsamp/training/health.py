"""Is the run still a run? Losses are finite, and all ranks hold the same parameters."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import DivergedError
from hpcsamp.methods import Method
from hpcsamp.topology import Topology, together
from hpcsamp.training import state


def agree(
    loss: float,
    topology: Topology,
    when: str,
    samples: Iterable[tuple[int, Tensor]],
    wishes: int = 0,
) -> int:
    """The one small exchange of a step: is every loss finite, and does any rank want to stop?

    Ends the run on all ranks if the loss of any is not finite. Collective over the world.

    Parameters
    ----------
    loss
        This rank's loss.
    when
        For the message, e.g. ``step 12 (epoch 1)``.
    samples
        ``(sample, numbers)`` of this rank; looked through only if something is wrong, to say which
        sample it was.
    wishes
        Bits of what this rank wishes (:class:`~hpcsamp.training.preemption.Wish`), below 2**30.

    Returns
    -------
    int
        The union of all ranks' wishes.

    Raises
    ------
    DivergedError
        Naming step, rank and sample, on all ranks.
    """
    from mpi4py import MPI

    mine = np.array([2 * int(wishes) + (not math.isfinite(loss))], dtype=np.int32)
    united = np.empty_like(mine)
    topology.world.Allreduce(mine, united, op=MPI.BOR)
    if not united[0] & 1:
        return int(united[0]) >> 1
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
    raise AssertionError("a rank said that its loss is not finite, and none raised")


def check_replicas(method: Method, topology: Topology) -> None:
    """Replicas must be equal to the bit. Collective over the world.

    Replicas are all ranks, or those of a data group where every sample has parameters of its own.

    Raises
    ------
    DivergedError
        Naming the first rank that differs from the first of its kind, on all ranks.
    """
    own = hashlib.sha256()
    _add_to_hash(own, dict(method.named_variational()))
    hashes = topology.world.allgather((topology.sample_rank, own.hexdigest()))
    with together(topology.world):
        first: dict[int, tuple[int, str]] = {}
        for rank, (column, other) in enumerate(hashes):
            kind = 0 if method.members is None else column
            before, expected = first.setdefault(kind, (rank, other))
            if other != expected:
                raise DivergedError(
                    f"replicas differ at step {method.step}: rank {before} has parameters "
                    f"{expected[:12]}, rank {rank} has {other[:12]}"
                )


def parameters_sha256(method: Method, topology: Topology) -> str:
    """Hash of the trained parameters, in name order, little-endian. Collective over the world."""
    parameters = dict(method.named_variational())
    if method.members is not None:
        parameters = state.gather(parameters, topology.sample_comm)
    digest = hashlib.sha256()
    if topology.is_root:
        _add_to_hash(digest, parameters)
    found: str = topology.world.bcast(digest.hexdigest())
    return found


def _add_to_hash(digest: hashlib._Hash, parameters: dict[str, Tensor]) -> None:
    for _, value in sorted(parameters.items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())

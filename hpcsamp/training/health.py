"""Is the run still a run? All ranks hold the same parameters."""

from __future__ import annotations

import hashlib

from torch import Tensor

from hpcsamp.errors import DivergedError
from hpcsamp.methods import Method
from hpcsamp.topology import Topology, together
from hpcsamp.training import state


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

"""Check that replicas of the parameters are identical on all ranks."""

from __future__ import annotations

import hashlib

from torch import Tensor

from hpcsamp.errors import DivergedError
from hpcsamp.grid import Topology, together
from hpcsamp.methods import Method
from hpcsamp.run import parted


def check_replicas(method: Method, topology: Topology) -> None:
    """Check that replicas are equal to the last bit. Collective over the world.

    Replicas are all ranks, or those of a data group if every sample has its own parameters. All
    tensors that the outputs depend on are compared, including frozen parameters and buffers.

    Raises
    ------
    DivergedError
        Naming the first rank that differs, the rank it was compared with, and the tensor; on all
        ranks.
    """
    held = method.held() | method.extra_as_tensors()
    own = hashlib.sha256()
    _add_to_hash(own, held)
    column = (topology.model_rank, method.placement.column(topology))
    hashes = topology.world.allgather((column, own.hexdigest()))
    first: dict[tuple[int, int], tuple[int, str]] = {}
    for rank, (kind, other) in enumerate(hashes):
        before, expected = first.setdefault(kind, (rank, other))
        if other == expected:
            continue
        each = topology.world.gather({n: _sha256({n: v}) for n, v in held.items()})
        with together(topology.world):
            if each is None:
                return
            a, b = each[before], each[rank]
            name = next(n for n in {**a, **b} if a.get(n) != b.get(n))
            raise DivergedError(
                f"replicas differ at step {method.step}: {name} differs between rank {before} "
                f"and rank {rank} ({a.get(name, 'none')[:12]}, {b.get(name, 'none')[:12]})"
            )


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    _add_to_hash(digest, tensors)
    return digest.hexdigest()


def parameters_sha256(method: Method, topology: Topology) -> str:
    """Hash of the trained parameters, in name order, little-endian. Collective over the world."""
    own = method.placement.gather(method.own_state(), topology)
    elsewhere = own is None or any(a.rank for a in topology.axes if a.name != "model")
    digest = hashlib.sha256()
    if not elsewhere:
        parameters = parted.whole(method, topology, method.by_name(own))
        if topology.is_root:
            _add_to_hash(digest, parameters)
    found: str = topology.world.bcast(digest.hexdigest())
    return found


def _add_to_hash(digest: hashlib._Hash, parameters: dict[str, Tensor]) -> None:
    for _, value in sorted(parameters.items()):
        array = value.detach().cpu().resolve_conj().contiguous().numpy()
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())

"""Check that replicas of the parameters are identical on all ranks."""

from __future__ import annotations

import hashlib

from torch import Tensor

from hpcsamp.errors import DivergedError
from hpcsamp.explain import more
from hpcsamp.grid import Topology, together
from hpcsamp.methods import Method
from hpcsamp.run.digest import add_to_hash


def check_replicas(method: Method, topology: Topology) -> None:
    """Check that replicas are equal to the last bit. Collective over the world.

    The replicas are all ranks, or those of a data group if every sample has its own parameters. All
    tensors that the outputs depend on are compared, including frozen parameters and buffers.

    Raises
    ------
    DivergedError
        If replicas differ; on all ranks. The message contains the first rank that differs, the rank
        it was compared with, and the tensor.
    """
    held = method.held() | method.extra_as_tensors()
    own = hashlib.sha256()
    add_to_hash(own, held)
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
                f"{more('replicas')}"
            )


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    add_to_hash(digest, tensors)
    return digest.hexdigest()

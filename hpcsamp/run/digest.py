"""Hash the trained parameters of a run without gathering all of them on one rank.

The digest is that of the whole tensors in the order of their names, C order, little-endian. Ranks
hold parts of a network (model axis), rows of members or shards of flat vectors (sample axis); rank
0 receives block after block of the flattened whole and adds it to the digest.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpcsamp.grid import Topology
from hpcsamp.grid.gathering import gather_rows
from hpcsamp.grid.parts import Part
from hpcsamp.grid.placement import Replicated
from hpcsamp.grid.runs import Runs
from hpcsamp.methods import Method

BLOCK = 1 << 21
"""Largest number of values of a tensor that rank 0 receives at a time."""


@dataclass(frozen=True)
class Contribution:
    """The part of a tensor that this rank contributes to its digest.

    Attributes
    ----------
    values
        Flat values; empty if another rank contributes the same ones.
    runs
        Positions of the values in the flattened whole.
    """

    values: Tensor
    runs: Runs

    def within(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return ``(k, 2)`` runs and ``(m,)`` values at the positions ``start ... stop - 1``.

        Runs are relative to ``start``.
        """
        block = Runs.of(self.runs.shape, [(start, stop)])
        found = list(self.runs.meeting(block))
        values = [self.values[i : i + n] for i, _, n in found]
        bounds = torch.tensor([(j, j + n) for _, j, n in found], dtype=torch.int64).view(-1, 2)
        return bounds, torch.cat(values) if values else self.values[:0]


def parameters_sha256(method: Method, topology: Topology) -> str:
    """Hash of the trained parameters, the same on any grid. Collective over the world."""
    digest = hashlib.sha256()
    if topology.model_size == 1 and method.placement.axis is None:
        if topology.is_root:
            add_to_hash(digest, method.by_name(method.own_state()))
    else:
        for _, held in sorted(_held(method, topology).items()):
            _add(digest, held, topology)
    found: str = topology.world.bcast(digest.hexdigest())
    return found


def add_to_hash(digest: hashlib._Hash, tensors: dict[str, Tensor]) -> None:
    """Add whole tensors to a hash in the order of their names."""
    for _, value in sorted(tensors.items()):
        _update(digest, value.detach().resolve_conj())


def _update(digest: hashlib._Hash, x: Tensor) -> None:
    array = x.cpu().contiguous().numpy()
    digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _add(digest: hashlib._Hash, held: Contribution, topology: Topology) -> None:
    """Add a tensor, of which each rank holds a part, to a hash. Collective over the world."""
    size = math.prod(held.runs.shape)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        bounds, values = (gather_rows(x, topology.world) for x in held.within(start, stop))
        if bounds is None or values is None:
            continue
        whole, at = torch.empty(stop - start, dtype=values.dtype), 0
        for first, last in bounds.tolist():
            whole[first:last] = values[at : at + last - first]
            at += last - first
        assert at == stop - start, (
            "the parts of a tensor on the ranks do not cover the whole tensor exactly once"
        )
        _update(digest, whole)


def _held(method: Method, topology: Topology) -> dict[str, Contribution]:
    """Contribution of this rank, by name of a trained tensor. Collective over the sample group."""
    pieces = method.named_pieces() if topology.model_size > 1 else {}
    placement, own = method.placement, method.own_state()
    shared = any(placement.of(name).flattened for name in own)
    parts = _of_shares(method, own, topology) if shared else {
        name: (x, Runs.whole(x.shape)) for name, x in method.by_name(own).items()
    }  # fmt: skip
    found = {}
    for name, (x, mine) in parts.items():
        part = pieces.get(name) if mine.shape else None
        rows = Replicated() if shared or not mine.shape else placement
        shape = rows.whole_of(mine.shape, mine.shape)  # with the rows of all members
        runs = Runs.whole(shape)
        if isinstance(part, Part):
            whole = part.whole_of(shape)
            length = math.prod(part.whole_of(part.local))
            runs = Runs.repeated(whole, part.runs(), length)
        if shared:
            first = int(mine.bounds[0, 0]) if mine.size else 0
            runs = runs.within(first, first + mine.size)
        else:
            runs = rows.place(runs)
        same = [topology.data_rank]
        if rows.axis is None and not shared:
            same.append(topology.sample_rank)
        if part is None:
            same.append(topology.model_rank)
        if any(same):  # another rank also holds it
            x, runs = x.new_empty(0), Runs.of(runs.shape, [])
        found[name] = Contribution(x.detach().resolve_conj().resolve_neg().reshape(-1), runs)
    return found


def _of_shares(
    method: Method, own: dict[str, Tensor], topology: Topology
) -> dict[str, tuple[Tensor, Runs]]:
    """This rank's values of each variable and their positions, if flat vectors are sharded.

    The positions of the variables in a flat vector are found from a vector on the meta device.
    """
    placement = method.placement
    each = topology.sample_comm.allgather({name: x.numel() for name, x in own.items()})
    blank = {}
    for name, x in own.items():
        length = sum(of[name] for of in each) if placement.of(name).flattened else x.numel()
        blank[name] = torch.empty(length, dtype=x.dtype, device="meta")
    of = {x.untyped_storage()._cdata: name for name, x in blank.items()}
    found = {}
    for name, view in method.by_name(blank).items():
        flat = of[view.untyped_storage()._cdata]
        start, mine = int(view.storage_offset()), placement.of(flat).own(blank[flat].numel())
        first, last = max(start, mine.start), min(start + view.numel(), mine.stop)
        last = max(first, last)
        values = own[flat][first - mine.start : last - mine.start]
        found[name] = values, Runs.of(view.shape, [(first - start, last - start)])
    return found

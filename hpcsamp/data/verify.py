"""Verify a dataset in parallel: read every byte and list all damaged shards and chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpcsamp.data.manifest import Manifest, ShardEntry
from hpcsamp.data.shard import ShardReader, check_header, check_target, sha256
from hpcsamp.errors import DataError

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass
class Findings:
    """Result of a verification.

    Attributes
    ----------
    shards, chunks, size
        Numbers of shards, chunks and bytes that were read.
    bad
        One message for every bad shard or chunk, in shard order.
    """

    shards: int = 0
    chunks: int = 0
    size: int = 0
    bad: list[str] = field(default_factory=list)


def verify(folder: str | Path, manifest: Manifest, comm: MPI.Intracomm) -> Findings:
    """Check headers, hashes, checksums, labels and values of all shards.

    Collective over ``comm``: each of P ranks reads every P-th shard; all return the same findings.
    """
    own: list[tuple[int, Findings]] = []
    for number in range(comm.Get_rank(), len(manifest.shards), comm.Get_size()):
        own.append((number, verify_shard(Path(folder), manifest, manifest.shards[number])))
    total = Findings()
    for _, found in sorted((f for part in comm.allgather(own) for f in part), key=lambda f: f[0]):
        total.shards += found.shards
        total.chunks += found.chunks
        total.size += found.size
        total.bad += found.bad
    return total


def verify_shard(folder: Path, manifest: Manifest, entry: ShardEntry) -> Findings:
    """Check one shard; every bad chunk has a message of its own."""
    found = Findings(shards=1, size=entry.size)
    try:
        check_header(folder, manifest, entry)
        reader = ShardReader(folder / entry.file, manifest, entry)
    except DataError as e:
        found.bad.append(str(e))
        return found
    targets = manifest.targets_by_name
    for array, spec in manifest.arrays.items():
        for chunk in range(spec.chunk_count(entry.count)):
            found.chunks += 1
            try:
                values = reader.read_chunk(array, chunk)
                reader.check(array, chunk, values)
                if array in targets:
                    where = f"{reader.path}: chunk {chunk} of {array}"
                    check_target(values, targets[array], where)
            except DataError as e:
                found.bad.append(str(e))
    reader.close()
    if not found.bad:  # messages about chunks are more precise than the hash of the file
        digest = sha256(folder / entry.file)
        if digest != entry.sha256:
            found.bad.append(
                f"{folder / entry.file}: its SHA-256 is {digest[:16]}..., but "
                f"{entry.sha256[:16]}... in the manifest; all chunks are intact, so the "
                f"header was changed"
            )
    return found

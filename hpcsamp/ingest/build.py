"""Write a source into a dataset folder: in parallel, resumable, complete or not at all.

All files are written into a hidden folder beside the target (``.NAME.partial``), which is renamed
to the target after its manifest has been written. A job that was killed resumes after the shards it
had finished; a job that failed leaves nothing behind. Only one job at a time writes a dataset.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcsamp import serial
from hpcsamp.data.climatology import ClimatologySums, write_climatology
from hpcsamp.data.manifest import NAME, Manifest, ShardEntry, Stats, read_manifest
from hpcsamp.data.offsets import Offsets
from hpcsamp.data.roles import check_roles, counted, targets_of
from hpcsamp.data.shard import sha256
from hpcsamp.data.shard_writer import header, seal, shard_name, write_shard, write_stats
from hpcsamp.data.stats import Moments, combine
from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import sync, write_whole
from hpcsamp.grid import together
from hpcsamp.ingest.checks import add_moments, check_block, check_moments
from hpcsamp.ingest.climate import add_climate, climate_sums, variables_of
from hpcsamp.ingest.identity import identity, plan_shards, schema_of, versions
from hpcsamp.ingest.slab_shapes import Slabs, in_slabs
from hpcsamp.ingest.source import Source
from hpcsamp.locks import Lock, locked
from hpcsamp.sealing import text
from hpcsamp.watchdog import Phase, here

if TYPE_CHECKING:
    from mpi4py import MPI

SHARD_BYTES = 256 * 2**20
"""Target size of a shard in bytes."""

BLOCK_BYTES = 32 * 2**20
"""Number of bytes read from the source at a time."""


def build(
    source: Source,
    out: str | Path,
    *,
    comm: MPI.Comm | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    slabs: Slabs = "auto",
    progress: Callable[[int, int], None] | None = None,
    waiting: Callable[[], None] | None = None,
) -> Manifest:
    """Write a dataset folder. Collective over ``comm``.

    Parameters
    ----------
    source
        The source; the same on every rank.
    out
        The folder to write.
    comm
        Ranks that share the work (default: only this one).
    shard_bytes
        Target size of a shard in bytes.
    overwrite
        Replace an existing dataset.
    slabs
        Choice of the arrays that are stored in slabs of their items, see
        :func:`~hpcsamp.ingest.slab_shapes.in_slabs`.
    progress
        Called on rank 0 with the number of finished shards and of all shards.
    waiting
        Called on rank 0 if another job is writing the folder. The function then waits for that job
        and, if it wrote the same dataset, returns its manifest.

    Returns
    -------
    Manifest
        Manifest of the finished dataset, on every rank.

    Raises
    ------
    UsageError
        If the folder exists already, another job is writing it and ``waiting`` is None, or slabs
        do not fit the items.
    DataError
        If an item cannot be used (NaN, label out of range), read or written. Nothing is left
        behind.
    """
    comm = comm or serial.COMM_SELF
    target = Path(out)
    folder = target.parent / f".{target.name}.partial"
    try:
        check_roles(source)
    except ValueError as e:
        raise DataError(f"{source.name}: {e}") from None
    source = copy.copy(source)
    source.arrays = in_slabs(source.arrays, slabs)
    shards = plan_shards(source, shard_bytes)
    with together(comm):  # on one rank only, since it may be a digest of many files
        content = source.content() if comm.Get_rank() == 0 else ""
        uid = identity(source, shards, content) if comm.Get_rank() == 0 else ""
    uid, content = comm.bcast((uid, content))
    with ExitStack() as stack:
        found, lock = None, None
        with together(comm):
            if comm.Get_rank() == 0:
                lock = stack.enter_context(_alone(target, waiting))
                found = _found(target, uid) if waiting else None
                if found is None:
                    _prepare(target, folder, uid, overwrite)
        found = comm.bcast(found)
        return found or _write(source, target, folder, uid, content, shards, comm, progress, lock)


def _write(
    source: Source,
    target: Path,
    folder: Path,
    uid: str,
    content: str,
    shards: list[dict[str, Any]],
    comm: MPI.Comm,
    progress: Callable[[int, int], None] | None,
    lock: Lock | None,
) -> Manifest:
    """Write all shards and publish the folder; only rank 0 passes ``lock``."""
    rank, size = comm.Get_rank(), comm.Get_size()
    origin = ({"sha256": content} if content else {}) | source.source
    writer = _Writer(source, folder, uid, origin)
    try:
        for first in range(0, len(shards), size):  # in rounds, so that all ranks stop together
            with together(comm):
                if lock is not None:
                    lock.check()
                if first + rank < len(shards):
                    writer.write(shards[first + rank])
            if progress and rank == 0:
                progress(min(first + size, len(shards)), len(shards))
        with together(comm):
            stats = writer.stats(shards)
        for first in range(0, len(shards), size):
            with together(comm):
                if first + rank < len(shards):
                    writer.finish(shards[first + rank], stats)
        with together(comm):
            if rank == 0:
                writer.climatology(shards)
        with together(comm):
            manifest = _manifest(source, uid, origin, stats, [writer.entry(s) for s in shards])
        with together(comm):
            if lock is not None:
                lock.check()
                _publish(manifest, folder, target)
    except Exception:
        if lock is not None and lock.held():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return manifest


@contextmanager
def _alone(target: Path, waiting: Callable[[], None] | None) -> Iterator[Lock]:
    """Lock a dataset folder, so that no other process writes it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"{target.parent} cannot be written to: {e.strerror}") from e
    with locked(target.parent / f".{target.name}.lock", target, waiting) as lock:
        yield lock


def _found(target: Path, uid: str) -> Manifest | None:
    """Return the manifest of a folder that already has this dataset, or None."""
    if not (target / NAME).is_file():
        return None
    manifest = read_manifest(target)
    return manifest if manifest.uid == uid else None


def _prepare(target: Path, folder: Path, uid: str, overwrite: bool) -> None:
    if target.exists():
        if not target.is_dir() or (any(target.iterdir()) and not (target / NAME).is_file()):
            raise UsageError(f"{target} exists and is not a dataset; choose another name")
        if (target / NAME).is_file() and not overwrite:
            raise UsageError(f"{target} is already a dataset; choose another name or --overwrite")
    note = folder / "uid"
    if folder.exists() and (not note.is_file() or note.read_bytes() != uid.encode()):
        shutil.rmtree(folder)  # left by the ingest of another source
    try:
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(uid)
    except OSError as e:
        raise UsageError(f"{target.parent} cannot be written to: {e.strerror}") from e


def _publish(manifest: Manifest, folder: Path, target: Path) -> None:
    """Turn the finished folder into the dataset: write the manifest last, then rename it once."""
    for note in [*folder.glob("shard-*.json"), *folder.glob("shard-*.npz"), folder / "uid"]:
        note.unlink()
    manifest.write(folder)
    sync(folder)
    if target.is_dir():
        old = target.parent / f".{target.name}.replaced"
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        folder.rename(target)
        shutil.rmtree(old)
    else:
        folder.rename(target)
    sync(target.parent)


def _manifest(
    source: Source,
    uid: str,
    origin: dict[str, Any],
    stats: Mapping[str, Stats],
    entries: list[ShardEntry],
) -> Manifest:
    return Manifest(
        schema_version=schema_of(source),
        uid=uid,
        name=source.name,
        task=source.task,
        classes=source.classes,
        class_names=source.class_names,
        inputs=source.inputs,
        normalize_y=source.normalize_y,
        missing=source.missing,
        targets=source.targets,
        arrays=source.arrays,
        splits=source.splits,
        shards=entries,
        stats=dict(stats),
        coords={name: c.units for name, c in source.coords.items()},
        meaning=source.meaning,
        source=origin,
        licence=source.licence,
        transforms=source.transforms,
        created_by=f"hpcsamp {version('hpcsamp')}",
        versions=versions(),
    )


class _Writer:
    """One rank's part of an ingest; finished work is recorded in ``shard-NNNNN.json``."""

    def __init__(self, source: Source, folder: Path, uid: str, origin: dict[str, Any]):
        self.source, self.folder, self.uid, self.origin = source, folder, uid, origin

    def _note(self, shard: Mapping[str, Any]) -> Path:
        return (self.folder / shard_name(shard["number"])).with_suffix(".json")

    def _read(self, shard: Mapping[str, Any]) -> dict[str, Any]:
        return text.read_json(self._note(shard), self.uid, unsealed=False)

    def _record(self, shard: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        write_whole(self._note(shard), text.to_json(facts, self.uid))

    def _done(self, shard: Mapping[str, Any]) -> bool:
        """Whether an earlier run has written a shard; False if its record is damaged."""
        try:
            self._read(shard)
        except DataError:
            return False
        return True

    def write(self, shard: Mapping[str, Any]) -> None:
        """First pass: write the items of a shard, unless an earlier run has written them."""
        if self._done(shard):
            return
        path = self.folder / shard_name(shard["number"])
        moments: dict[str, Moments] = {}
        sums = climate_sums(self.source) if shard["split"] == "train" else None
        attributes = header(
            schema=schema_of(self.source),
            uid=self.uid,
            **shard,
            created_by=f"hpcsamp {version('hpcsamp')}",
            versions=versions(),
            source=self.origin,
            licence=self.source.licence,
            transforms=self.source.transforms,
        )
        written = write_shard(
            path,
            self.source.arrays,
            self._blocks(shard, moments, sums),
            shard["count"],
            attributes,
            self.source.coords,
            {
                name: target.class_names
                for name, target in targets_of(self.source).items()
                if target.class_names is not None
            },
        )
        if sums is not None:
            sums.save(self._climate(shard))
        self._record(
            shard,
            {
                "chunks": {name: offsets.model_dump() for name, offsets in written.chunks.items()},
                "stats": written.stats,
                "moments": {name: m.to_json() for name, m in moments.items()},
            },
        )

    def _blocks(
        self,
        shard: Mapping[str, Any],
        moments: dict[str, Moments],
        sums: ClimatologySums | None,
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield the items of a shard after checking them; collect moments and climatology."""
        source, split, first = self.source, shard["split"], shard["first"]
        item_bytes = sum(spec.item_bytes for spec in source.arrays.values())
        size = max(1, BLOCK_BYTES // item_bytes)
        for begin in range(first, first + shard["count"], size):
            here.at(Phase.SHARD, shard["number"])
            end = min(begin + size, first + shard["count"])
            block = source.read(split, begin, end)
            where = f"{source.source.get('file', source.name)}: items {begin}-{end - 1} of {split}"
            check_block(source, block, where)
            if split == "train":
                add_moments(source, block, moments)
            if sums is not None:
                add_climate(sums, source, block)
            yield block

    def stats(self, shards: list[dict[str, Any]]) -> dict[str, Stats]:
        """Compute the statistics of train over all shards, added in shard order."""
        notes = [self._read(s)["moments"] for s in shards if s["split"] == "train"]
        if not notes:
            raise DataError(f"{self.source.name} has no items in train")
        found = {
            name: combine(Moments.from_json(note[name]) for note in notes)
            for name in counted(self.source)
        }
        check_moments(self.source, found)
        return {name: moments.stats() for name, moments in found.items()}

    def _climate(self, shard: Mapping[str, Any]) -> Path:
        return (self.folder / shard_name(shard["number"])).with_suffix(".npz")

    def climatology(self, shards: list[dict[str, Any]]) -> None:
        """Write the climatology of train, from sums over all shards in shard order."""
        total = climate_sums(self.source)
        if total is None:
            return
        for shard in shards:
            if shard["split"] == "train":
                total.merge(ClimatologySums.load(self._climate(shard)))
        variables = variables_of(self.source)
        write_climatology(self.folder, total.solve(), self.uid, variables, total.span)

    def finish(self, shard: Mapping[str, Any], stats: Mapping[str, Stats]) -> None:
        """Second pass: write statistics into a shard, and hash the finished file."""
        here.at(Phase.SHARD, shard["number"])
        facts = self._read(shard)
        if "sha256" in facts:
            return
        path = self.folder / shard_name(shard["number"])
        write_stats(path, stats, facts["stats"])
        seal(path, self.source.arrays)
        sync(path)
        facts |= {"sha256": sha256(path), "size": path.stat().st_size}
        self._record(shard, facts)

    def entry(self, shard: Mapping[str, Any]) -> ShardEntry:
        """Return the manifest entry of a finished shard."""
        facts = self._read(shard)
        return ShardEntry(
            file=shard_name(shard["number"]),
            split=shard["split"],
            first=shard["first"],
            count=shard["count"],
            size=facts["size"],
            sha256=facts["sha256"],
            chunks={name: Offsets(**o) for name, o in facts["chunks"].items()},
        )

"""Small sets for the tests of the data room."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpcsamp.data import Dataset
from hpcsamp.data.manifest import ArraySpec
from hpcsamp.ingest import build
from hpcsamp.ingest.source import ArraySource


def make(
    folder: Path,
    *,
    count: int = 203,
    shape: tuple[int, ...] = (3, 5, 2),
    dtype: str = "<f4",
    classes: int | None = 4,
    compression=None,
    chunk_bytes: int = 1000,
    shard_bytes: int = 8000,
    seed: int = 0,
    slabs="auto",
    comm=None,
) -> dict[str, np.ndarray]:
    """Write a set of random items with many small chunks and shards; the items of train."""
    generator = np.random.default_rng(seed)
    items = {}
    for split, n in (("train", count), ("test", 20)):
        x = generator.normal(5, 2, (n, *shape))
        x = (x * 20).clip(0, 255) if dtype == "u1" else x
        numbers = generator.normal(-1, 3, (n, 2, 40)).astype("<f4")
        y = np.arange(n) % classes if classes else numbers
        items[split] = {"x": x.astype(dtype), "y": y}
    arrays = {
        "x": ArraySpec.plan(shape, dtype, compression=compression, chunk_bytes=chunk_bytes),
        "y": ArraySpec.plan(
            items["train"]["y"].shape[1:],
            "<i8" if classes else "<f4",
            compression=compression,
            chunk_bytes=chunk_bytes,
        ),
    }
    source = ArraySource(
        name="random",
        task="classification" if classes else "regression",
        classes=classes,
        arrays=arrays,
        splits={name: len(part["y"]) for name, part in items.items()},
        source={"name": "random", "seed": seed},
        items=items,
    )
    build(source, folder, comm=comm, shard_bytes=shard_bytes, slabs=slabs)
    return items["train"]


def flip_bit(folder: Path, array: str = "x", item: int = 100) -> tuple[str, int]:
    """Flip a bit of an item of train, behind HDF5's back; the file and the chunk."""
    dataset = Dataset.open(folder)
    shard = int(np.searchsorted(dataset.firsts, item, side="right") - 1)
    entry, spec = dataset.shards[shard], dataset.manifest.arrays[array]
    local = item - entry.first
    chunk = local // spec.items_per_chunk * spec.chunks_per_item
    inside = local % spec.items_per_chunk * spec.item_bytes
    with (folder / entry.file).open("r+b") as f:
        f.seek(int(entry.chunks[array].array()[chunk]) + inside)
        old = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([old[0] ^ 4]))
    return entry.file, chunk


def nothing_left(folder: Path) -> bool:
    """Whether a dataset folder and all that its making leaves beside it are gone."""
    names = {p.name for p in folder.parent.iterdir()}
    return not {n for n in names if n == folder.name or n.startswith(f".{folder.name}")}

"""What a source becomes: its shards, the identity and layout of the set, and what wrote it."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from typing import Any

import h5py
import numpy as np

from hpcsamp.data.manifest import NAMED, PLAIN, SCHEMA, ArraySpec
from hpcsamp.data.roles import is_plain, leading
from hpcsamp.grid import share
from hpcsamp.ingest.source import Source


def plan_shards(source: Source, shard_bytes: int) -> list[dict[str, Any]]:
    """``number, split, first, count`` of every shard: near ``shard_bytes``, equal within a split,
    cut at chunk boundaries."""
    item_bytes = sum(spec.item_bytes for spec in source.arrays.values())
    step = source.arrays[leading(source)].items_per_chunk
    shards: list[dict[str, Any]] = []
    for split, count in source.splits.items():
        groups = -(-count // step)
        parts = max(1, min(groups, round(count * item_bytes / shard_bytes)))
        for part in range(parts):
            own = share(groups, parts, part)
            first, last = own.start * step, min(own.stop * step, count)
            number = len(shards)
            shards.append({"number": number, "split": split, "first": first, "count": last - first})
    return shards


def identity(source: Source, shards: list[dict[str, Any]], content: str | None = None) -> str:
    """The set's uid: the same content, made the same way, has the same one.

    Parameters
    ----------
    content
        :meth:`Source.content`, if it is known already.
    """
    told = {
        "schema": 1,  # what items are has not changed since
        "name": source.name,
        "arrays": {name: _told(spec) for name, spec in source.arrays.items()},
        "source": source.source,
        "transforms": source.transforms,
        "shards": shards,
    }
    if source.inputs != "numbers":
        given = source.inputs  # the order of several is part of the set
        told["inputs"] = list(given.items()) if isinstance(given, dict) else given
    if source.class_names is not None:
        told["class_names"] = source.class_names
    if source.targets:
        told["targets"] = {name: target.model_dump() for name, target in source.targets.items()}
    if source.missing is not None:
        told["missing"] = source.missing
    content = source.content() if content is None else content
    if content:
        told["content"] = content
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _told(spec: ArraySpec) -> dict[str, Any]:
    """An array's description; names and slabs are left out where it has none, as before there were
    any."""
    none = {key for key in ("names", "slab") if not getattr(spec, key)}
    return spec.model_dump(exclude=none)


def schema_of(source: Source) -> int:
    """Version of the layout: a set in which there is nothing new has the one it always had."""
    if any(spec.slab is not None for spec in source.arrays.values()):
        return SCHEMA
    return PLAIN if is_plain(source) else NAMED


def versions() -> dict[str, str]:
    """Of everything that had a hand in the files."""
    return {
        "hpcsamp": version("hpcsamp"),
        "h5py": h5py.version.version,
        "hdf5": h5py.version.hdf5_version,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }

"""Plan the shards of a source, and compute the identity and schema version of its dataset."""

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
    """Plan shards: ``number, split, first, count`` of each.

    Shards have about ``shard_bytes``, equal sizes within a split, and end at chunk boundaries.
    """
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
    """Return the uid of a dataset; the same content, made the same way, has the same uid.

    Parameters
    ----------
    content
        Result of :meth:`Source.content`, if it is known already.
    """
    facts = {
        "schema": 1,  # the meaning of items has not changed since
        "name": source.name,
        "arrays": {name: _described(spec) for name, spec in source.arrays.items()},
        "source": source.source,
        "transforms": source.transforms,
        "shards": shards,
    }
    if source.inputs != "numbers":
        given = source.inputs  # the order of several inputs is part of the identity
        facts["inputs"] = list(given.items()) if isinstance(given, dict) else given
    if source.class_names is not None:
        facts["class_names"] = source.class_names
    if source.targets:
        facts["targets"] = {name: target.model_dump() for name, target in source.targets.items()}
    if source.missing is not None:
        facts["missing"] = source.missing
    content = source.content() if content is None else content
    if content:
        facts["content"] = content
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _described(spec: ArraySpec) -> dict[str, Any]:
    """Describe an array; empty names and slabs are left out, as in sets made without them."""
    none = {key for key in ("names", "slab") if not getattr(spec, key)}
    return spec.model_dump(exclude=none)


def schema_of(source: Source) -> int:
    """Return the schema version: the oldest that can describe the dataset."""
    if any(spec.slab is not None for spec in source.arrays.values()):
        return SCHEMA
    return PLAIN if is_plain(source) else NAMED


def versions() -> dict[str, str]:
    """Return the versions of the packages that write the files."""
    return {
        "hpcsamp": version("hpcsamp"),
        "h5py": h5py.version.version,
        "hdf5": h5py.version.hdf5_version,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }

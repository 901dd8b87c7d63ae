"""The identity of a set, and the versions of what writes it."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from typing import Any

import h5py
import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.ingest.source import Source


def identity(source: Source, shards: list[dict[str, Any]]) -> str:
    """The set's uid: the same content, made the same way, has the same one."""
    told = {
        "schema": 1,  # what items are has not changed since
        "name": source.name,
        "arrays": {name: _told(spec) for name, spec in source.arrays.items()},
        "source": source.source,
        "transforms": source.transforms,
        "shards": shards,
    }
    if source.inputs != "numbers":
        told["inputs"] = source.inputs
    if source.class_names is not None:
        told["class_names"] = source.class_names
    content = source.content()
    if content:
        told["content"] = content
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _told(spec: ArraySpec) -> dict[str, Any]:
    """An array's description; names are left out where it has none, as before there were any."""
    return spec.model_dump(exclude=set() if spec.names else {"names"})


def versions() -> dict[str, str]:
    """Of everything that had a hand in the files."""
    return {
        "hpcsamp": version("hpcsamp"),
        "h5py": h5py.version.version,
        "hdf5": h5py.version.hdf5_version,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }

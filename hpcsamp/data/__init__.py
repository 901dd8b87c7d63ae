"""Datasets on disk, and a loader of batches that reads each batch once per sample group."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hpcsamp.data.dataset import Dataset
from hpcsamp.data.manifest import Manifest

if TYPE_CHECKING:
    from hpcsamp.data.batch import Batch
    from hpcsamp.data.loader import Loader

# Imported on first use: a report reads datasets without torch.
_HOME = {"Batch": "hpcsamp.data.batch", "Loader": "hpcsamp.data.loader"}

__all__ = ["Batch", "Dataset", "Loader", "Manifest"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'hpcsamp.data' has no attribute {name!r}")

"""Staged datasets: read the copy that a job script has made on the node's local disk.

The run records the path of the original, because the copy is removed when the job ends.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hpcsamp.data.manifest import read_manifest
from hpcsamp.errors import DataError

VARIABLE = "HPCSAMP_STAGED_DATA"


def staged(path: str | Path, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder from which to read a dataset: its staged copy if there is one, or the original.

    Raises
    ------
    DataError
        If the copy belongs to another dataset.
    """
    copy = environment.get(VARIABLE, "")
    if not copy:
        return Path(path)
    there, here = read_manifest(path).uid, read_manifest(copy).uid
    if there != here:
        raise DataError(
            f"{VARIABLE}={copy} is a copy of dataset {here}, but {path} is dataset {there}"
        )
    return Path(copy)

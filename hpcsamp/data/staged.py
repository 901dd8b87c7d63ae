"""A copy of a dataset on the node's own disk, made by a job script, to read in its place.

The run still names the original: the copy is gone when the job is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hpcsamp.data.manifest import read_manifest
from hpcsamp.errors import DataError

VARIABLE = "HPCSAMP_STAGED_DATA"


def staged(path: str | Path, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder to read for a dataset: its staged copy if a job script made one, or itself.

    Raises
    ------
    DataError
        If the copy is of another dataset.
    """
    copy = environment.get(VARIABLE, "")
    if not copy:
        return Path(path)
    there, here = read_manifest(path).uid, read_manifest(copy).uid
    if there != here:
        raise DataError(f"{VARIABLE}={copy} is dataset {here}, but {path} is {there}")
    return Path(copy)

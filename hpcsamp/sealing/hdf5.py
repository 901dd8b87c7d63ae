"""Open sealed HDF5 files of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from hpcsamp.errors import DataError
from hpcsamp.sealing import regions, text
from hpcsamp.sealing.errors import DamagedError


@contextmanager
def opened(path: Path, owner: str | None = None) -> Iterator[h5py.File]:
    """Verify the seal of an HDF5 file and open it.

    Parameters
    ----------
    owner
        Name of the run to which the file must belong; empty for a run without seals, written by an
        older version; None for any run.

    Raises
    ------
    DataError
        If the file cannot be read, has changed, or belongs to another run.
    """
    try:
        sealed = regions.check(path)
        with h5py.File(path, "r") as f:
            if not sealed and (owner or text.VERSION in f.attrs):
                raise DamagedError("its seal is missing")
            if owner is not None and f.attrs.get("run", "") != owner:
                raise DamagedError("it belongs to another run")
            yield f
    except (DamagedError, OSError, RuntimeError) as e:
        reason = str(e).split("\n")[0]
        raise DataError(f"{path} is damaged ({reason}): write it again") from None

"""Open an HDF5 file that is sealed for a run."""

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
    """A file whose every byte is what was written.

    Parameters
    ----------
    owner
        Name of the run that it must be of; empty for one from before files were sealed, None for
        any.

    Raises
    ------
    DataError
        If it cannot be read, was changed, or is of another run.
    """
    try:
        sealed = regions.check(path)
        with h5py.File(path, "r") as f:
            if not sealed and (owner or text.VERSION in f.attrs):
                raise DamagedError("its seal is missing")
            if owner is not None and f.attrs.get("run", "") != owner:
                raise DamagedError("it is of another run")
            yield f
    except (DamagedError, OSError, RuntimeError) as e:
        reason = str(e).split("\n")[0]
        raise DataError(f"{path} is damaged ({reason}): write it again") from None

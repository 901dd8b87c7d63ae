"""Arrays in files that are mapped and not read."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from hpcsamp.errors import DataError

EXACT = 2**53
"""Whole numbers up to this one are exact in float64."""

BLOCK_BYTES = 16 * 2**20
"""Bytes of a mapped array that are looked at together."""


def mapped(file: Path) -> np.ndarray:
    """An array of numbers in a file, mapped and not read.

    Raises
    ------
    DataError
        If it is not readable, or holds no numbers.
    """
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except Exception as e:  # whatever a damaged file makes NumPy raise
        raise DataError(f"{file}: not a readable array: {e}") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        raise DataError(f"{file}: holds {getattr(found, 'dtype', 'several arrays')}; one array of "
                        "numbers is needed")  # fmt: skip
    return found


def take(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Ascending rows of a mapped array, in memory."""
    near = len(rows) and rows[-1] - rows[0] == len(rows) - 1
    found = np.array(values[rows[0] : rows[-1] + 1] if near else values[rows])
    release(values)
    return found


def release(values: np.ndarray) -> None:
    """Give the pages of a mapped array back, which otherwise count as memory of the process."""
    pages = getattr(values, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def check_exact(values: np.ndarray, file: Path) -> None:
    """Refuse whole numbers that float64 does not hold, looking at blocks of rows.

    Raises
    ------
    DataError
        With the first such number.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8:
        return
    step = max(1, BLOCK_BYTES // max(1, values[:1].nbytes))
    for begin in range(0, len(values), step):
        block = values[begin : begin + step]
        top = max(abs(int(block.min())), abs(int(block.max())))
        release(values)
        if top > EXACT:
            raise DataError(
                f"{file}: {top} is beyond 2**53, where whole numbers lose digits in float64; "
                "subtract an offset, or number them"
            )

"""Memory-mapped arrays in ``.npy`` files."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from hpcsamp.errors import DataError

EXACT = 2**53
"""All whole numbers up to this one are exact in float64."""

BLOCK_BYTES = 16 * 2**20
"""Number of bytes of a mapped array that are examined at a time."""


def mapped(file: Path) -> np.ndarray:
    """Memory-map an array of numbers in a file.

    Raises
    ------
    DataError
        If the file cannot be read, or the array is not numeric.
    """
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except Exception as e:  # NumPy raises many kinds of errors for damaged files
        raise DataError(f"{file}: not a readable array: {e}") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        raise DataError(f"{file} has {getattr(found, 'dtype', 'several arrays')}, but one array of "
                        "numbers is needed")  # fmt: skip
    return found


def take(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Read ascending rows of a mapped array into memory."""
    near = len(rows) and rows[-1] - rows[0] == len(rows) - 1
    found = np.array(values[rows[0] : rows[-1] + 1] if near else values[rows])
    release(values)
    return found


def release(values: np.ndarray) -> None:
    """Release the pages of a mapped array, which otherwise count as memory of the process."""
    pages = getattr(values, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def check_exact(values: np.ndarray, file: Path) -> None:
    """Refuse whole numbers that are not exact in float64, examining blocks of rows.

    Raises
    ------
    DataError
        If a number is not exact; the message names the largest one of its block.
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
                f"{file}: {top} is above 2**53, where whole numbers lose digits in float64; "
                "subtract an offset, or number them"
            )

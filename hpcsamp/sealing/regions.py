"""Seal of HDF5 files whose parts are written by several processes.

The seal is appended at the end of the file, which HDF5 ignores: the positions of the parts, a
CRC-32 of each, and a SHA-256 over this list and all bytes outside the parts. So names, attributes
and axes are covered as well as values, a rank needs only its own parts, and any HDF5 library can
open the file.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpcsamp.sealing.errors import DamagedError

MARK = b"hpcsamp-seal:"
PLACE = np.dtype(
    [("offset", "<i8"), ("size", "<i8"), ("stride", "<i8"), ("count", "<i8"), ("crc", "<u4")]
)
"""A part: ``count`` pieces of ``size`` bytes each, ``stride`` bytes apart."""
_FOOT = len(MARK) + 1 + 8 + 64  # mark, whether parts are checked, number of places, digest


def places(rows: Sequence[tuple[int, int, int, int, int]]) -> np.ndarray:
    """Convert rows (offset, size, stride, count, crc) to an array of parts."""
    return np.array(list(rows), PLACE)


def seal(path: Path, parts: np.ndarray, *, checked: bool = True) -> None:
    """Append the seal to a file after its parts have been written.

    Parameters
    ----------
    parts
        The parts of all processes, of type :data:`PLACE`.
    checked
        False if the parts have checksums elsewhere in the file; then those in ``parts`` are 0.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    parts = np.sort(parts, order="offset")
    with path.open("r+b") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
        digest = _digest(content, len(content), parts, checked)
        f.seek(0, 2)
        f.write(parts.tobytes() + MARK + bytes([checked]))
        f.write(len(parts).to_bytes(8, "little") + digest)
        f.flush()
        os.fsync(f.fileno())


def check(path: Path) -> bool:
    """Verify the checksums of a file.

    Returns
    -------
    bool
        Whether the file is sealed.

    Raises
    ------
    DamagedError
        If any byte has changed since the file was written; parts that have checksums elsewhere in
        the file are not verified.
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as f:
        if f.seek(0, 2) < _FOOT:
            return False
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
            foot = content[-_FOOT:]
            if not foot.startswith(MARK):
                return False
            checked = foot[len(MARK)]
            number = int.from_bytes(foot[len(MARK) + 1 : -64], "little")
            end = len(content) - _FOOT - number * PLACE.itemsize
            if end < 0 or checked > 1:
                raise DamagedError("its seal does not match it")
            parts = np.frombuffer(content[end : end + number * PLACE.itemsize], PLACE)
            if foot[-64:] != _digest(content, end, parts, bool(checked)):
                raise DamagedError("the checksum of its header, attributes and axes differs")
            for part in parts if checked else ():
                if _crc(content, part) != part["crc"]:
                    raise DamagedError(f"the checksum of the part at byte {part['offset']} differs")
    return True


def _crc(content: mmap.mmap, part: np.void) -> int:
    size, stride, offset = int(part["size"]), int(part["stride"]), int(part["offset"])
    crc, view = 0, memoryview(content)
    try:
        for at in range(offset, offset + stride * int(part["count"]), stride):
            crc = zlib.crc32(view[at : at + size], crc)
    finally:
        view.release()
    return crc


def _digest(content: mmap.mmap, end: int, parts: np.ndarray, checked: bool) -> bytes:
    """Hexadecimal SHA-256 of the list of parts and of all bytes outside them."""
    digest = hashlib.sha256(parts.tobytes() + bytes([checked]))
    inside = np.zeros(0, "<i8")
    starts, stops = [inside], [inside]
    for part in parts[(parts["offset"] >= 0) & (parts["size"] >= 0) & (parts["count"] > 0)]:
        if int(part["stride"]) * int(part["count"]) > 2 * end:
            raise DamagedError("its seal does not match it")
        first = part["offset"] + part["stride"] * np.arange(part["count"])
        starts.append(first)
        stops.append(first + part["size"])
    start, stop = np.concatenate(starts), np.concatenate(stops)
    order = np.argsort(start, kind="stable")
    done = 0
    for a, b in zip(start[order].tolist(), stop[order].tolist(), strict=True):
        if done < a:
            digest.update(content[done : min(a, end)])
        done = max(done, b)
    digest.update(content[min(done, end) : end])
    return digest.hexdigest().encode()

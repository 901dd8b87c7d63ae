"""Seal of a zip file as ``torch.save`` writes it.

Torch stores a CRC-32 of every record in the list of records and compares none of them. Here they
are compared. All other bytes (the list itself, headers, padding, the order of the records) are
covered by a SHA-256 in the comment of the zip file, so that sealing costs nothing that grows with
the size of the records.
"""

from __future__ import annotations

import hashlib
import mmap
import zipfile
import zlib
from pathlib import Path
from typing import IO

from hpcsamp.sealing.errors import DamagedError

MARK = b"hpcsamp-seal:"
COMMENT_BYTES = len(MARK) + 64
HEADER_BYTES = 30
"""Of the fixed part of the header in front of a record."""


def seal(f: IO[bytes]) -> None:
    """Add the seal to an archive that has just been written.

    Parameters
    ----------
    f
        Open for reading and writing (``"w+b"``), at its end.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    f.seek(-2, 2)  # the length of the comment ends the file
    f.write(COMMENT_BYTES.to_bytes(2, "little") + MARK + bytes(64))
    f.flush()
    with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content, zipfile.ZipFile(f) as z:
        digest = _digest(content, _places(content, z.infolist()))
    f.seek(-64, 2)
    f.write(digest)
    f.seek(0, 2)


def check(path: Path) -> bool:
    """Compare the checksums of an archive: those of its records, and its seal if it has one.

    Returns
    -------
    bool
        Whether it is sealed.

    Raises
    ------
    DamagedError
        If a byte of it has changed since it was written. Of an archive without a seal this is
        known of its records alone.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as f:
        try:
            with zipfile.ZipFile(f) as z:
                records, comment = z.infolist(), z.comment
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
                places = _places(content, records)
                for record, place in zip(records, places, strict=True):
                    if zlib.crc32(memoryview(content)[place.start : place.stop]) != record.CRC:
                        raise DamagedError(f"record {record.filename} has another checksum")
                if not comment.startswith(MARK):
                    return False
                if comment[len(MARK) :] != _digest(content, places):
                    raise DamagedError("its list of records has another checksum")
        except (ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as e:
            raise DamagedError(str(e) or "it is no archive") from None
    return True


def _places(content: mmap.mmap, records: list[zipfile.ZipInfo]) -> list[range]:
    """Where the bytes of each record lie."""
    places = []
    for record in records:
        at = record.header_offset
        lengths = content[at + 26 : at + HEADER_BYTES]  # of the name and of the extra field
        start = (
            at + HEADER_BYTES + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
        )
        stop = start + record.compress_size
        if record.compress_type != zipfile.ZIP_STORED or not 0 <= start <= stop <= len(content):
            raise DamagedError(f"record {record.filename} does not lie in the file")
        places.append(range(start, stop))
    return places


def _digest(content: mmap.mmap, places: list[range]) -> bytes:
    """Hexadecimal SHA-256 of all bytes but the records and the seal itself."""
    found, done = hashlib.sha256(), 0
    for place in sorted(places, key=lambda p: (p.start, p.stop)):
        found.update(content[done : place.start])
        done = max(done, place.stop)
    found.update(content[done : len(content) - COMMENT_BYTES])
    return found.hexdigest().encode()

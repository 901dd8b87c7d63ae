"""Seal of a zip file that ``torch.save`` has written.

Torch stores a CRC-32 of every record in the list of records but does not verify them; here they are
verified. All other bytes (the list itself, headers, padding, the order of the records) are covered
by a SHA-256 in the comment of the zip file, so that the cost of sealing does not grow with the size
of the records.
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
"""Bytes of the fixed part of the header before a record."""


def seal(f: IO[bytes]) -> None:
    """Add the seal to an archive that has just been written.

    Parameters
    ----------
    f
        The file, open for reading and writing (``"w+b"``) and positioned at its end.

    Raises
    ------
    OSError
        If the file cannot be written.
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
    """Verify the checksums of an archive: those of its records, and its seal if it has one.

    Returns
    -------
    bool
        Whether the archive is sealed.

    Raises
    ------
    DamagedError
        If any byte has changed since the archive was written; without a seal, only changes of
        records are detected.
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as f:
        try:
            with zipfile.ZipFile(f) as z:
                records, comment = z.infolist(), z.comment
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
                places = _places(content, records)
                for record, place in zip(records, places, strict=True):
                    if zlib.crc32(memoryview(content)[place.start : place.stop]) != record.CRC:
                        raise DamagedError(f"the checksum of record {record.filename} differs")
                if not comment.startswith(MARK):
                    return False
                if comment[len(MARK) :] != _digest(content, places):
                    raise DamagedError("the checksum of its list of records differs")
        except (ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as e:
            raise DamagedError(str(e) or "it is not a zip archive") from None
    return True


def _places(content: mmap.mmap, records: list[zipfile.ZipInfo]) -> list[range]:
    """Byte range of each record in the file."""
    places = []
    for record in records:
        at = record.header_offset
        lengths = content[at + 26 : at + HEADER_BYTES]  # of the name and of the extra field
        start = (
            at + HEADER_BYTES + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
        )
        stop = start + record.compress_size
        if record.compress_type != zipfile.ZIP_STORED or not 0 <= start <= stop <= len(content):
            raise DamagedError(f"record {record.filename} lies outside the file")
        places.append(range(start, stop))
    return places


def _digest(content: mmap.mmap, places: list[range]) -> bytes:
    """Hexadecimal SHA-256 of all bytes but the records and the seal itself."""
    digest, done = hashlib.sha256(), 0
    for place in sorted(places, key=lambda p: (p.start, p.stop)):
        digest.update(content[done : place.start])
        done = max(done, place.stop)
    digest.update(content[done : len(content) - COMMENT_BYTES])
    return digest.hexdigest().encode()

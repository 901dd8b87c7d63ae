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
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from hpcsamp.sealing.errors import DamagedError

MARK = b"hpcsamp-seal:"
COMMENT_BYTES = len(MARK) + 64
HEADER_BYTES = 30
"""Number of bytes of the fixed part of the header before a record."""
PORTION = 8 << 20
"""Number of bytes that are read at once."""


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


class Records:
    """The records of an archive, whose checksums are verified on request.

    Parameters
    ----------
    path
        Path of the archive.

    Attributes
    ----------
    sealed
        Whether it has a seal. If so, the seal has been verified, and all bytes outside of the
        records are intact.
    names, places
        Names of the records, and the positions of their bytes in the file.

    Raises
    ------
    DamagedError
        If it is not an archive, or has changed since it was sealed.
    OSError
        If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked: set[int] = set()
        with path.open("rb") as f:
            try:
                with zipfile.ZipFile(f) as z:
                    records, comment = z.infolist(), z.comment
                with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    self.places = _places(content, records)
                    self.sealed = comment.startswith(MARK)
                    if self.sealed and comment[len(MARK) :] != _digest(content, self.places):
                        raise DamagedError("the checksum of its list of records differs")
            except (ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as e:
                raise DamagedError(str(e) or "it is not a zip archive") from None
        self.names = [record.filename for record in records]
        self._sums = [record.CRC for record in records]

    def check(self, numbers: Iterable[int] | None = None) -> None:
        """Verify the checksums of some records (None: all) that have not been verified yet.

        Raises
        ------
        DamagedError
            If a byte of one of them has changed since it was written.
        OSError
            If it cannot be read.
        """
        wanted = range(len(self.names)) if numbers is None else numbers
        left = [i for i in wanted if i not in self._checked]
        if not left:
            return
        with self.path.open("rb", buffering=0) as f:
            for i in left:
                if _crc(f, self.places[i]) != self._sums[i]:
                    raise DamagedError(f"the checksum of record {self.names[i]} differs")
        self._checked.update(left)


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
    records = Records(path)
    records.check()
    return records.sealed


def _crc(f: IO[bytes], place: range) -> int:
    """Compute the CRC-32 of a byte range of a file, reading a few MB at a time."""
    f.seek(place.start)
    found, left = 0, len(place)
    while left:
        read = f.read(min(left, PORTION))
        if not read:
            raise DamagedError("the file ends within a record")
        found, left = zlib.crc32(read, found), left - len(read)
    return found


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

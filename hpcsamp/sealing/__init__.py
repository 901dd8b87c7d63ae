"""Seals: a checksum inside every file that is read back, compared when it is read.

One file a kind: :mod:`.archive` for checkpoints (torch's zip files).
"""

from hpcsamp.sealing.errors import DamagedError

__all__ = ["DamagedError"]

"""Seals: a checksum inside every file that is read back, compared when it is read.

One file a kind: :mod:`.text` for JSON, JSON lines and TOML, :mod:`.archive` for checkpoints (zip
files of torch), :mod:`.regions` for HDF5. Files that people can read may be edited on purpose:
:mod:`.edits` decides whether that is taken.
"""

from hpcsamp.sealing.errors import DamagedError

__all__ = ["DamagedError"]

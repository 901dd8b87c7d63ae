"""Seals: a checksum in every file that is read back, which is verified when the file is read.

There is a module for each kind of file: :mod:`.text` for JSON, JSON lines and TOML,
:mod:`.archive` for checkpoints (zip files of torch), and :mod:`.regions` for HDF5. Text files may
be edited on purpose: :mod:`.edits` decides whether edited files are accepted.
"""

from hpcsamp.sealing.errors import DamagedError

__all__ = ["DamagedError"]

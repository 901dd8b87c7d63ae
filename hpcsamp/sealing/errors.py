"""What a reader of a sealed file raises."""

from __future__ import annotations

from hpcsamp.errors import DataError


class DamagedError(DataError):
    """A file whose content is not what was written: the message is the reason, without the name
    of the file.
    """

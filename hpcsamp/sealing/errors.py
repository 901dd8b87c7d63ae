"""The error that readers of sealed files raise."""

from __future__ import annotations

from hpcsamp.errors import DataError


class DamagedError(DataError):
    """Error raised if the content of a file has changed since it was written.

    The message is the reason, without the name of the file.
    """

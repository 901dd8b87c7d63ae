"""Whether files that were edited after they were written are taken as they are.

By default they are refused. ``--accept-edits`` of a command allows them for its process, and what
was taken is recorded with the results.
"""

from __future__ import annotations

from pathlib import Path

from hpcsamp.errors import DataError

_taken: list[str] | None = None


class EditedError(DataError):
    """A sealed text file whose content is not what was written."""


def accept(allowed: bool) -> None:
    """Allow or refuse edited files from now on, and forget those that were taken."""
    global _taken
    _taken = [] if allowed else None


def taken() -> list[str]:
    """Edited files that were read since :func:`accept`, in order."""
    return list(_taken or ())


def found(path: Path, where: str = "") -> None:
    """Called by readers for a file whose seal does not match its content.

    Raises
    ------
    EditedError
        Unless edits are accepted.
    """
    if _taken is None:
        raise EditedError(
            f"{path}{where} is not what hpcsamp wrote there: it was edited, damaged or comes from "
            f"another run; put the original back, or take it as it is with --accept-edits"
        )
    if str(path) not in _taken:
        _taken.append(str(path))

"""Accept or refuse sealed files that were edited after they were written.

By default they are refused. The option ``--accept-edits`` of a command accepts them in its process,
and the accepted files are recorded with the results.
"""

from __future__ import annotations

from pathlib import Path

from hpcsamp.errors import DataError
from hpcsamp.explain import more

_taken: list[str] | None = None


class EditedError(DataError):
    """A sealed text file whose content has changed since it was written."""


def accept(allowed: bool) -> None:
    """Accept or refuse edited files from now on, and clear the list of accepted files."""
    global _taken
    _taken = [] if allowed else None


def accepted() -> bool:
    """Whether edited files are accepted."""
    return _taken is not None


def taken() -> list[str]:
    """Edited files that have been accepted since :func:`accept` was called, in order."""
    return list(_taken or ())


def found(path: Path, where: str = "") -> None:
    """Handle a file whose seal does not match its content; called by readers.

    Raises
    ------
    EditedError
        If edited files are not accepted.
    """
    if _taken is None:
        raise EditedError(
            f"{path}{where} is not what hpcsamp wrote: it was edited, damaged or copied from "
            f"another run; restore the original, or accept the file as it is with --accept-edits"
            f"{more('edited')}"
        )
    if str(path) not in _taken:
        _taken.append(str(path))

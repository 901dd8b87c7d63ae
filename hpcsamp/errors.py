"""Errors that are reported as one line, and their exit codes."""

from __future__ import annotations

LONGEST = 1900
"""Largest number of characters of an error line."""


def one_line(text: str) -> str:
    """Convert a text to one printable line.

    Line breaks become blanks; other control characters and bytes that are not UTF-8 become escape
    sequences. The middle of a very long text is cut out.
    """
    plain = " ".join(text.splitlines()) if not text.isprintable() else text
    if not plain.isprintable():
        plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 400]} ... {plain[-300:]}"


def described(error: BaseException) -> str:
    """Return type, text and notes of another package's error on one line."""
    notes: list[str] = getattr(error, "__notes__", [])
    return one_line("; ".join([f"{type(error).__name__}: {error}", *notes]))


class HpcsampError(Exception):
    """Base class of errors that are reported as one line; exit code 1, a failure at run time.

    ``word`` is the first word of that line. ``agreed`` is set once every rank of the job knows the
    error (:func:`~hpcsamp.grid.together`): the job then ends by returning, not by ``MPI_Abort``.
    """

    exit_code = 1
    agreed = False
    word = "error"

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(HpcsampError):
    """Raised if the command, the configuration or the requested grid is wrong; exit code 2."""

    exit_code = 2


class DataError(HpcsampError):
    """Raised if a dataset, shard or item cannot be used; names the file and the values."""


class CheckpointError(HpcsampError):
    """Raised if a checkpoint is truncated, not from hpcsamp, or from another configuration."""


class DivergedError(HpcsampError):
    """Raised if the loss is not finite, or if the parameters of replicas differ."""


class PreemptedError(HpcsampError):
    """Raised when a run was asked to stop and has written a checkpoint; this is not a fault.

    Exit code 75 (``EX_TEMPFAIL``: run the command again), or 130 if a person interrupted it.
    """

    exit_code = 75
    word = "stopped early"

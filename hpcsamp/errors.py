"""What can go wrong, by who can mend it: one line each, and the exit code that goes with it."""

from __future__ import annotations

LONGEST = 1900
"""Characters of a line about an error."""


def one_line(text: str) -> str:
    """A text on one line that a terminal shows as it is: line breaks become blanks, other control
    characters, and bytes that are not UTF-8, their escapes. A very long one loses its middle.
    """
    plain = " ".join(text.splitlines()) if not text.isprintable() else text
    if not plain.isprintable():
        plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 400]} ... {plain[-300:]}"


def described(error: BaseException) -> str:
    """Type, text and notes of an error of another package, on one line."""
    notes: list[str] = getattr(error, "__notes__", [])
    return one_line("; ".join([f"{type(error).__name__}: {error}", *notes]))


class HpcsampError(Exception):
    """A fault that is reported as one line. ``exit_code`` 1: something broke while running.

    ``word`` is what the line calls it. ``agreed`` is set once every rank of the job has been told
    (:func:`~hpcsamp.grid.together`): the job then ends by returning, not by ``MPI_Abort``.
    """

    exit_code = 1
    agreed = False
    word = "error"

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(HpcsampError):
    """The command, the configuration or the layout asked for is wrong: exit code 2."""

    exit_code = 2


class DataError(HpcsampError):
    """A dataset, shard, manifest or item that cannot be used: names the file and both numbers."""


class CheckpointError(HpcsampError):
    """A checkpoint that is truncated, foreign or of another configuration."""


class DivergedError(HpcsampError):
    """A loss that is not finite, or replicas that no longer hold the same parameters."""


class PreemptedError(HpcsampError):
    """Not a fault: the run was asked to stop and has written a checkpoint. Exit code 75
    (``EX_TEMPFAIL``: run me again), or 130 if a person interrupted it.
    """

    exit_code = 75
    word = "stopped early"

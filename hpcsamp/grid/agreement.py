"""Raise an error that occurs on any rank on all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpcsamp.errors import HpcsampError, described
from hpcsamp.serial import library, whole_job
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    from mpi4py import MPI


@contextmanager
def together(comm: MPI.Comm) -> Iterator[None]:
    """If the block raises on any rank, raise the same error on every rank.

    Collective over ``comm``; within the block, ranks must not wait for each other, because the
    others would wait forever for a rank that failed.

    Raises
    ------
    HpcsampError
        On every rank, with the type and message of the error of the lowest rank that failed.
    """
    MPI = library(comm)  # noqa: N806
    error: BaseException | None = None
    try:
        yield
    except Exception as e:
        error = e
    size = comm.Get_size()
    with here.waiting(Doing.AGREEMENT):
        first = comm.allreduce(size if error is None else comm.Get_rank(), op=MPI.MIN)
    if first == size:
        return
    if isinstance(error, HpcsampError):
        sent: tuple[type[HpcsampError], str, dict[str, object]] | None
        sent = (type(error), str(error), vars(error))
    elif error is not None:
        sent = (HpcsampError, described(error), {})
    else:
        sent = None
    kind, message, attributes = comm.bcast(sent, root=first)
    agreed = kind.__new__(kind, message)  # `__init__` may require further arguments
    vars(agreed).update(attributes, agreed=whole_job(comm))
    raise agreed from error


@contextmanager
def one_first(comm: MPI.Comm) -> Iterator[None]:
    """Run the block on the first rank before the others, whether it raises or not.

    Used for code that writes files to a common cache, such as a download. Collective over ``comm``;
    must be the first statement in a block of :func:`together`.
    """
    first = comm.Get_rank() == 0
    if not first:
        with here.waiting(Doing.AGREEMENT):
            comm.bcast(None)
    try:
        yield
    finally:
        if first:
            comm.bcast(None)

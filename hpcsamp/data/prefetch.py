"""Prefetch thread: reads batches into the ring ahead of the steps, and propagates read errors.

A group on one node needs no messages: the counters of the ring suffice. If the job has several
rings (several groups, or a group that spans nodes), the first ranks of the rings exchange messages:
an error on one rank is raised on all of them at the same batch, and the nodes of a group exchange
the rows that they have read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hpcsamp.data.agreement import agree, described, rebuilt
from hpcsamp.data.ring import (
    CLOSED,
    EPOCH,
    FAULT,
    FILLED,
    JOB,
    PUBLISHED,
    START,
    TAKEN,
    Ring,
)
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.grid.polling import wait
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    from mpi4py import MPI

GRACE = 2.0
"""Seconds that ranks wait, after one has failed, for the others to finish the batch or fail."""


class Fill(Protocol):
    """Function that reads a rank's part of the batch of ``(epoch, step)`` into a slot."""

    def __call__(self, epoch: int, step: int, slot: np.ndarray) -> None:
        """Read the part; called in the prefetch thread."""


@dataclass
class EpochReading:
    """A range of steps of an epoch, whose batches the thread reads one after the other.

    Attributes
    ----------
    number
        Number of the job, which ranks compare to check that they work on the same one.
    epoch, start
        Epoch and first step.
    first, last
        Numbers of the job's batches in the ring: ``first .. last - 1``.
    limit
        Set when the job is abandoned: batch before which the thread stops, the same on every rank.
    room, ready
        Tokens between the two threads of a rank, for free slots and for batches of which this rank
        has read its part. A thread sleeps while it waits for its own rank, and polls only while it
        waits for other ranks.
    """

    number: int
    epoch: int
    start: int
    first: int
    last: int
    limit: int | None = None
    thread: threading.Thread | None = field(default=None, repr=False)
    room: SimpleQueue[None] = field(default_factory=SimpleQueue, repr=False)
    ready: SimpleQueue[None] = field(default_factory=SimpleQueue, repr=False)


class Prefetcher:
    """The prefetch thread of one rank, and this rank's access to the ring.

    Parameters
    ----------
    ring
        The ring, shared with the other ranks of the group on this node.
    fill
        Reads this rank's part of a batch; called in the thread.
    leaders
        First ranks of all rings of the job, if there are several; ``None`` on other ranks.
    many
        Whether there are several rings.
    exchange
        Receives the parts that other nodes have read; called by leaders before a batch is
        published.
    agree
        Called by every thread after ``fill`` with its error, for readers whose calls are
        collective: makes all ranks of the group fail if one has failed.
    whole
        Whether the loader's ranks are all ranks of the job. If so, an error that they all raise
        ends the job normally; otherwise the job must be aborted.
    """

    def __init__(
        self,
        ring: Ring,
        fill: Fill,
        *,
        leaders: MPI.Comm | None = None,
        many: bool = False,
        exchange: Callable[[np.ndarray], None] | None = None,
        agree: Callable[[BaseException | None], BaseException | None] | None = None,
        whole: bool = True,
    ):
        self.ring, self._fill, self._leaders, self._many = ring, fill, leaders, many
        self._exchange, self._agree, self._whole = exchange, agree, whole
        self._job = EpochReading(0, 0, 0, 0, 0)
        self._taken = 0
        self._error: HpcsampError | None = None
        self._stopped = False
        self.waited = 0.0

    # Called in the main thread -------------------------------------------------------------------

    def begin(self, epoch: int, start: int, stop: int) -> EpochReading:
        """Start prefetching steps ``start .. stop - 1``, and abandon the current job.

        Raises
        ------
        HpcsampError
            If an earlier batch failed, or the prefetcher is closed.
        """
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise UsageError("this loader is closed")
        first = self._give_up()
        job = EpochReading(self._job.number + 1, epoch, start, first, first + stop - start)
        self._job, self._taken = job, first
        ring = self.ring
        ring.post(EPOCH, epoch)
        ring.post(START, start)
        ring.post(JOB, job.number)
        ring.post(TAKEN, first)
        for _ in range(ring.slots):
            job.room.put(None)
        job.thread = threading.Thread(target=self._run, args=(job,), name="prefetch", daemon=True)
        job.thread.start()
        return job

    def take(self, job: EpochReading) -> np.ndarray:
        """Wait for the next batch; valid until :meth:`release`.

        Raises
        ------
        HpcsampError
            On all ranks that wait for this batch, if one of them could not read its part.
        UsageError
            If ranks of the group are at different steps.
        """
        if job is not self._job:
            raise UsageError(
                "the batches of this iterator were abandoned when another epoch was started"
            )
        number, begun = self._taken, time.perf_counter()
        if number == job.first:
            self._check_same(job)
        with here.waiting(Doing.BATCH):
            self._wait_for(job, number)
        self.ring.sync()
        self.waited += time.perf_counter() - begun
        error = self._fault(number)
        if error is not None:
            self._error = error
            raise error
        return self.ring.slot(number)

    def _wait_for(self, job: EpochReading, number: int) -> None:
        while True:
            try:
                job.ready.get(timeout=0.5)
                break
            except Empty:
                if self._lost(number):  # this rank's thread may hang in a collective read
                    break
        wait(partial(self._published if self._many else self._filled, number))

    def release(self) -> None:
        """Free the slot of the batch that was taken last."""
        self._taken += 1
        self.ring.post(TAKEN, self._taken)
        self._job.room.put(None)

    def stop(self, timeout: float | None = None) -> bool:
        """Stop the thread, at the same batch on all ranks; return whether it has stopped."""
        self._stopped = True
        if self._error is None:
            self._give_up(timeout)
        else:
            self._job.limit = self._taken
            self._job.room.put(None)
        self.ring.post(CLOSED, 1)
        thread = self._job.thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _give_up(self, timeout: float | None = None) -> int:
        """Abandon the job and wait for the thread; return the next batch, the same on all ranks."""
        job = self._job
        job.limit = min(job.last, self._taken + self.ring.slots)
        job.room.put(None)
        if job.thread is not None:
            job.thread.join(timeout)
        return job.limit

    def _failed(self, number: int) -> np.ndarray:
        """Whether each rank has failed to read this batch or an earlier one."""
        faults = self.ring.counters[FAULT]
        return (faults > 0) & (faults <= number + 1)

    def _filled(self, number: int) -> bool:
        """Whether all parts of a batch have been read, or some of them never will be."""
        return self.ring.least(FILLED) > number or self._lost(number)

    def _published(self, number: int) -> bool:
        """Whether the leader has published a batch, or never will publish it."""
        counters = self.ring.counters
        if counters[PUBLISHED, 0] > number:
            return True
        return bool(counters[FAULT, 0] and self._failed(number)[0]) or self._closed(number)

    def _lost(self, number: int) -> bool:
        """Whether a rank has failed to read this batch, or closed its loader before reading it."""
        if not self.ring.counters[FAULT : CLOSED + 1].any():
            return False
        return bool(self._failed(number).any()) or self._closed(number)

    def _closed(self, number: int) -> bool:
        """Whether a rank has closed its loader before it read its part of the batch."""
        counters = self.ring.counters
        closed = counters[CLOSED] > 0
        return bool(closed.any() and (closed & (counters[FILLED] <= number)).any())

    def _check_same(self, job: EpochReading) -> None:
        """Check that all ranks of the ring request the same batches."""
        counters = self.ring.counters
        wait(lambda: bool((counters[JOB] >= job.number).all()) or self._closed(job.first))
        requested = [tuple(row) for row in counters[[JOB, EPOCH, START]].T.tolist()]
        for rank, (number, epoch, start) in enumerate(requested):
            if number == job.number and (epoch, start) != (job.epoch, job.start):
                raise UsageError(
                    f"ranks of a sample group must load the same batches, but rank "
                    f"{self.ring.rank} of the group is at epoch {job.epoch} step {job.start}, "
                    f"rank {rank} at epoch {epoch} step {start}"
                )

    def _fault(self, number: int) -> HpcsampError | None:
        """The error of the group (or job) at this batch: that of the lowest rank that has one."""
        ring = self.ring
        filled = ring.counters[FILLED]
        if self._failed(number).any() and not self._many:
            deadline = time.monotonic() + GRACE
            wait(
                lambda: (
                    bool(((filled > number) | self._failed(number)).all())
                    or time.monotonic() > deadline
                )
            )
        ranks = range(1) if self._many else range(ring.size)
        error = self._lowest(number, ranks)
        if error is not None:
            # if a thread hangs in a collective read, the job can only be aborted
            known = self._many or bool(((filled > number) | self._failed(number)).all())
            error.agreed = known and self._whole
        elif self._closed(number):
            error = HpcsampError("another rank of the sample group has closed its loader")
        return error

    def _lowest(self, number: int, ranks: range) -> HpcsampError | None:
        """The error of the lowest of the given ranks that has one; None if there is no error."""
        faults = (self.ring.fault(number, rank) for rank in ranks)
        return next((rebuilt(*f) for f in faults if f is not None), None)

    # Called in the prefetch thread ---------------------------------------------------------------

    def _run(self, job: EpochReading) -> None:
        ring = self.ring
        for number in range(job.first, job.last):
            job.room.get()
            if job.limit is not None and number >= job.limit:
                return
            wait(partial(self._free, number))  # until all ranks have taken the slot's last batch
            error: BaseException | None = None
            try:
                step = job.start + number - job.first
                with here.reading(job.epoch, step):
                    self._fill(job.epoch, step, ring.slot(number))
            except Exception as e:
                error = e
            if self._agree is not None:
                error = self._agree(error)
            if self._leaders is not None:
                error = self._publish(number, error)
            elif error is not None:
                ring.fail(number, described(error))
            else:
                ring.post(FILLED, number + 1)
            job.ready.put(None)
            if self._agree is not None and self._many and error is None:
                # the leader may stop because another group has failed: do not read on without it
                wait(partial(self._published, number))
                if self._failed(number)[0]:
                    return
            if error is not None:
                return

    def _free(self, number: int) -> bool:
        """Whether the slot of batch ``number`` is free: all ranks took the batch before it."""
        return self.ring.least(TAKEN) > number - self.ring.slots

    def _publish(self, number: int, error: BaseException | None) -> BaseException | None:
        """Publish a batch as a leader: wait for the ring, agree with the others, exchange rows."""
        assert self._leaders is not None
        ring = self.ring
        if error is None:
            ring.post(FILLED, number + 1)
            wait(lambda: self._filled(number))
            error = self._lowest(number, range(1, ring.size))
            if error is None and self._closed(number):
                error = HpcsampError("a rank of the sample group has closed its loader")
        error = agree(self._leaders, error)
        if error is not None:
            ring.fail(number, described(error))
            return error
        if self._exchange is not None:
            self._exchange(ring.slot(number))
        ring.post(PUBLISHED, number + 1)
        return None

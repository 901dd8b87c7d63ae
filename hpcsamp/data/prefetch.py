"""The prefetch thread: fills the ring ahead of the steps, and agrees on faults before a publish.

A group on one node needs no message at all: the counters of the ring say everything. Where the job
has several rings (several groups, or a group that spans nodes), the first rank of each ring talks
to the others': a fault of one becomes the fault of all at the same batch, and a group that spans
nodes exchanges what its nodes have read.
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

from hpcsamp.data.agreement import agree, rebuilt, told
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
    wait,
)
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    from mpi4py import MPI

GRACE = 2.0
"""Seconds that ranks wait, once one has failed, for the others to say whether they have too."""


class Fill(Protocol):
    """Puts a rank's part of the batch of ``(epoch, step)`` into a slot."""

    def __call__(self, epoch: int, step: int, slot: np.ndarray) -> None:
        """Fetch, in the thread."""


@dataclass
class Job:
    """A run of successive batches: those of an epoch from some step on.

    Attributes
    ----------
    number
        Jobs are counted, so that ranks can tell whether they are at the same one.
    epoch, start
        What was asked for.
    first, last
        Numbers of its batches in the ring: ``first .. last - 1``.
    limit
        Set when it is given up: the thread stops before this batch, on every rank the same.
    room, ready
        Tokens between the two threads of a rank: slots it has left, batches whose own part is
        there. So a thread sleeps while it waits for its own rank, and polls for others alone.
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
    """One rank's thread and its view of the ring.

    Parameters
    ----------
    ring
        Shared with the other ranks of the group on this node.
    fill
        Fetches this rank's part, in the thread.
    leaders
        First ranks of all rings of the job, if there are several; ``None`` on other ranks.
    many
        Whether there are several rings.
    exchange
        Called by leaders before a publish: brings the parts that other nodes have read.
    agree
        Called by every thread after ``fill`` with its error, for readers whose calls are
        collective: makes all of the group fail or none.
    whole
        Whether the ranks of the loader are all of the job: then a fault that all of them have been
        told of ends the job by returning, else by aborting.
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
        self._job = Job(0, 0, 0, 0, 0)
        self._taken = 0
        self._error: HpcsampError | None = None
        self._stopped = False
        self.waited = 0.0

    # The consumer's side, in the main thread ----------------------------------------------------

    def begin(self, epoch: int, start: int, stop: int) -> Job:
        """Start to prefetch steps ``start .. stop - 1``; what was going on is given up.

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
        job = Job(self._job.number + 1, epoch, start, first, first + stop - start)
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

    def take(self, job: Job) -> np.ndarray:
        """Wait for the next batch; valid until :meth:`release`.

        Raises
        ------
        HpcsampError
            The same on all ranks that wait for this batch: what kept one of them from fetching.
        UsageError
            If ranks of the group are at different steps.
        """
        if job is not self._job:
            raise UsageError("these batches were given up when another epoch was begun")
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

    def _wait_for(self, job: Job, number: int) -> None:
        while True:
            try:
                job.ready.get(timeout=0.5)
                break
            except Empty:
                if self._lost(number):  # our own thread may hang in a collective read
                    break
        wait(partial(self._published if self._many else self._filled, number))

    def release(self) -> None:
        """The batch last taken is no longer needed in the ring."""
        self._taken += 1
        self.ring.post(TAKEN, self._taken)
        self._job.room.put(None)

    def stop(self, timeout: float | None = None) -> bool:
        """End the thread, at the same batch on all ranks. Whether it has ended."""
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
        """Let the thread come to its end; the number of the next batch, the same on all ranks."""
        job = self._job
        job.limit = min(job.last, self._taken + self.ring.slots)
        job.room.put(None)
        if job.thread is not None:
            job.thread.join(timeout)
        return job.limit

    def _failed(self, number: int) -> np.ndarray:
        """Which ranks could not fetch this batch, or one before."""
        faults = self.ring.counters[FAULT]
        return (faults > 0) & (faults <= number + 1)

    def _filled(self, number: int) -> bool:
        """All parts of a batch are there, or never will be."""
        return self.ring.least(FILLED) > number or self._lost(number)

    def _published(self, number: int) -> bool:
        """The leader has published a batch, or never will."""
        told = self.ring.counters
        if told[PUBLISHED, 0] > number:
            return True
        return bool(told[FAULT, 0] and self._failed(number)[0]) or self._closed(number)

    def _lost(self, number: int) -> bool:
        """Some rank cannot fetch this batch, or has left before it did."""
        if not self.ring.counters[FAULT : CLOSED + 1].any():
            return False
        return bool(self._failed(number).any()) or self._closed(number)

    def _closed(self, number: int) -> bool:
        """Whether a rank has left before it filled its part."""
        counters = self.ring.counters
        closed = counters[CLOSED] > 0
        return bool(closed.any() and (closed & (counters[FILLED] <= number)).any())

    def _check_same(self, job: Job) -> None:
        """All ranks of the ring ask for the same batches."""
        counters = self.ring.counters
        wait(lambda: bool((counters[JOB] >= job.number).all()) or self._closed(job.first))
        told = [tuple(row) for row in counters[[JOB, EPOCH, START]].T.tolist()]
        for rank, (number, epoch, start) in enumerate(told):
            if number == job.number and (epoch, start) != (job.epoch, job.start):
                raise UsageError(
                    f"ranks of a sample group must load the same batches, but rank "
                    f"{self.ring.rank} of the group is at epoch {job.epoch} step {job.start}, "
                    f"rank {rank} at epoch {epoch} step {start}"
                )

    def _fault(self, number: int) -> HpcsampError | None:
        """The group's (or job's) fault at this batch: that of the lowest rank that has one."""
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
            # a thread that hangs in a collective read can only be aborted
            known = self._many or bool(((filled > number) | self._failed(number)).all())
            error.agreed = known and self._whole
        elif self._closed(number):
            error = HpcsampError("another rank of the sample group has closed its loader")
        return error

    def _lowest(self, number: int, ranks: range) -> HpcsampError | None:
        """What the lowest of some ranks says it failed with."""
        found = (self.ring.fault(number, rank) for rank in ranks)
        return next((rebuilt(*f) for f in found if f is not None), None)

    # The thread's side ---------------------------------------------------------------------------

    def _run(self, job: Job) -> None:
        ring = self.ring
        for number in range(job.first, job.last):
            job.room.get()
            if job.limit is not None and number >= job.limit:
                return
            wait(partial(self._free, number))  # until all have taken what is in the slot
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
                ring.fail(number, told(error))
            else:
                ring.post(FILLED, number + 1)
            job.ready.put(None)
            if self._agree is not None and self._many and error is None:
                # the leader may stop here for the sake of another group: do not read on alone
                wait(partial(self._published, number))
                if self._failed(number)[0]:
                    return
            if error is not None:
                return

    def _free(self, number: int) -> bool:
        """Whether all ranks have taken what was in a batch's slot."""
        return self.ring.least(TAKEN) > number - self.ring.slots

    def _publish(self, number: int, error: BaseException | None) -> BaseException | None:
        """A leader's end of a batch: wait for its ring, agree with the others, exchange, tell."""
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
            ring.fail(number, told(error))
            return error
        if self._exchange is not None:
            self._exchange(ring.slot(number))
        ring.post(PUBLISHED, number + 1)
        return None

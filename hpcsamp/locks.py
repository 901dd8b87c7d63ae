"""Lock files: one process at a time may write, on any file system and also after crashes.

A lock is a file that is created exclusively and names its holder, which touches it every few
seconds; it needs no feature that NFS or Lustre may lack. A holder that has ended on this machine,
or was requeued by its batch system, is replaced at once; a holder on another machine after it has
not touched its lock for :data:`LEASE` seconds. Ages are differences of time stamps of the file
server, never of the clocks of two machines.

A holder that was suspended for longer may have been replaced and must not continue to write:
:meth:`Lock.check` then raises an error.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.explain import more
from hpcsamp.processes import ended, job, machine, started
from hpcsamp.watchdog import here

BEAT = 5.0
"""Seconds between two updates of the time stamp of a lock by its holder."""

LEASE = 120.0
"""Seconds without an update of the time stamp after which a holder counts as ended."""

#: A clock that also counts the time for which the machine was suspended.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now() -> float:
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as recorded in the lock file."""

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    machine: str = field(default_factory=machine)
    pid: int = field(default_factory=os.getpid)
    started: str | None = field(default_factory=lambda: started(os.getpid()))
    job: str = field(default_factory=lambda: job(os.environ)[0])
    restart: str = field(default_factory=lambda: job(os.environ)[1])
    since: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))

    def describe(self) -> str:
        """Describe the holder for messages."""
        of_job = f" of job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{of_job}"

    def over(self, mine: Holder) -> bool:
        """Whether another process can be certain that this holder has ended."""
        if self.machine and self.machine == mine.machine and ended(self.pid, self.started):
            return True
        requeued = self.restart != mine.restart or (
            not self.restart and self.machine != mine.machine
        )
        return bool(self.job) and self.job == mine.job and requeued

    def runs_here(self, mine: Holder) -> bool:
        """Whether this holder is a process on this machine."""
        return bool(self.machine) and self.machine == mine.machine


class Lock:
    """A lock that this process holds; see :func:`locked`."""

    def __init__(self, path: Path, what: object, file: int, holder: Holder) -> None:
        self.path, self.what, self.holder = path, what, holder
        self._file = file
        self._lost = ""
        self._seen = _now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check before writing that this process still holds the lock.

        Raises
        ------
        HpcsampError
            If another process has taken the lock, because this one was suspended.
        """
        if not self.held():
            raise HpcsampError(
                f"this process no longer holds the lock of {self.what}: {self._lost} while this "
                f"process was suspended; it stopped writing"
            )

    def held(self) -> bool:
        """Whether this process still holds the lock."""
        if not self._lost and _now() - self._seen > 1.0:
            self._look()
        return not self._lost

    def release(self) -> None:
        """Remove the lock file, if this process still holds it."""
        self._ended.set()
        self._thread.join(BEAT)  # the thread may hang in the file system
        self._look()
        if not self._lost:
            with suppress(OSError):
                self.path.unlink()
        os.close(self._file)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT) and not self._lost:
            with suppress(OSError):
                os.utime(self._file)
            self._look()

    def _look(self) -> None:
        began = _now()
        try:
            found = _read(self.path)
        except FileNotFoundError:
            self._lost = f"its lock {self.path} was removed"
        except OSError:
            return  # the state of the lock is unknown
        else:
            if found is None or found.token != self.holder.token:
                who = found.describe() if found else "another process"
                self._lost = f"{who} has taken it over"
        self._seen = began


@contextmanager
def locked(path: Path, what: object, waiting: Callable[[], None] | None = None) -> Iterator[Lock]:
    """Hold a lock within the block, so that this is the only process that writes something.

    Parameters
    ----------
    path
        Lock file in an existing folder. It is removed at the end.
    what
        Description of what is being written, for messages.
    waiting
        Called once if another process holds the lock; the call then waits for that process.

    Raises
    ------
    UsageError
        If another process holds the lock and ``waiting`` is None, or the file cannot be created.
    """
    mine = Holder()
    try:
        file = _take(path, what, mine, waiting)
    except OSError as e:
        raise UsageError(f"{path.parent} cannot be written to: {e.strerror or e}") from e
    lock = Lock(path, what, file, mine)
    try:
        yield lock
    finally:
        lock.release()


def _take(path: Path, what: object, mine: Holder, waiting: Callable[[], None] | None) -> int:
    file = _make(path, mine)
    if file is not None:
        return file
    ahead = _server_time(path, mine) - _now()
    first: tuple[str, float] | None = None
    reported, pause = False, 0.005
    while True:
        try:
            found, beat = _read(path), path.stat().st_mtime
        except FileNotFoundError:
            found = None
        else:
            age = _now() + ahead - beat
            if age > LEASE or (found is not None and found.over(mine)):
                file = _replace(path, found, mine)
                if file is not None:
                    return file
            elif found is not None:
                first = first if first and first[0] == found.token else (found.token, beat)
                lives = found.runs_here(mine) or beat > first[1]
                if lives and waiting is None:
                    raise UsageError(_refusal(what, found, age))
                if not reported and waiting is not None:
                    waiting()
                elif not reported and age > 3 * BEAT:
                    sys.stderr.write(f"hpcsamp: waiting: {_refusal(what, found, age)}\n")
                reported = reported or waiting is not None or age > 3 * BEAT
        here.goes_on()  # waiting is no stall: the holder is alive, or will be replaced
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
        file = _make(path, mine)
        if file is not None:
            return file


def _refusal(what: object, found: Holder, age: float) -> str:
    quiet = ""
    if age > 3 * BEAT:
        quiet = (
            f", last sign of life {age:.0f} s ago (after {LEASE:.0f} s without one, it counts as "
            f"ended)"
        )
    return (
        f"{what} is being written by {found.describe()} since {found.since}{quiet}; wait until it "
        f"ends{more('locked')}"
    )


def _make(path: Path, holder: Holder) -> int | None:
    """Create a lock file and return its descriptor; None if it exists."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    try:
        os.write(file, json.dumps(asdict(holder)).encode())
        os.fsync(file)
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(file)
        raise
    return file


def _replace(path: Path, old: Holder | None, mine: Holder) -> int | None:
    """Replace a holder that has ended; return None if another process was faster.

    Only one process at a time may replace a given holder, so that no process replaces one that has
    just become the holder.
    """
    claim = path.with_name(f"{path.name}.{old.token if old else 'unreadable'}")
    file = _make(claim, mine)
    if file is None:  # the process that made the claim may have ended as well
        with suppress(FileNotFoundError):
            if _server_time(path, mine) - claim.stat().st_mtime > LEASE:
                claim.unlink()
        return None
    try:
        if _read(path) == old:
            claim.replace(path)
            return file
    except FileNotFoundError:
        pass
    os.close(file)
    claim.unlink(missing_ok=True)
    return None


def _read(path: Path) -> Holder | None:
    """Read the holder from a lock file; None if it cannot be read (yet)."""
    try:
        table = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(table, dict) or table.keys() != Holder.__dataclass_fields__.keys():
        return None
    texts = {k: v for k, v in table.items() if k != "pid" and v is not None}
    if not isinstance(table["pid"], int) or not all(isinstance(v, str) for v in texts.values()):
        return None
    return Holder(**table)


def _server_time(path: Path, mine: Holder) -> float:
    """Return the current time of the file server."""
    probe = path.with_name(f"{path.name}.{mine.token}")
    file = os.open(probe, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.write(file, b" ")
        return os.fstat(file).st_mtime
    finally:
        os.close(file)
        probe.unlink(missing_ok=True)

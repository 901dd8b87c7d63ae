"""Write a checkpoint in the background, while the run continues.

    begin    the first rank gathers the positions of the values of all ranks; each rank starts a
             thread
    write    each thread writes its own file and flushes it to disk (fsync)
    end      after all ranks have finished, the first one renames its file to the checkpoint's name

Until then the checkpoint is absent and the previous one unchanged: a rank that is killed or whose
disk is full leaves files that no checkpoint refers to. The next run in the folder removes them.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from hpcsamp.errors import CheckpointError, HpcsampError
from hpcsamp.files import part_of, publish, sync_names
from hpcsamp.grid import together
from hpcsamp.grid.runs import Runs, cover
from hpcsamp.run import checkpoint
from hpcsamp.run.places import Key, named
from hpcsamp.run.saved import SEVERAL, VERSION, file_of
from hpcsamp.run.taken import Taken
from hpcsamp.watchdog import here

if TYPE_CHECKING:
    from mpi4py import MPI

NICE = 10
"""Niceness of the writing thread, so that other threads on the same core go first."""


class Writing:
    """A checkpoint that is being written. The constructor and :meth:`end` are collective.

    Parameters
    ----------
    path
        Path of its first file.
    taken
        Values that this rank writes.
    content
        On rank 0, everything else.
    world
        The ranks.

    Raises
    ------
    CheckpointError
        If the values of all ranks together are not the whole state; the same on all ranks.
    """

    def __init__(
        self, path: Path, taken: Taken, content: Mapping[str, Any] | None, world: MPI.Comm
    ) -> None:
        self.path, self.world = path, world
        self._began = self._ended = time.monotonic()
        self._error: Exception | None = None
        self._written = 0
        root = world.Get_rank() == 0
        token: str = world.bcast(secrets.token_hex(4) if root else "")
        alike: dict[bytes, Runs] = {}  # equal positions of many tensors are sent once
        partly = {
            key: alike.setdefault(runs.bounds.tobytes() + repr(runs.shape).encode(), runs)
            for key, runs in taken.runs.items()
            if runs.size
        }
        everyone = world.gather((partly, taken.lists))
        table: dict[str, Any] | None = None
        with together(world):
            if everyone is not None:
                table = {**(content or {}), **_whole(path, token, taken, everyone)}
            elif partly:
                rank = world.Get_rank()
                pieces = {key: taken.pieces[key] for key in partly}
                table = {"version": SEVERAL, "part": (token, rank), "pieces": pieces}
        self.file = part_of(path) if root else file_of(path, token, world.Get_rank())
        self._thread: threading.Thread | None = None
        if table is not None:
            self._thread = threading.Thread(
                target=self._write, args=(table,), name="checkpoint", daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError as e:  # this user cannot start more threads
                self._error, self._thread = e, None

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def seconds(self) -> float:
        """Seconds that this rank has been writing."""
        return self._ended - self._began

    def end(self, check: Callable[[], None]) -> None:
        """Wait for the files of all ranks and complete the checkpoint.

        Parameters
        ----------
        check
            Called on rank 0 before the final renaming; raises if this process may no longer write
            to the folder.

        Raises
        ------
        CheckpointError
            If a rank could not write its file; then the files of all ranks are removed and earlier
            checkpoints are unchanged. The same on all ranks.
        """
        self._wait()
        try:
            with together(self.world):
                if self._error is not None:
                    rank = self.world.Get_rank()
                    raise CheckpointError(
                        f"cannot write checkpoint {self.path}: {self._error}"
                        + (f" (rank {rank})" if rank else "")
                    ) from self._error
            with together(self.world):
                if self.world.Get_rank() == 0:
                    check()
                    try:
                        publish(self.file, self.path)
                    except OSError as e:
                        raise CheckpointError(f"cannot write checkpoint {self.path}: {e}") from e
        except HpcsampError:
            self._remove()
            raise

    def give_up(self) -> None:
        """Remove this rank's file after a failure. Not collective."""
        self._wait()
        self._remove()

    def _wait(self) -> None:
        seen = -1
        while self.busy:
            assert self._thread is not None
            self._thread.join(1.0)
            if self._written != seen:  # no progress: the watchdog must notice a disk that hangs
                seen = self._written
                here.goes_on()

    def _remove(self) -> None:
        with suppress(OSError):
            self.file.unlink(missing_ok=True)

    def _write(self, table: Mapping[str, Any]) -> None:
        with suppress(OSError, AttributeError):  # on Linux, niceness is set per thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            with self.file.open("w+b") as f:
                watched: Any = _Watched(f, self)
                checkpoint.write(watched, table)
                f.flush()
                os.fsync(f.fileno())
            sync_names(self.file.parent)
        except Exception as e:
            self._error = self._error or e
        self._ended = time.monotonic()

    def _wrote(self, error: OSError | None = None) -> None:
        self._written += 1
        self._error = self._error or error


class _Watched:
    """A file object that records progress and the first error, which torch does not report."""

    def __init__(self, f: IO[bytes], writing: Writing) -> None:
        self._f, self._wrote = f, writing._wrote

    def write(self, data: Any) -> int:
        try:
            count = self._f.write(data)
        except OSError as e:
            self._wrote(e)
            raise
        self._wrote()
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._f, name)


def _whole(
    path: Path,
    token: str,
    taken: Taken,
    everyone: list[tuple[dict[Key, Runs], dict[Key, tuple[int, list[Any]]]]],
) -> dict[str, Any]:
    """Return the states for the first file, and the positions of the values in all files."""
    pieces: dict[Key, dict[int, Runs]] = {key: {} for key in taken.runs}
    lists: dict[Key, list[tuple[int, list[Any]]]] = {}
    for rank, (runs, rows) in enumerate(everyone):
        for key, own in runs.items():
            pieces.setdefault(key, {})[rank] = own
        for key, row in rows.items():
            lists.setdefault(key, []).append(row)
    for key, written in pieces.items():
        shape = taken.runs[key].shape if key in taken.runs else next(iter(written.values())).shape
        if key not in taken.runs or not cover(written.values() or [Runs.of(shape, [])]):
            raise CheckpointError(
                f"cannot write checkpoint {path}: the ranks hold "
                f"{sum(own.size for own in written.values())} values of {named(key)}, which "
                f"do not match its shape {shape}"
            )
    tables: dict[str, Any] = dict(taken.tables)
    for key, found in lists.items():
        _put(tables, key, [row for _, rows in sorted(found, key=lambda r: r[0]) for row in rows])
    several = {key: written for key, written in pieces.items() if set(written) - {0}}
    if not several:
        return {"version": VERSION, **tables}
    same: dict[bytes, torch.Tensor] = {}  # equal positions are stored once in the file, too

    def bounds(runs: Runs) -> torch.Tensor:
        return same.setdefault(runs.bounds.tobytes(), torch.from_numpy(runs.bounds))

    places = {
        key: (list(taken.runs[key].shape), {rank: bounds(own) for rank, own in written.items()})
        for key, written in several.items()
    }
    files = sorted({rank for written in several.values() for rank in written} - {0})
    return {"version": SEVERAL, **tables, "files": (token, files), "places": places}


def _put(table: dict[str, Any], key: Key, value: Any) -> None:
    for name in key[:-1]:
        table = table[name]
    table[key[-1]] = value

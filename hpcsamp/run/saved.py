"""Read checkpoints: each rank reads the values that it needs, on any grid.

The first file contains all small values and an index of the values in all files (``places``);
further files contain the pieces of other ranks. Everything that is read is compared with its
checksums, record by record.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpcsamp.config import converted
from hpcsamp.errors import CheckpointError
from hpcsamp.grid.runs import Runs
from hpcsamp.run.places import Key, Places, named
from hpcsamp.sealing import DamagedError, archive

UNSEALED = 1
"""The last format version without a seal."""
OTHER_DRAWS = 2
"""The last format version in which weights were drawn from other streams."""
VERSION = 3
"""Format version of a checkpoint of one file."""
SEVERAL = 4
"""Format version of a checkpoint of several files."""

STATES = ("method", "optimizer", "average")
"""States that are stored in pieces."""


def file_of(path: Path, token: str, rank: int) -> Path:
    """Path of the file of another rank: ``step-00000100.pt.1f2e3d4c.3``."""
    return path.with_name(f"{path.name}.{token}.{rank}")


class Saved:
    """An open checkpoint: small values are read at once, large ones on request.

    Parameters
    ----------
    path
        Path of its first file.

    Attributes
    ----------
    content
        Saved content without the states, and the format ``version``.
    token
        Token in the names of its files; empty if the checkpoint is a single file.
    ranks
        Ranks that wrote further files.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, or of another format version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint {path}")
        first = _File(path)
        found = first.content.get("version") if isinstance(first.content, dict) else None
        if found not in (UNSEALED, OTHER_DRAWS, VERSION, SEVERAL):
            raise CheckpointError(
                f"checkpoint {path} has format version {found}, but this program reads up to "
                f"{SEVERAL}"
            )
        if found != UNSEALED and not first.records.sealed:
            raise damaged(path, "its seal is missing")
        table: dict[str, Any] = first.content
        self.content = {k: v for k, v in table.items() if k not in (*STATES, "files", "places")}
        first.check(self.content, table.get("places"))
        if "config" in table:
            self.content["config"] = converted(table["config"])
        self._states = {name: table[name] for name in STATES if name in table}
        several = table if found == SEVERAL else {}
        self._places: dict[Key, tuple[Any, dict[int, Tensor]]] = several.get("places", {})
        self.token, self.ranks = several.get("files", ("", []))
        self._files = {0: first}

    def __contains__(self, state: str) -> bool:
        """Whether the checkpoint contains a state."""
        return state in self._states

    def state(self, name: str, places: Places | None = None) -> dict[str, Any]:
        """Return a copy of a state, or of this rank's part of it.

        Parameters
        ----------
        places
            Locations of this rank's part; None for the whole.

        Raises
        ------
        CheckpointError
            If the values read are damaged or do not fit.
        """
        taken: dict[str, Any] = self._take((name,), self._states[name], places)
        return taken

    def states(self) -> dict[str, Any]:
        """Return all states, whole."""
        return {name: self.state(name) for name in self._states}

    def check(self, ranks: Iterable[int]) -> None:
        """Verify all checksums of the files of the given ranks.

        Raises
        ------
        CheckpointError
            If one of them is damaged or missing.
        """
        for rank in ranks:
            self._file(rank).check_all()

    def _take(self, key: Key, x: Any, places: Places | None) -> Any:
        if isinstance(x, Mapping):
            return {k: self._take((*key, k), v, places) for k, v in x.items()}
        if isinstance(x, list):
            return [self._take((*key, i), v, places) for i, v in enumerate(x)]
        if not isinstance(x, Tensor):
            return x
        if x.dim() == 0:
            x = self._number(0, key, x).clone()
            return x if places is None else x.to(places.topology.device)
        if key in self._places:
            shape, written = self._places[key]
            pieces = {r: Runs(tuple(shape), bounds.numpy()) for r, bounds in written.items()}
        else:
            shape, pieces = x.shape, {0: Runs.whole(x.shape)}
        own, local = (Runs.whole(shape), tuple(shape)) if places is None else places.own(key, shape)
        found = x.new_empty(own.size)
        got = 0
        for rank, runs in pieces.items():
            source = None
            for at, to, n in runs.meeting(own):
                if source is None:
                    source = self._number(rank, key, x).reshape(-1)
                found[to : to + n] = source[at : at + n]
                got += n
        if got != own.size or math.prod(local) != got:
            raise damaged(self.path, f"{named(key)} has {got} of {own.size} values")
        return found.view(local).to("cpu" if places is None else places.topology.device)

    def _number(self, rank: int, key: Key, x: Tensor) -> Tensor:
        """Return the values of a tensor that a rank wrote, verified by their checksum."""
        file = self._file(rank)
        piece = x if rank == 0 else file.content["pieces"].get(key)
        if not isinstance(piece, Tensor):
            raise damaged(file.path, f"{named(key)} is missing")
        file.check(piece, name=named(key))
        return piece

    def _file(self, rank: int) -> _File:
        if rank not in self._files:
            path = file_of(self.path, self.token, rank)
            if not path.is_file():
                raise damaged(self.path, f"its file {path.name} is missing")
            file = _File(path)
            part = file.content.get("part") if isinstance(file.content, dict) else None
            if not file.records.sealed or part != (self.token, rank):
                raise damaged(path, "it does not belong to this checkpoint")
            self._files[rank] = file
        return self._files[rank]


class _File:
    """A file whose tensors are read on request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.records = archive.Records(path)
            names = self.records.names
            self.records.check(i for i, name in enumerate(names) if not _holds_numbers(name))
            self.content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except (DamagedError, OSError) as e:
            raise damaged(path, e) from None
        except Exception as e:  # torch raises many kinds of errors for damage
            raise damaged(path, str(e).split("\n")[0] or type(e).__name__) from e
        places = self.records.places
        self._numbers = sorted(
            (places[i].start, i) for i, n in enumerate(names) if _holds_numbers(n) and places[i]
        )
        # the whole file is mapped into memory; the first record of values locates all of them
        first = min((_address(x) for x in _tensors(self.content)), default=0)
        self._base = first - self._numbers[0][0] if self._numbers else 0

    def check(self, *values: Any, name: str = "") -> None:
        """Verify the checksums of tensors in tables."""
        starts = [start for start, _ in self._numbers]
        for value in values:
            for x in _tensors(value):
                at = _address(x) - self._base
                found = bisect.bisect_right(starts, at) - 1
                record = self._numbers[found][1] if found >= 0 else -1
                inside = record >= 0 and at + _bytes(x) <= self.records.places[record].stop
                self._compare([record] if inside else None, name)

    def check_all(self) -> None:
        """Verify all checksums."""
        self._compare(None, "")

    def _compare(self, records: list[int] | None, name: str) -> None:
        try:
            self.records.check(records)
        except (DamagedError, OSError) as e:
            raise damaged(self.path, f"{name}: {e}" if name else e) from None


def damaged(path: Path, reason: object) -> CheckpointError:
    """Create the error for a damaged file."""
    size = path.stat().st_size if path.exists() else 0
    return CheckpointError(
        f"checkpoint {path} ({size} bytes) is damaged ({reason}); train --resume continues from "
        f"the newest whole one; evaluate and predict read a different one with --checkpoint"
    )


def _holds_numbers(record: str) -> bool:
    return "/data/" in record


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested dictionaries and lists, except empty ones."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, Tensor) and _bytes(value):
        yield value


def _address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _bytes(x: Tensor) -> int:
    return x.untyped_storage().nbytes()

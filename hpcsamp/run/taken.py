"""Select and copy the part of a run's state that a rank writes to a checkpoint.

Ranks that hold the same values share the writing of large tensors; the first of these ranks writes
small tensors, so that a small run has one file.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hpcsamp.grid import share
from hpcsamp.grid.placement import RowList
from hpcsamp.grid.runs import Runs
from hpcsamp.run.places import Key, Places, StatePlace

#: Size in bytes from which ranks that hold the same tensor each write a share of it.
LARGE = 16 << 20


class Taken:
    """The part of the state of one step that this rank writes.

    Parameters
    ----------
    places
        Locations of the values.
    buffers
        Memory for copies by key, reused at the next checkpoint, because the operating system clears
        new memory first, which takes several times as long as a copy. With None, tensors that can
        be written directly are not copied; the state must not change until it is written.

    Attributes
    ----------
    tables
        The states by name, with this rank's values in place of whole tensors.
    pieces
        These values by key: flat, except for tensors that are whole.
    runs
        Their positions in the whole tensors.
    lists
        Entries of lists with one entry per row, with the number of the first; only on the first
        rank that holds them.
    """

    def __init__(self, places: Places, buffers: dict[Key, Tensor] | None) -> None:
        self._places, self._buffers = places, buffers
        self.tables: dict[str, Any] = {}
        self.pieces: dict[Key, Tensor] = {}
        self.runs: dict[Key, Runs] = {}
        self.lists: dict[Key, tuple[int, list[Any]]] = {}

    def add(self, name: str, state: Mapping[str, Any], *, passing: bool = False) -> None:
        """Select, and copy where necessary, the values of a state.

        Parameters
        ----------
        name
            ``"method"``, ``"optimizer"`` or ``"average"``.
        passing
            Whether its tensors may change while they are being written, and so must be copied.
        """
        self.tables[name] = self._take((name,), state, passing)

    def _take(self, key: Key, x: Any, passing: bool) -> Any:
        if isinstance(x, Mapping):
            return {k: self._take((*key, k), v, passing) for k, v in x.items()}
        place = self._places.of(key, x)
        if isinstance(x, RowList):
            assert place is not None
            if place.copy == 0 and len(x):
                self.lists[key] = int(place.runs.bounds[0, 0]), list(x)
            return []
        if place is None:
            if isinstance(x, list):
                return [self._take((*key, i), v, passing) for i, v in enumerate(x)]
            return x.detach().cpu().clone() if isinstance(x, Tensor) else copy.deepcopy(x)
        own = _own(x, place)
        runs = place.runs.within(own.start, own.stop)
        piece = self._copied(key, _flat(x, own), passing)
        if runs.is_whole:
            piece = piece.view(runs.shape)
        self.pieces[key], self.runs[key] = piece, runs
        return piece

    def _copied(self, key: Key, x: Tensor, passing: bool) -> Tensor:
        if self._buffers is None:
            apart = x.device.type != "cpu" or x.untyped_storage().nbytes() == x.nbytes
            return x.clone() if passing or not apart else x.cpu()
        kept = self._buffers.get(key)
        if kept is None or kept.shape != x.shape or kept.dtype != x.dtype:
            pinned = x.device.type == "cuda"
            kept = torch.empty(x.shape, dtype=x.dtype, pin_memory=pinned)
            self._buffers[key] = kept
        return kept.copy_(x)


def _own(x: Tensor, place: StatePlace) -> range:
    """Range of the values that this rank writes, among those that it holds."""
    if x.nbytes >= LARGE:
        return share(x.numel(), place.copies, place.copy)
    return range(x.numel()) if place.copy == 0 else range(0)


def _flat(x: Tensor, own: range) -> Tensor:
    flat = x.detach().resolve_conj().resolve_neg().reshape(-1)
    return flat[own.start : own.stop]

"""Read fields in chunks of time steps, so that each chunk of a store is decoded only once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray

KEPT = 2
"""Number of chunks that are kept in memory: that of an input and that of its target."""

Held = dict[Hashable, np.ndarray]
"""Chunks in memory, in the order in which they were read."""


class Steps:
    """Function that returns an array of a time step and keeps the last two chunks of time steps.

    If items are read in order of time, with a lead of at most one chunk, each chunk is read once.

    Parameters
    ----------
    read
        ``read(start, stop)`` returns the arrays of some steps, ``(stop - start, ...)``.
    count
        Number of steps.
    each
        Number of steps in a chunk of the store.
    held
        Chunks in memory; several files that follow each other share them.
    """

    def __init__(
        self,
        read: Callable[[int, int], np.ndarray],
        count: int,
        each: int = 1,
        held: Held | None = None,
    ) -> None:
        self._read, self._count, self._each = read, count, each
        self._held: Held = {} if held is None else held

    def __call__(self, t: int) -> np.ndarray:
        """Return the array of step ``t``, which must not be changed."""
        found: np.ndarray = self._chunk(t // self._each)[t % self._each]
        return found

    def some(self, times: np.ndarray) -> np.ndarray:
        """Return the arrays of steps ``(n,)``, reading one chunk after the other."""
        chunks, found = times // self._each, np.empty(0)
        for k, c in enumerate(np.unique(chunks).tolist()):
            part, rows = self._chunk(c), chunks == c
            if k == 0:
                found = np.empty((len(times), *part.shape[1:]), part.dtype)
            found[rows] = part[times[rows] - c * self._each]
        return found

    def _chunk(self, number: int) -> np.ndarray:
        name = id(self), number
        if name not in self._held:
            while len(self._held) >= KEPT:
                del self._held[next(iter(self._held))]
            start = number * self._each
            self._held[name] = self._read(start, min(start + self._each, self._count))
        return self._held[name]


def dataset(
    steps: Steps,
    names: Sequence[str],
    dims: Sequence[str],
    shape: Sequence[int],
    *,
    dtype: np.dtype,
    coords: dict[str, tuple[Sequence[str], np.ndarray, dict[str, str]]],
    units: dict[str, str],
) -> xarray.Dataset:
    """Build a dataset with a lazily read variable for each field of the steps.

    Parameters
    ----------
    steps
        Time steps, each of which can be reshaped to ``(len(names), *shape[1:])``.
    names
        Names of the fields, in the order of the steps.
    dims, shape
        Dimensions of a variable, time first, and their sizes.
    dtype
        Type of the values.
    coords
        Dimension, values and attributes of each coordinate.
    units
        Units of the fields, where they are known.
    """
    import xarray

    def variable(place: int, name: str) -> xarray.Variable:
        def read(times: np.ndarray) -> np.ndarray:
            return steps.some(times)[:, place].reshape(len(times), *shape[1:])

        return _lazy(read, dims, shape, dtype, {"units": units[name]} if name in units else {})

    return xarray.Dataset(
        {name: variable(place, name) for place, name in enumerate(names)},
        {name: xarray.Variable(*found) for name, found in coords.items()},
    )


def chunk_steps(opened: xarray.Dataset, names: Sequence[str], sample: str) -> int:
    """Return the number of steps in a chunk of some variables; 0 if none is stored in chunks."""
    found = [
        opened[name].encoding.get("preferred_chunks", {}).get(sample, 0)
        for name in names
        if sample in opened[name].dims
    ]
    return int(max(found, default=0))


def by_chunk(
    opened: xarray.Dataset, names: Sequence[str], sample: str, held: dict[str, Held]
) -> xarray.Dataset:
    """Return a dataset whose chunked variables keep the last two chunks of time steps.

    Parameters
    ----------
    opened
        A dataset whose dimension ``sample`` is whole, as it is stored.
    held
        Chunks in memory by variable, shared with the datasets of other files.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        each = chunk_steps(opened, [name], sample)
        if each:
            source = opened[name].transpose(sample, ...)
            steps = Steps(_reader(source, sample), len(source), each, held.setdefault(name, {}))
            attrs: Mapping[str, Any] = source.attrs
            found[name] = _lazy(steps.some, source.dims, source.shape, source.dtype, attrs)
    return opened.assign(found)


def _reader(source: xarray.DataArray, sample: str) -> Callable[[int, int], np.ndarray]:
    def read(start: int, stop: int) -> np.ndarray:
        values: np.ndarray = source.isel({sample: slice(start, stop)}).values
        return values

    return read


def _lazy(
    read: Callable[[np.ndarray], np.ndarray],
    dims: Sequence[Hashable],
    shape: Sequence[int],
    dtype: np.dtype,
    attrs: Mapping[str, Any],
) -> xarray.Variable:
    """Make a variable from a function that returns ``(n, ...)`` arrays of time steps ``(n,)``."""
    import xarray
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Field(BackendArray):
        """One field at all time steps."""

        def __init__(self) -> None:
            self.shape, self.dtype = tuple(shape), dtype

        def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
            way = indexing.IndexingSupport.OUTER
            return indexing.explicit_indexing_adapter(key, self.shape, way, self._read)

        def _read(self, key: tuple[int | slice | np.ndarray, ...]) -> np.ndarray:
            times = np.arange(self.shape[0])[key[0]]
            values = read(np.atleast_1d(times))
            for axis in reversed(range(1, len(key))):
                values = values[(slice(None),) * axis + (key[axis],)]
            return values if times.ndim else values[0]

    return xarray.Variable(dims, indexing.LazilyIndexedArray(Field()), attrs)

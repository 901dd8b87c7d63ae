"""Read fields time step by time step, so that each chunk of a store is decoded only once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray

KEPT = 2
"""Number of time steps that are kept in memory: an input and its target."""


class Steps:
    """Function that returns all fields of a time step and caches the last two steps.

    If items are read in order of time with a lead of one step, each step is read once.

    Parameters
    ----------
    read
        ``read(t)`` returns the array of step ``t``, with the fields along its first axis.
    """

    def __init__(self, read: Callable[[int], np.ndarray]) -> None:
        self._read = read
        self._held: dict[int, np.ndarray] = {}

    def __call__(self, t: int) -> np.ndarray:
        """Return the array of step ``t``, which must not be changed."""
        if t not in self._held:
            while len(self._held) >= KEPT:
                del self._held[next(iter(self._held))]
            self._held[t] = self._read(t)
        return self._held[t]


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
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Field(BackendArray):
        """One field at all time steps."""

        def __init__(self, place: int) -> None:
            self.place, self.shape, self.dtype = place, tuple(shape), dtype

        def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
            way = indexing.IndexingSupport.OUTER
            return indexing.explicit_indexing_adapter(key, self.shape, way, self._read)

        def _read(self, key: tuple[int | slice | np.ndarray, ...]) -> np.ndarray:
            times = np.arange(self.shape[0])[key[0]]
            found = np.stack([self._part(t, key[1:]) for t in np.atleast_1d(times).tolist()])
            return found if times.ndim else found[0]

        def _part(self, t: int, key: tuple[int | slice | np.ndarray, ...]) -> np.ndarray:
            values = steps(t)[self.place].reshape(self.shape[1:])
            for axis in reversed(range(len(key))):
                values = values[(slice(None),) * axis + (key[axis],)]
            return values

    def variable(place: int, name: str) -> xarray.Variable:
        attrs = {"units": units[name]} if name in units else {}
        return xarray.Variable(dims, indexing.LazilyIndexedArray(Field(place)), attrs)

    return xarray.Dataset(
        {name: variable(place, name) for place, name in enumerate(names)},
        {name: xarray.Variable(*found) for name, found in coords.items()},
    )

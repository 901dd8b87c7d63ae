"""Stack variables of xarray datasets into arrays of items, with their axes and coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcsamp.data.shard_writer import Coordinate
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.units import Conversion

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True)
class Stack:
    """Variables stacked into one array: channels first, then the axes that all variables share.

    Attributes
    ----------
    variables
        Names of the variables.
    sample
        Dimension along which items lie.
    grid
        Dimensions that all variables share, in the order of the first variable.
    names
        Names of the channels: a variable, or ``variable@level`` for each entry of its other
        dimensions.
    shape
        Shape of an item.
    conversions
        Conversions of units, by variable.
    """

    variables: list[str]
    sample: str
    grid: list[str]
    names: list[str]
    shape: tuple[int, ...]
    conversions: Mapping[str, Conversion] = field(default_factory=dict)

    def read(
        self, opened: xarray.Dataset, items: slice | np.ndarray, dtype: np.dtype | None = None
    ) -> np.ndarray:
        """Read items of a dataset as ``dtype``, shape ``(n, *shape)``, with converted units."""
        parts = []
        count = len(range(*items.indices(opened.sizes[self.sample]))) if isinstance(
            items, slice) else len(items)  # fmt: skip
        grid = [opened.sizes[d] for d in self.grid]
        for name in self.variables:
            found = opened[name]
            other = [d for d in found.dims if d not in (self.sample, *self.grid)]
            if self.sample in found.dims:
                found = found.isel({self.sample: items})
                values = found.transpose(self.sample, *other, *self.grid).values
            else:  # a constant field
                values = found.transpose(*other, *self.grid).values[None]
                values = np.broadcast_to(values, (count, *values.shape[1:]))
            if name in self.conversions:
                values = self.conversions[name].apply(values)
            parts.append(values.reshape(count, -1, *grid))
        return np.concatenate(parts, axis=1, dtype=dtype, casting="unsafe")


def stack(
    opened: xarray.Dataset,
    variables: Sequence[str],
    sample: str,
    file: str,
    order: Sequence[str] = (),
) -> Stack:
    """Plan how variables are stacked; axes in ``order`` come first, in that order.

    Raises
    ------
    UsageError
        If a variable or the dimension of the items does not exist.
    DataError
        If a variable is not numeric.
    """
    if sample not in opened.dims:
        raise UsageError(
            f"{file} has no dimension {sample!r}, only {', '.join(map(str, opened.dims))}; give "
            "--sample"
        )
    for name in variables:
        if name not in opened.data_vars:
            raise UsageError(
                f"{file} has no variable {name!r}, only {', '.join(map(str, opened.data_vars))}"
            )
        if opened[name].dtype.kind not in "biuf":
            raise DataError(f"{file}: {name} has type {opened[name].dtype}, but numbers are needed")
    if all(sample not in opened[name].dims for name in variables):
        raise UsageError(f"{file}: {variables[0]} has no dimension {sample!r}, so it has no items")
    dims = [[str(d) for d in opened[name].dims if d != sample] for name in variables]
    grid = [d for d in dims[0] if all(d in other for other in dims)]
    grid = [*(d for d in order if d in grid), *(d for d in grid if d not in order)]
    names: list[str] = []
    for name, own in zip(variables, dims, strict=True):
        other = [d for d in own if d not in grid]
        labels = [_labels(opened, d) for d in other]
        names += [f"{name}@{','.join(which)}" if which else name for which in product(*labels)]
    if len(variables) == 1 and len(grid) == 1 and len(dims[0]) == 1:
        # one variable along one axis is a vector, whose entries are named by the coordinate
        return Stack(list(variables), sample, [], [
            f"{variables[0]}@{label}" for label in _labels(opened, grid[0])
        ], (opened.sizes[grid[0]],))  # fmt: skip
    return Stack(list(variables), sample, grid, names,
                 (len(names), *(opened.sizes[d] for d in grid)))  # fmt: skip


def _labels(opened: xarray.Dataset, dimension: str) -> list[str]:
    if dimension in opened.coords:
        return [str(v) for v in opened[dimension].values.tolist()]
    return [str(i) for i in range(opened.sizes[dimension])]


def coordinates(opened: xarray.Dataset, x: Stack, y: Stack) -> dict[str, Coordinate]:
    """Return the coordinates of the grids of ``x`` and ``y``, and of the items."""
    found: dict[str, Coordinate] = {}
    for array, stacked in (("x", x), ("y", y)):
        for axis, dimension in enumerate(stacked.grid, 1):
            if dimension not in opened.coords or opened[dimension].ndim != 1:
                continue
            values, units = plain(opened[dimension])
            known = found.get(dimension)
            if known is not None and known.axis == axis:
                both = Coordinate(known.values, known.units, axis, ("x", "y"))
                found[dimension] = both
            else:
                name = f"target_{dimension}" if known is not None else dimension
                found[name] = Coordinate(values, units, axis, (array,))
    if x.sample in opened.coords and opened[x.sample].dtype.kind in "iufM":
        found[x.sample] = Coordinate(np.empty(0), plain(opened[x.sample][:1])[1])
    return found


def plain(values: xarray.DataArray) -> tuple[np.ndarray, str]:
    """Convert a coordinate to numbers or words with units; times become seconds since 1970."""
    found = values.values
    if found.dtype.kind == "M":
        seconds = found.astype("datetime64[ns]").astype(np.int64) / 1e9
        return seconds, "seconds since 1970-01-01"
    if found.dtype.kind == "m":
        return found.astype("timedelta64[ns]").astype(np.int64) / 1e9, "seconds"
    if found.dtype.kind in "biuf":
        return found, str(values.attrs.get("units", ""))
    return found.astype(str).astype(object), ""


def units_of(opened: xarray.Dataset, stacked: Stack) -> str:
    """Return the units of the channels in one line."""
    units = {name: str(opened[name].attrs.get("units", "")) for name in stacked.variables}
    units = {name: unit.translate({91: "(", 93: ")"}) for name, unit in units.items() if unit}
    if len(stacked.variables) == 1:
        return next(iter(units.values()), "")
    return ", ".join(f"{name} [{unit}]" for name, unit in units.items())


def select(opened: xarray.Dataset, given: Sequence[str], file: str) -> xarray.Dataset:
    """Select a part of a dataset by ``DIMENSION=VALUES``: ``level=500,850`` or ``latitude=30:60``.

    Values are those of the coordinate, or positions without one; ranges include both ends.

    Raises
    ------
    UsageError
        If a dimension does not exist, or nothing is left of it.
    """
    for text in given:
        dimension, sign, what = text.partition("=")
        if not sign or dimension not in opened.dims:
            raise UsageError(
                f"--select {text} must be DIMENSION=VALUES or DIMENSION=FIRST:LAST; {file} has "
                f"the dimensions {', '.join(map(str, opened.dims))}"
            )
        labels: Any = (
            opened[dimension].values
            if dimension in opened.coords
            else np.arange(opened.sizes[dimension])
        )
        try:
            if (":" in what and labels.dtype.kind != "M") or what.count(":") == 1:
                low, high = (_value(part, labels.dtype) for part in what.split(":"))
                keep = np.ones(len(labels), bool)
                keep &= labels >= low if low is not None else True
                keep &= labels <= high if high is not None else True
                at = np.flatnonzero(keep)
            else:
                wanted = [_value(part, labels.dtype) for part in what.split(",")]
                at = np.asarray([_place(labels, value) for value in wanted], int)
        except (ValueError, TypeError) as e:
            raise UsageError(f"--select {text}: {e}") from None
        if not len(at):
            raise UsageError(
                f"--select {text} leaves nothing: {dimension} goes from {labels.min()} to "
                f"{labels.max()}"
            )
        opened = opened.isel({dimension: at})
    return opened


def _value(text: str, kind: np.dtype) -> Any:
    text = text.strip()
    if not text:
        return None
    if kind.kind == "M":
        return np.datetime64(text)
    return float(text) if kind.kind in "biuf" else text


def _place(labels: np.ndarray, value: Any) -> int:
    """Return the position of a label; numbers are compared up to rounding."""
    close = np.isclose(labels.astype(float), value) if labels.dtype.kind in "biuf" else None
    at = np.flatnonzero(labels == value if close is None else close)
    if not len(at):
        raise ValueError(f"{value!r} is not among {', '.join(map(str, labels[:10].tolist()))}")
    return int(at[0])

"""Ingest ERA5 from WeatherBench 2 (Rasp et al. 2024): a zarr store at 1.5 degrees.

The task is that of the paper (section 5.4): from three-hourly states, predict 69 variables six
hours ahead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.asked import Asked, Part
from hpcsamp.ingest.fields import (
    CHANNELS,
    EPOCH,
    LEVELS,
    MASKS,
    SURFACE,
    UNITS,
    UPPER,
    VARIABLES,
    check_unit,
    conversion,
    features,
    field_coordinates,
    units_of,
)
from hpcsamp.ingest.source import Source, check_fractions
from hpcsamp.ingest.steps import Steps, by_chunk

if TYPE_CHECKING:
    import xarray

URL = "gs://weatherbench2/datasets/era5/"
LEVEL_UNITS = {"hPa", "mbar", "mb", "millibar", "millibars"}


@dataclass
class Era5(Source):
    """Pairs of states of a zarr store: a state and the state some hours later.

    Attributes
    ----------
    store
        The opened store.
    first
        For each split, the index of each item's input on the time axis.
    ahead
        Number of time steps between input and target.
    scales
        Factor and shift that convert each variable to the stored units.
    """

    shard_mb: ClassVar[float] = 512

    store: xarray.Dataset | None = None
    first: dict[str, np.ndarray] = field(default_factory=dict)
    ahead: int = 1
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.store is not None
        self._latitude = self.store["latitude"].values
        self._longitude = self.store["longitude"].values
        self._time = self.store["time"].values.astype("datetime64[h]")
        # poles and direction of latitude stay as in the store; rows are latitudes
        self._masks = np.stack([self._load(name) for name in MASKS])
        self._states = Steps(lambda t, _: self._state(t)[None], len(self._time))

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        at = self.first[split][start:stop]
        x = np.empty((len(at), *self.arrays["x"].shape), np.float32)
        y = np.empty((len(at), *self.arrays["y"].shape), np.float32)
        for i, t in enumerate(at.tolist()):
            x[i, : len(VARIABLES)] = self._states(t)
            x[i, len(VARIABLES) : -4] = self._masks
            x[i, -4:] = features(self._latitude, self._longitude, self._time[t])
            y[i] = self._states(t + self.ahead)
        hours = (self._time[at] - EPOCH) / np.timedelta64(1, "h")
        return {"x": x, "y": y, "time": hours.astype(np.float64)}

    def _state(self, t: int) -> np.ndarray:
        """Read the 69 variables at one time, shape ``(69, latitudes, longitudes)``."""
        out = np.empty(self.arrays["y"].shape, np.float32)
        for place, name in enumerate(SURFACE):
            out[place] = self._load(name, time=t)
        for place, name in enumerate(UPPER):
            first = len(SURFACE) + place * len(LEVELS)
            out[first : first + len(LEVELS)] = self._load(name, time=t, level=list(LEVELS))
        return out

    def _load(self, name: str, *, time: int | None = None, level: Any = None) -> np.ndarray:
        assert self.store is not None
        values = self.store[name]
        if time is not None:
            values = values.isel(time=time)
        if level is not None:
            values = values.sel(level=level)
        leading = ["level"] if level is not None else []
        try:
            found = values.transpose(*leading, "latitude", "longitude").values
            factor, shift = self.scales[name]
            if (factor, shift) != (1.0, 0.0):
                found = found * np.float64(factor) + shift
            return found.astype(np.float32)
        except (OSError, ValueError, KeyError) as e:
            raise DataError(
                f"{self.source['file']}: {name} at time {time} cannot be read: {e}"
            ) from e


def era5(
    store: Annotated[str | Path, Asked("WeatherBench 2 zarr store: a folder or URL.", kind=str)],
    *,
    start: Annotated[str | None, Asked("First time to use, e.g. 1980-01-01.")] = None,
    stop: Annotated[str | None, Asked("Last time to use, e.g. 2020-12-31.")] = None,
    every: Annotated[int, Asked("Hours between successive items.", least=1)] = 3,
    lead: Annotated[int, Asked("Hours from input to target.", least=1)] = 6,
    units: Annotated[
        Sequence[str],
        Asked("Unit that a variable must have in the set; only those of ERA5.", "--units"),
    ] = (),
    valid: Part = 0.1,
    test: Part = 0.1,
) -> Era5:
    """Read ERA5 from a WeatherBench 2 zarr store.

    Parameters
    ----------
    store
        Folder, or a URL that xarray can open (``gs://`` needs gcsfs).
    start, stop
        First and last time to use, e.g. ``1980-01-01``.
    every
        Hours between successive items.
    lead
        Hours from input to target.
    units
        Texts such as ``2m_temperature=K``. The set has the units of ERA5, to which those of the
        store are converted; others are refused.
    valid, test
        Fractions of the time axis at its end; targets of a split do not reach into the next one.

    Raises
    ------
    DataError
        If the store cannot be opened, lacks a variable or a level, or its times are not regular.
    UsageError
        If ``every`` or ``lead`` does not fit the time axis, or other units are asked for.

    Examples
    --------
    hpcsamp ingest era5 store.zarr --start 1979-01-01 --stop 1980-01-01 --out data/era5

    mpirun -n 4 hpcsamp ingest era5 store.zarr --out data/era5
    """
    import xarray

    check_fractions({"valid": valid, "test": test})
    for text in units:
        check_unit(text)
    try:
        opened = xarray.open_zarr(store, chunks=None)
    except (OSError, ValueError, KeyError) as e:
        raise DataError(f"{store}: cannot be opened as a zarr store: {e}") from e
    for name in ("time", "latitude", "longitude", "level"):
        if name not in opened.coords:
            raise DataError(f"{store} has no coordinate {name!r}, only {sorted(opened.coords)}")
    for name in (*SURFACE, *UPPER, *MASKS):
        if name not in opened:
            raise DataError(f"{store} has no variable {name!r}, only {sorted(opened.data_vars)}")
    missing = sorted(set(LEVELS) - {int(v) for v in opened["level"].values})
    if missing:
        raise DataError(f"{store} lacks the pressure levels {missing} hPa")
    scales, notes = _units(str(store), opened)
    if opened["time"].dtype.kind != "M":
        raise DataError(f"{store}: times have type {opened['time'].dtype}, not datetime64")
    # unused levels are left out before chunks are kept, and times only afterwards
    opened = by_chunk(opened.sel(level=list(LEVELS)), (*SURFACE, *UPPER), "time", {})
    try:
        opened = opened.sel(time=slice(start, stop))
    except (ValueError, KeyError, TypeError) as e:
        if not opened.indexes["time"].is_monotonic_increasing:
            raise DataError(f"{store}: the time axis is broken: times do not increase") from None
        raise UsageError(
            f"--start {start} --stop {stop} cannot select times of {store}: {e}"
        ) from None
    firsts, ahead = _items(str(store), opened["time"].values, every, lead, valid, test)
    shape = (len(opened["latitude"]), len(opened["longitude"]))
    times = opened["time"].values
    digest = _identity(opened, scales)
    return Era5(
        name="era5",
        task="regression",
        normalize_y=True,
        arrays={
            "x": ArraySpec.plan((len(CHANNELS), *shape), "<f4", units=units_of(CHANNELS)),
            "y": ArraySpec.plan((len(VARIABLES), *shape), "<f4", units=units_of(VARIABLES)),
        },
        splits={split: len(rows) for split, rows in firsts.items()},
        source={
            "name": "ERA5 (ECMWF), WeatherBench 2",
            "url": URL,
            "file": str(store),
            "sha256": digest,
            "first_time": str(times[0]),
            "last_time": str(times[-1]),
        },
        licence="Copernicus licence; contains modified Copernicus Climate Change Service data",
        transforms=[
            f"every {every} h, target {lead} h ahead",
            "masks and features of solar time and season appended",
            *notes,
            f"split in time: valid {valid:g}, test {test:g}",
        ],
        coords=field_coordinates(opened["latitude"].values, opened["longitude"].values),
        meaning={"y": {"lead": f"{lead} h"}},
        report=notes,
        store=opened,
        first=firsts,
        ahead=ahead,
        scales=scales,
    )


def _units(store: str, opened: xarray.Dataset) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Return the unit conversion of each variable, and notes for the user about conversions."""
    scales: dict[str, tuple[float, float]] = {}
    converted, silent = [], []
    for name in UNITS:
        unit = opened[name].attrs.get("units")
        if unit is None:
            silent.append(name)
            scales[name] = (1.0, 0.0)
            continue
        try:
            scales[name] = conversion(name, str(unit))
        except DataError as e:
            raise DataError(f"{store}: {e}") from None
        if scales[name] != (1.0, 0.0):
            converted.append(f"{name} from {unit}")
    level = str(opened["level"].attrs.get("units", "hPa"))
    if level not in LEVEL_UNITS:
        raise DataError(f"{store}: level has units {level!r}, but hPa is needed")
    notes = [f"units converted: {', '.join(converted)}"] if converted else []
    if silent:
        notes.append(f"variables without units, assumed to be those of ERA5: {', '.join(silent)}")
    return scales, notes


def _identity(opened: xarray.Dataset, scales: Mapping[str, tuple[float, float]]) -> str:
    """Digest of the axes, the units and one state, to recognise a changed store."""
    found = hashlib.sha256(json.dumps(scales, sort_keys=True).encode())
    for name in ("time", "latitude", "longitude"):
        found.update(np.ascontiguousarray(opened[name].values).tobytes())
    for name in (*SURFACE, *MASKS):
        values = opened[name].isel(time=0) if name in SURFACE else opened[name]
        found.update(np.ascontiguousarray(values.values).tobytes())
    return found.hexdigest()


def _items(
    store: str, times: np.ndarray, every: int, lead: int, valid: float, test: float
) -> tuple[dict[str, np.ndarray], int]:
    """Return the index of each item's input by split, and the steps from input to target."""
    whole = times.astype("datetime64[h]")
    if len(whole) < 2:
        raise DataError(f"{store}: {len(whole)} times are selected, but at least 2 are needed")
    if (whole != times).any():
        at = int(np.flatnonzero(whole != times)[0])
        raise DataError(f"{store}: time {times[at].astype('datetime64[s]')} is not a full hour")
    hours = (whole - EPOCH).astype(np.int64)
    steps = np.diff(hours)
    if (steps != steps[0]).any() or steps[0] < 1:
        at = int(np.flatnonzero(steps != steps[0])[0]) if (steps != steps[0]).any() else 0
        raise DataError(
            f"{store}: the time axis is broken after {times[at].astype('datetime64[h]')}: the next "
            f"time is {steps[at]} h later, but earlier steps are {steps[0]} h"
        )
    step = int(steps[0])
    if every % step or lead % step:
        raise UsageError(
            f"{store} has a time every {step} h; --every {every} and --lead {lead} must be "
            f"multiples of it"
        )
    ahead = lead // step
    ends = {"train": 1 - valid - test, "valid": 1 - test, "test": 1.0}
    firsts, begin = {}, 0
    for split, part in ends.items():
        end = round(part * len(hours))
        rows = np.arange(begin, max(begin, end - ahead), every // step)
        begin = end
        if len(rows):
            firsts[split] = rows
    if "train" not in firsts:
        raise DataError(f"{store}: {len(hours)} times are too few for an item in train")
    return firsts, ahead

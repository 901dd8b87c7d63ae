"""Ingest weather data in the layouts of other packages: anemoi-datasets, makani and GRIB."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import numpy as np

from hpcsamp.data.shard import sha256
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.asked import Asked
from hpcsamp.ingest.gridded import Answers, FieldOptions, Gridded, Variables, gridded, with_options
from hpcsamp.ingest.netcdf import from_files
from hpcsamp.ingest.steps import Held, Steps, dataset

if TYPE_CHECKING:
    import h5py
    import xarray

DEGREES = {"latitude": {"units": "degrees_north"}, "longitude": {"units": "degrees_east"}}


@with_options
def anemoi(
    store: Annotated[str, Asked("Zarr store of anemoi-datasets: a folder or URL.", kind=str)],
    x: Variables,
    y: Answers,
    *,
    member: Annotated[int, Asked("Ensemble member to read.", least=0)] = 0,
    **options: Unpack[FieldOptions],
) -> Gridded:
    """Read a gridded dataset of anemoi-datasets.

    Fields on a regular grid have the dimensions latitude and longitude; others have cells.

    Parameters
    ----------
    store
        A folder, or a URL that zarr can open.
    member
        Index of the ensemble member.
    x, y, select, units, lead, keep_missing, fractions, seed, rule, normalize_y
        As in :func:`~hpcsamp.ingest.netcdf.netcdf`; the items are the dates, called ``time``.

    Raises
    ------
    UsageError
        If a variable or the member does not exist.
    DataError
        If the store cannot be read, has another layout, or lacks dates.

    Examples
    --------
    hpcsamp ingest anemoi era5-o96.zarr --x 2t --x z_500 --y 2t --lead 1 --out data/t

    mpirun -n 4 hpcsamp ingest anemoi era5.zarr --x 2t --y 2t --lead 4 --out data/t
    """
    import zarr

    try:
        opened: Any = zarr.open_group(store, mode="r")
        values = opened["data"]
        dates = np.asarray(opened["dates"]).astype("datetime64[s]").astype("datetime64[ns]")
        axes = {name: np.asarray(opened[f"{name}s"], np.float64) for name in DEGREES}
        names = [str(name) for name in opened.attrs["variables"]]
    except Exception as e:  # readers raise many kinds of errors for damaged stores
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise DataError(f"{store} is not a dataset of anemoi-datasets: {reason}") from None
    absent = list(opened.attrs.get("missing_dates") or [])
    if absent:
        raise DataError(
            f"{store}: {len(absent)} of {len(dates)} dates are missing, the first is {absent[0]}; "
            f"write a dataset without them (anemoi-datasets copy)"
        )
    if member >= values.shape[2]:
        raise UsageError(f"--member {member}: {store} has the members 0 to {values.shape[2] - 1}")
    known = opened.attrs.get("variables_metadata") or {}
    units = {n: str(known[n]["units"]) for n in names if "units" in (known.get(n) or {})}
    grid = tuple(int(n) for n in opened.attrs.get("field_shape") or ())
    dims, shape, coords = _grid(grid, axes)
    made = _by_step(
        store,
        lambda start, stop, fields: values.oindex[start:stop, fields, member],
        values.chunks[0],
        {},
        names,
        [*x, *y],
        ("time", *dims),
        (len(dates), *shape),
        values.dtype,
        {"time": (("time",), dates, {}), **coords},
        units,
    )
    local = Path(store)
    source = {"file": local.name, "member": member}
    found = gridded([made], [store], source, x, y, sample="time", **options)
    found.store, found.stepwise = local if local.is_dir() else None, values.chunks[0]
    return found


@with_options
def makani(
    files: Annotated[
        Sequence[str | Path], Asked("Yearly HDF5 files in time order.", "files", kind=list[Path])
    ],
    x: Variables,
    y: Answers,
    *,
    metadata: Annotated[
        Path | None, Asked("Metadata (data.json), for files without dimension scales.", kind=Path)
    ] = None,
    **options: Unpack[FieldOptions],
) -> Gridded:
    """Read the yearly HDF5 files of makani, ``fields`` of shape (time, channel, lat, lon).

    Parameters
    ----------
    files
        Files such as ``2017.h5``.
    metadata
        Description with the keys ``coords`` (``channel``, ``lat``, ``lon``) and ``dhours``. It is
        needed for files without dimension scales; their times are computed from the year in their
        name.
    x, y, select, units, lead, keep_missing, fractions, seed, rule, normalize_y
        As in :func:`~hpcsamp.ingest.netcdf.netcdf`; the variables are the channels.

    Raises
    ------
    UsageError
        If a channel does not exist, or files without scales are given without metadata.
    DataError
        If a file cannot be read, or does not have the shape that its description states.

    Examples
    --------
    hpcsamp ingest makani train/*.h5 --x t2m --x u500 --y t2m --lead 1 --out data/t

    hpcsamp ingest makani 2017.h5 --x t2m --y t2m --metadata data.json --out data/t
    """
    import h5py

    paths = [Path(f) for f in files]
    told: dict[str, Any] = {}
    if metadata is not None:
        try:
            told = json.loads(Path(metadata).read_text())
        except (OSError, ValueError) as e:
            raise DataError(f"{metadata}: cannot be read: {e}") from None
    parts: list[xarray.Dataset] = []
    held: Held = {}
    for path in paths:
        try:
            file = h5py.File(path, locking=False)
            fields = file[told.get("h5_path", "fields")]
        except (OSError, KeyError) as e:
            raise DataError(f"{path} is not a file of makani: {e}") from None
        parts.append(_year(path, fields, told, [*x, *y], held))
        each = (fields.chunks or (1,))[0]
    source = {
        "file": ", ".join(p.name for p in paths[:10]) + ", ..." * (len(paths) > 10),
        "sha256": ", ".join(sha256(p) for p in paths),
    }
    found = gridded(parts, [str(p) for p in paths], source, x, y, sample="time", **options)
    found.stepwise = each
    return found


@with_options
def grib(
    files: Annotated[
        Sequence[str | Path], Asked("GRIB files in time order.", "files", kind=list[Path])
    ],
    x: Variables,
    y: Answers,
    **options: Unpack[FieldOptions],
) -> Gridded:
    """Read GRIB files with cfgrib, concatenated along time.

    Parameters
    ----------
    files
        Files whose messages form one hypercube; see the documentation of cfgrib.
    x, y, select, units, lead, keep_missing, fractions, seed, rule, normalize_y
        As in :func:`~hpcsamp.ingest.netcdf.netcdf`.

    Raises
    ------
    UsageError
        If a variable or dimension does not exist.
    DataError
        If cfgrib is missing or cannot read a file, or files differ in variables, grids or units.

    Examples
    --------
    hpcsamp ingest grib 2020.grib 2021.grib --x t2m --y t2m --lead 1 --out data/t

    hpcsamp ingest grib era5.grib --x t --y t --select isobaricInhPa=500,850 --out data/t
    """
    return from_files(files, x, y, engine="cfgrib", sample="time", **options)


def _year(
    path: Path,
    fields: h5py.Dataset,
    told: Mapping[str, Any],
    wanted: Sequence[str],
    held: Held,
) -> xarray.Dataset:
    """Open a file of makani; its axes are read from dimension scales, or else from the metadata."""
    if fields.ndim == 4 and all(len(axis) for axis in fields.dims):
        seconds, channels, latitude, longitude = (axis[0][:] for axis in fields.dims)
        names = [n.decode() if isinstance(n, bytes) else str(n) for n in channels]
        times = (seconds * 1e9).astype(np.int64).astype("datetime64[ns]")
    elif told:
        try:
            names, latitude, longitude = (told["coords"][n] for n in ("channel", "lat", "lon"))
            hours = float(told["dhours"])
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"metadata of {path} lack {e}") from None
        if not path.stem.isdigit():
            raise DataError(f"{path}: the name of a file without times must be its year")
        begin = np.datetime64(f"{int(path.stem):04d}-01-01T00", "ns")
        after = np.arange(len(fields)) * np.timedelta64(round(hours * 3600), "s")
        times = begin + after.astype("timedelta64[ns]")
    else:
        raise UsageError(f"{path} has no dimension scales; give --metadata data.json")
    axes = (times, names, latitude, longitude)
    if fields.shape != tuple(map(len, axes)):
        raise DataError(
            f"{path}: fields have shape {fields.shape}, but its axes have the lengths "
            f"{tuple(map(len, axes))}"
        )
    grid = {"latitude": np.asarray(latitude, float), "longitude": np.asarray(longitude, float)}
    coords = {name: ((name,), values, DEGREES[name]) for name, values in grid.items()}
    return _by_step(
        str(path),
        lambda start, stop, channels: fields[start:stop, channels],
        (fields.chunks or (1,))[0],
        held,
        list(map(str, names)),
        wanted,
        ("time", "latitude", "longitude"),
        (fields.shape[0], *fields.shape[2:]),
        fields.dtype,
        {"time": (("time",), times, {}), **coords},
        {},
    )


def _by_step(
    file: str,
    read: Any,
    each: int,
    held: Held,
    names: Sequence[str],
    wanted: Sequence[str],
    dims: Sequence[str],
    shape: Sequence[int],
    dtype: np.dtype,
    coords: dict[str, Any],
    units: dict[str, str],
) -> xarray.Dataset:
    """Open some fields of an array that ``read(start, stop, fields)`` reads by time and field.

    Its chunks have ``each`` time steps.
    """
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        raise UsageError(
            f"{file} has no variable {unknown[0]!r}, only {', '.join(names)}"
            if unknown
            else f"{file}: give --x and --y, each a variable among {', '.join(names)}"
        )
    used = sorted({names.index(name) for name in wanted})
    steps = Steps(lambda *span: np.asarray(read(*span, used)), shape[0], each, held)
    return dataset(steps, [names[i] for i in used], dims, shape, dtype=dtype, coords=coords,
                   units=units)  # fmt: skip


def _grid(
    grid: tuple[int, ...], axes: Mapping[str, np.ndarray]
) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, Any]]:
    """Return dimensions, shape and coordinates of fields: a regular grid, or cells."""
    cells = len(axes["latitude"])
    if len(grid) == 2 and grid[0] * grid[1] == cells:
        by_place = {name: values.reshape(grid) for name, values in axes.items()}
        rows, columns = by_place["latitude"][:, 0], by_place["longitude"][0]
        if (by_place["latitude"] == rows[:, None]).all() and (
            by_place["longitude"] == columns
        ).all():
            found = {"latitude": rows, "longitude": columns}
            coords = {name: ((name,), values, DEGREES[name]) for name, values in found.items()}
            return ("latitude", "longitude"), grid, coords
    coords = {name: (("cell",), values, DEGREES[name]) for name, values in axes.items()}
    return ("cell",), (cells,), coords

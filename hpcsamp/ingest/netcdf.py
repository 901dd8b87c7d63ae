"""Ingest NetCDF files and zarr stores through xarray."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Unpack

from hpcsamp.data.shard import sha256
from hpcsamp.errors import DataError
from hpcsamp.ingest.asked import Asked
from hpcsamp.ingest.gridded import (
    Answers,
    FieldOptions,
    Gridded,
    Variables,
    gridded,
    with_options,
)
from hpcsamp.names import Task

Sample = Annotated[str, Asked("Dimension along which items lie.", "--sample")]
AnyTask = Annotated[Task, Asked("Task of the targets y.")]


@with_options
def netcdf(
    files: Annotated[Sequence[str | Path], Asked("Files in order.", "files", kind=list[Path])],
    x: Variables,
    y: Answers,
    *,
    sample: Sample = "time",
    task: AnyTask = "regression",
    **options: Unpack[FieldOptions],
) -> Gridded:
    """Read NetCDF files, concatenated along the dimension of the items.

    Parameters
    ----------
    files
        Files with the same variables and grids.
    x, y
        Names of variables. They are stacked as channels; dimensions that not all variables have,
        such as levels, become channels, too.
    sample
        Dimension along which items lie.
    select
        Parts of dimensions to use, such as ``level=500,850``.
    units
        Units to which variables are converted, such as ``t2m=degC``; needs pint.
    lead
        Number of items from input to target.
    task
        Task of the targets.
    keep_missing
        Whether targets may be missing.
    fractions, seed, rule
        Fractions, seed and rule of the splits; a rule may name a coordinate of the items.
    normalize_y
        Standardise targets in training.

    Raises
    ------
    UsageError
        If a variable or dimension does not exist, or a unit cannot be converted to that asked for.
    DataError
        If a file cannot be read, or files have different variables, grids or units, or a unit that
        is to be converted is absent or unknown.

    Examples
    --------
    hpcsamp ingest netcdf a.nc b.nc --x t --y t --lead 1 --normalize-y --out data/t

    hpcsamp ingest netcdf era.nc --x t --x u --y t --select level=500,850 --out data/levels
    """
    return from_files(files, x, y, engine=None, sample=sample, task=task, **options)


@with_options
def zarr(
    store: Annotated[str, Asked("Zarr store: a folder or URL.", kind=str)],
    x: Variables,
    y: Answers,
    *,
    sample: Sample = "time",
    task: AnyTask = "regression",
    **options: Unpack[FieldOptions],
) -> Gridded:
    """Read a zarr store with xarray.

    Parameters
    ----------
    store
        A folder, or a URL that xarray can open.
    x, y, sample, select, units, lead, task, keep_missing, fractions, seed, rule, normalize_y
        As in :func:`netcdf`.

    Raises
    ------
    UsageError
        If a variable or dimension does not exist.
    DataError
        If the store cannot be read.

    Examples
    --------
    hpcsamp ingest zarr store.zarr --x t --y t --lead 1 --normalize-y --out data/t

    hpcsamp ingest zarr store.zarr --x t --y rain --sample time --out data/rain
    """
    import xarray

    try:
        with warnings.catch_warnings():
            # metadata in several files only cost time
            warnings.filterwarnings("ignore", message=".*consolidated metadata")
            opened = xarray.open_zarr(store, chunks=None)
    except Exception as e:  # readers raise many kinds of errors for damaged stores
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise DataError(f"{store}: cannot be opened as a zarr store: {reason}") from None
    local = Path(store)
    source = {"file": local.name, **({"sha256": sha256(local)} if local.is_file() else {})}
    made = gridded([opened], [store], source, x, y, sample=sample, task=task, **options)
    rule = options.get("rule")
    made.store = local if local.is_dir() else None
    made.unread = frozenset(map(str, opened.data_vars)) - {*x, *y, *(rule.columns if rule else ())}
    return made


def from_files(
    files: Sequence[str | Path],
    x: Sequence[str],
    y: Sequence[str],
    *,
    engine: str | None,
    sample: str,
    task: Task = "regression",
    **options: Unpack[FieldOptions],
) -> Gridded:
    """Build a source from files that an engine of xarray opens; see :func:`netcdf`."""
    import xarray

    paths = [Path(f) for f in files]
    # cfgrib would write an index beside each file
    given: dict[str, Any] = {"backend_kwargs": {"indexpath": ""}} if engine == "cfgrib" else {}
    parts = []
    for path in paths:
        try:
            parts.append(xarray.open_dataset(path, engine=engine, cache=False, **given))
        except Exception as e:  # readers raise many kinds of errors for damaged files
            reason = str(e).splitlines()[0] if str(e) else type(e).__name__
            if engine is not None and "unrecognized engine" in str(e):
                reason = f"{engine} is missing: pip install hpcsamp[grib]"
            elif "netCDF4" in str(e) or "engine" in str(e):
                reason = "not a netCDF file, or h5netcdf is missing: pip install hpcsamp[weather]"
            raise DataError(f"{path}: cannot be read: {reason}") from None
    source = {
        "file": ", ".join(p.name for p in paths[:10]) + ", ..." * (len(paths) > 10),
        "sha256": ", ".join(sha256(p) for p in paths),
    }
    names = [str(p) for p in paths]
    return gridded(parts, names, source, x, y, sample=sample, task=task, **options)

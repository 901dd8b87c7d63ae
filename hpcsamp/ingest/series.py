"""Ingest time series: windows of the past and the values that follow, split by time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard import sha256
from hpcsamp.data.shard_writer import Coordinate
from hpcsamp.errors import DataError
from hpcsamp.ingest.asked import Asked, Part
from hpcsamp.ingest.numbers import Notation
from hpcsamp.ingest.series_axis import on_axis, zone_of
from hpcsamp.ingest.series_inputs import cycles_of, of_time
from hpcsamp.ingest.series_rows import Columns, read_rows
from hpcsamp.ingest.series_windows import Gaps, SeriesSource, windows_of
from hpcsamp.ingest.source import check_fractions, check_once


def series(
    files: Annotated[Sequence[str | Path], Asked("Csv or parquet files to read.", kind=list[Path])],
    time: Annotated[str, Asked("Column of times.", "--time")],
    target: Annotated[str, Asked("Column of the values to forecast.", "--target")],
    past: Annotated[int, Asked("Number of past values in a window.", "--past", least=1)] = 96,
    future: Annotated[int, Asked("Number of values to forecast.", "--future", least=1)] = 24,
    *,
    every: Annotated[int, Asked("Number of steps between the starts of two windows.", least=1)] = 1,
    id_column: Annotated[
        str | None, Asked("Column that names the series of a row.", "--id")
    ] = None,
    known: Annotated[
        Sequence[str], Asked("Numeric column whose values are known in advance.", "--known")
    ] = (),
    calendar: Annotated[
        str, Asked("Calendar cycles as inputs: auto, none, or some of day+week+year.")
    ] = "auto",
    holidays: Annotated[
        str | None, Asked("Country or COUNTRY-REGION whose holidays are an input, such as DE.")
    ] = None,
    timezone: Annotated[
        str | None,
        Asked("Time zone of the calendar, and of times without a zone, such as Europe/Berlin."),
    ] = None,
    missing: Annotated[
        Gaps, Asked("Windows with missing values: drop, or mask (keep them, with a mask).")
    ] = "drop",
    valid: Part = 0.1,
    test: Part = 0.1,
    delimiter: Annotated[str, Asked("Delimiter of cells: ',', ';', '\\t' ...")] = ",",
    notation: Notation | None = None,
    date_format: Annotated[
        str | None, Asked("Format of times, e.g. '%d.%m.%Y %H:%M'; by default ISO 8601.")
    ] = None,
) -> SeriesSource:
    """Read windows of time series from tables: past values, known covariates, and future values.

    The first part of the time axis is train, then come valid and test; no window crosses from one
    split to the next. Without a calendar, holidays, known columns and a mask, ``x`` has the past
    values, ``(past,)``. With any of them it has ``(rows, past + future)``: the target (of the
    future: its mean over train), whether it is known (0 or 1), and the covariates.

    If there are several series, each is stored after standardising it by the mean and standard
    deviation of its train part; metrics and predictions are in the units of the series. A single
    series is stored in its units.

    Parameters
    ----------
    files
        Tables with the same columns, in any order.
    time, target, id_column, known
        Columns.
    past, future, every
        Lengths of a window, and of the step between two windows, in steps of the series.
    calendar, holidays, timezone
        Inputs that are computed from the time. ``auto`` takes the cycles that are longer than a
        step and not longer than train.
    missing
        What to do with windows that have missing values.
    valid, test
        Fractions of the time axis at its end.

    Raises
    ------
    UsageError
        If a column, zone, cycle or country does not exist.
    DataError
        If a time occurs twice or does not exist, the step is not constant, or no window is
        complete.

    Examples
    --------
    hpcsamp ingest series load.csv --time utc_timestamp --target load --out data/load

    hpcsamp ingest series a.csv --time time --target load --timezone Europe/Berlin --out data/load
    """
    paths = [Path(f) for f in files]
    check_once(paths)
    check_fractions({"valid": valid, "test": test})
    columns = Columns(time, target, tuple(known), id_column)
    zone = zone_of(timezone)
    rows = read_rows(paths, columns, zone, delimiter, notation, date_format)
    names, axis = rows.names, on_axis(rows.seconds, rows.of, rows.names, rows.places)
    every_value = np.full((len(names), 1 + len(known), axis.count), np.nan)
    every_value[rows.of, :, axis.at] = rows.numbers.T
    train_end = round((1 - valid - test) * axis.count)
    cycles = cycles_of(calendar, axis.step, train_end * axis.step)
    more, titles = of_time(axis.times(), cycles, holidays, zone)
    shared = np.broadcast_to(more, (len(names), *more.shape))
    covariates = np.concatenate([every_value[:, 1:], shared], axis=1) if known else more[None]
    report = list(axis.report)
    values, scales = _scaled(every_value[:, 0], names, train_end, report)
    parts = {"train": 1 - valid - test, "valid": 1 - test, "test": 1.0}
    ends = {split: round(part * axis.count) for split, part in parts.items()}
    windows, left = windows_of(values, covariates, ends, past, future, every, missing)
    if "train" not in windows:
        raise DataError(
            f"{paths[0]}: {train_end} of {axis.count} times are train, and they contain no whole "
            f"window of {past} + {future} = {past + future} values"
        )
    if left:
        kept_count = sum(map(len, windows.values()))
        what = "have missing values" if missing == "drop" else "have no known past or future value"
        report.append(f"{left} of {left + kept_count} windows {what} and are left out")
    inputs = [target, "known", *known, *titles]
    plain = missing == "drop" and not known and not titles
    many = len(names) > 1
    fill = [0.0 if many else float(np.nanmean(v[:train_end])) for v in values]
    recipe: dict[str, Any] = {
        "time": time, "target": target, "id": id_column, "known": list(known), "past": past,
        "future": future, "every": every, "step": axis.step, "calendar": calendar, "cycles": cycles,
        "holidays": holidays, "timezone": timezone, "missing": missing, "valid": valid,
        "test": test, "names": names, "scales": scales, "fill": fill,
    }  # fmt: skip
    hours = axis.step / 60 * np.arange(1, future + 1)
    transforms = [*report, f"windows of {past} + {future}, one every {every} steps, split in time"]
    return SeriesSource(
        name=paths[0].stem,
        task="regression",
        normalize_y=True,
        missing="nan" if missing == "mask" else None,
        arrays={
            "x": ArraySpec.plan((past,) if plain else (len(inputs), past + future), "<f4",
                                names=() if plain else inputs),
            "y": ArraySpec.plan((future,), "<f4", units="standard deviations" if many else "",
                                description=target),
        },
        splits={split: len(found) for split, found in windows.items()},
        source={
            "file": ", ".join(p.name for p in paths),
            "sha256": ", ".join(sha256(p) for p in paths),
            "series": recipe,
            **rows.facts,
        },
        transforms=transforms,
        coords={
            "origin": Coordinate(np.empty(0), "minutes since 1970-01-01"),
            "series": Coordinate(np.empty(0)),
            "horizon": Coordinate(hours, "min", 0, ("y",)),
        },
        report=report,
        values=values,
        covariates=covariates,
        windows=windows,
        axis=axis,
        past=past,
        fill=np.asarray(fill),
    )  # fmt: skip


def _scaled(
    values: np.ndarray, names: list[str], train: int, report: list[str]
) -> tuple[np.ndarray, list[list[float]]]:
    """Scale each of several series by its train part; return values, and mean and scale of each."""
    scales = []
    for name, own in zip(names, values, strict=True):
        part = own[:train][np.isfinite(own[:train])]
        if not len(part):
            raise DataError(f"series {name}: none of its {len(own)} times in train has a value")
        std = float(part.std())
        scales.append([float(part.mean()), std or 1.0] if len(names) > 1 else [0.0, 1.0])
    if len(names) > 1:
        report.append(f"{len(names)} series, each standardised by the statistics of its train part")
        values = (values - np.asarray(scales)[:, :1]) / np.asarray(scales)[:, 1:]
    return values, scales

"""Ingest the electricity load of Germany: predict 6 hours from 24 hours (paper, section 5.3).

The load has a value every 15 minutes. The source reads csv files of the ENTSO-E transparency
platform ("Total Load", one file per year) and of Open Power System Data
(``time_series_15min_singleindex.csv``). All values are first placed on a gapless UTC time axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard import sha256
from hpcsamp.data.shard_writer import Coordinate
from hpcsamp.errors import DataError
from hpcsamp.ingest.asked import Asked, Part
from hpcsamp.ingest.load_rows import QUARTER, Row, read_rows, show_minute
from hpcsamp.ingest.numbers import Notation
from hpcsamp.ingest.source import Source, check_fractions

INPUTS, TARGETS = 96, 24
FILL = 4
"""Longest gap, in values, that is interpolated; windows never overlap longer gaps."""


@dataclass
class Series:
    """Load on a gapless time axis.

    Attributes
    ----------
    start
        First time, minutes since 1970-01-01 UTC.
    load
        MW, one value per quarter of an hour; NaN in gaps longer than :data:`FILL`.
    filled
        Number of interpolated values.
    report
        Lines about the gaps and their treatment.
    """

    start: int
    load: np.ndarray
    filled: int = 0
    report: list[str] = field(default_factory=list)


@dataclass
class Windows(Source):
    """Windows of a time series that do not overlap gaps.

    Attributes
    ----------
    series
        The load.
    begin
        Position in the series at which each window of a split begins.
    """

    series: Series | None = None
    begin: dict[str, np.ndarray] = field(default_factory=dict)

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        assert self.series is not None
        at = self.begin[split][start:stop]
        values = self.series.load[at[:, None] + np.arange(INPUTS + TARGETS)].astype(np.float32)
        time = (self.series.start + at * QUARTER).astype(np.float64)
        return {"x": values[:, :INPUTS], "y": values[:, INPUTS:], "time": time}


def entsoe(
    files: Annotated[Sequence[str | Path], Asked("Csv files to read.", kind=list[Path])],
    *,
    valid: Part = 0.1,
    test: Part = 0.1,
    fill: Annotated[
        float, Asked("Largest fraction of the values to interpolate.", least=0, most=1)
    ] = 0.01,
    notation: Notation | None = None,
) -> Windows:
    """Read windows of 96 input and 24 target values, one starting at every quarter of an hour.

    Parameters
    ----------
    files
        Csv files, in any order.
    valid, test
        Fractions of the time axis at its end; no window crosses from one split to the next.
    fill
        Largest fraction of the values that may be interpolated.
    notation
        Notation of the numbers.

    Raises
    ------
    DataError
        If a number or time cannot be parsed or the time axis is broken, with file and line; or if
        the time step is not 15 minutes, or too many values are missing.

    Examples
    --------
    hpcsamp ingest entsoe load.csv --out data/entsoe

    hpcsamp ingest entsoe 2022.csv 2023.csv --out data/entsoe --overwrite
    """
    check_fractions({"valid": valid, "test": test})
    paths = [Path(f) for f in files]
    rows = [row for p in paths for row in read_rows(p, notation)]
    series = on_axis(sorted(rows, key=lambda r: r.minute))
    if series.filled > fill * len(series.load):
        raise DataError(
            f"{', '.join(p.name for p in paths)}: {series.filled} of {len(series.load)} values "
            f"({series.filled / len(series.load):.1%}) are missing in short gaps, but at most "
            f"{fill:.1%} may be interpolated; see --fill"
        )
    good = np.isfinite(series.load)
    length = INPUTS + TARGETS
    ends = {"train": 1 - valid - test, "valid": 1 - test, "test": 1.0}
    begin: dict[str, np.ndarray] = {}
    low, kept, lost = 0, 0, 0
    bad = np.concatenate([[0], np.cumsum(~good)])
    for split, part in ends.items():
        high = round(part * len(good))
        starts = np.arange(low, max(low, high - length + 1))
        whole = bad[starts + length] == bad[starts]
        kept, lost = kept + int(whole.sum()), lost + int((~whole).sum())
        if whole.any():
            begin[split] = starts[whole]
        low = high
    if "train" not in begin:
        raise DataError(
            f"{paths[0]}: {len(good)} values contain no train window of {length} without a gap"
        )
    if lost:
        series.report.append(f"{lost} of {kept + lost} windows touch a long gap and are left out")
    return Windows(
        name="entsoe",
        task="regression",
        normalize_y=True,
        arrays={
            "x": ArraySpec.plan((INPUTS,), "<f4", units="MW", description="load, last 24 hours"),
            "y": ArraySpec.plan((TARGETS,), "<f4", units="MW", description="load, next 6 hours"),
        },
        splits={split: len(rows) for split, rows in begin.items()},
        source={
            "name": "ENTSO-E actual total load, Germany",
            "file": ", ".join(p.name for p in paths),
            "sha256": ", ".join(sha256(p) for p in paths),
        },
        licence="ENTSO-E transparency platform terms; Open Power System Data: CC BY 4.0",
        transforms=[*series.report, f"windows of {INPUTS} + {TARGETS}, split in time"],
        coords={"time": Coordinate(np.empty(0), "minutes since 1970-01-01"), **horizons()},
        report=list(series.report),
        series=series,
        begin=begin,
    )


def horizons() -> dict[str, Coordinate]:
    """Coordinate of the target values: lead time in minutes after the last input value."""
    return {"horizon": Coordinate(15.0 * np.arange(1, TARGETS + 1), "min", 0, ("y",))}


def on_axis(rows: Sequence[Row]) -> Series:
    """Place rows in time order on a gapless axis; interpolate short gaps and report all gaps.

    Raises
    ------
    DataError
        If a time occurs twice.
    """
    first, last = rows[0].minute, rows[-1].minute
    load = np.full((last - first) // QUARTER + 1, np.nan)
    seen = np.zeros(len(load), bool)
    for row in rows:
        at = (row.minute - first) // QUARTER
        if seen[at]:
            raise DataError(
                f"{row.where}: the time axis is broken: {show_minute(row.minute)} occurs twice"
            )
        seen[at], load[at] = True, row.load
    report = [f"{len(rows)} rows from {show_minute(first)} to {show_minute(last)} UTC"]
    missing = ~np.isfinite(load)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(np.int8), [0]])))
    gaps, filled = 0, 0
    for begin, end in edges.reshape(-1, 2).tolist():
        if end - begin <= FILL and begin > 0 and end < len(load):
            load[begin:end] = np.interp(
                np.arange(begin, end), [begin - 1, end], [load[begin - 1], load[end]]
            )
            gaps, filled = gaps + 1, filled + end - begin
        else:
            report.append(
                f"gap of {(end - begin) / 4:g} h from {show_minute(first + begin * QUARTER)} UTC"
            )
    if gaps:
        report.append(
            f"{gaps} gaps of at most {FILL / 4:g} h were interpolated: {filled} of {len(load)} "
            f"values ({filled / len(load):.2%})"
        )
    return Series(first, load, filled, report)

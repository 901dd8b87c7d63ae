"""Times of items: numbers with CF units."""

from __future__ import annotations

import re

import numpy as np

from hpcsamp.errors import DataError

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def parse_times(values: np.ndarray, units: str) -> np.ndarray:
    """Convert numbers with CF units such as ``hours since 1900-01-01`` to datetime64[s].

    Raises
    ------
    DataError
        If the units are not days, hours, minutes or seconds since a date.
    """
    if values.dtype.kind == "M":
        return values.astype("datetime64[s]")
    found = re.fullmatch(r"(second|minute|hour|day)s? since (\S+)(?:[ T](\S+))?.*", units.strip())
    if found is None:
        raise DataError(
            f"times have units {units!r}, but '(hours or days ...) since DATE' is needed"
        )
    unit, day, clock = found.groups()
    try:
        epoch = np.datetime64(day if clock is None else f"{day}T{clock}", "s")
    except ValueError:
        raise DataError(f"times have units {units!r}, whose date cannot be read") from None
    return epoch + np.round(np.asarray(values, float) * SECONDS[unit]).astype("timedelta64[s]")

"""Inputs of a time series that are computed from the time alone: calendar cycles and holidays."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np

from hpcsamp.errors import UsageError
from hpcsamp.ingest.encoding import Date

CYCLES = {"day": 86_400, "week": 7 * 86_400, "year": 365 * 86_400}
"""Names of the calendar cycles, with their lengths in seconds."""


def cycles_of(calendar: str, step: int, train: int) -> list[str]:
    """Return the calendar cycles that are inputs.

    Parameters
    ----------
    calendar
        ``none``, names joined by ``+``, or ``auto`` for the cycles that are longer than a step and
        not longer than the training part.
    step, train
        Seconds of a step and of the training part.

    Raises
    ------
    UsageError
        If a cycle does not exist.
    """
    if calendar == "auto":
        return [c for c, n in CYCLES.items() if step < n <= train]
    cycles = [] if calendar == "none" else calendar.split("+")
    for cycle in cycles:
        if cycle not in CYCLES:
            raise UsageError(f"--calendar {calendar}: {cycle!r} is not one of {', '.join(CYCLES)}")
    return cycles


def of_time(
    seconds: np.ndarray, cycles: Sequence[str], holidays: str | None, zone: dt.tzinfo | None
) -> tuple[np.ndarray, list[str]]:
    """Return inputs computed from times, ``(inputs, times)``, and their names.

    Parameters
    ----------
    seconds
        Times in seconds since 1970-01-01 UTC.
    cycles
        See :func:`cycles_of`.
    holidays
        Country or ``COUNTRY-REGION``; None for no such input.
    zone
        Zone of the calendar; None for UTC.

    Raises
    ------
    UsageError
        If the package ``holidays`` is missing, or does not know the place.
    """
    if zone is not None:
        shifts = [dt.datetime.fromtimestamp(int(s), zone).utcoffset() for s in seconds]
        seconds = seconds + np.asarray([int(s.total_seconds()) if s else 0 for s in shifts])
    found: list[np.ndarray] = []
    titles: list[str] = []
    if cycles:
        date = Date("time", tuple(cycles))
        found += list(date.encode(seconds.astype("datetime64[s]").astype("M8[ns]"), "").T)
        titles += date.names
    if holidays is not None:
        found.append(_holidays(seconds, holidays))
        titles.append(f"holiday in {holidays}")
    return (np.stack(found) if found else np.empty((0, len(seconds)))), titles


def _holidays(seconds: np.ndarray, place: str) -> np.ndarray:
    """Return whether each local time is on a public holiday, using the package ``holidays``."""
    try:
        import holidays
    except ImportError:
        raise UsageError(
            "--holidays needs the package holidays: pip install hpcsamp[series]"
        ) from None
    country, _, region = place.partition("-")
    days = seconds.astype("datetime64[s]").astype("datetime64[D]")
    each, back = np.unique(days, return_inverse=True)
    try:
        free = holidays.country_holidays(country, subdiv=region or None)
    except NotImplementedError as e:
        raise UsageError(f"--holidays {place}: {e}") from None
    return np.asarray([float(day in free) for day in each.tolist()])[back]

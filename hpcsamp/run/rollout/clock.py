"""Times of a forecast: initial times, the length of a step, and valid times."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from hpcsamp.data.manifest import Manifest
from hpcsamp.errors import DataError

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
HOURS = "hours since 1970-01-01"


@dataclass(frozen=True)
class Clock:
    """Initial times of the items of a split and the length of a step.

    Attributes
    ----------
    times
        ``(N,)`` datetime64[s] of the inputs; None if the dataset has no times.
    step
        Length of a step; None if the dataset does not state it.
    """

    times: np.ndarray | None
    step: np.timedelta64 | None

    def at(self, index: np.ndarray, lead: int) -> np.ndarray:
        """Return the times of items after ``lead`` steps."""
        assert self.times is not None
        assert self.step is not None
        found: np.ndarray = self.times[index] + lead * self.step
        return found

    def item_at(self, lead: int) -> np.ndarray:
        """Return, for each item, the item whose input is ``lead`` steps later, or -1."""
        if self.times is None or self.step is None:
            return np.full(0 if self.times is None else len(self.times), -1)
        order = np.argsort(self.times, kind="stable")
        wanted = self.times + lead * self.step
        place = np.searchsorted(self.times[order], wanted).clip(max=len(order) - 1)
        found = order[place]
        return np.where(self.times[found] == wanted, found, -1)


def clock_of(manifest: Manifest, per_item: dict[str, tuple[np.ndarray, str]]) -> Clock:
    """Read initial times and the length of a step from a dataset.

    Parameters
    ----------
    per_item
        Coordinates with one value for each item, and their units.

    Raises
    ------
    DataError
        If the units of the times are unknown.
    """
    times = None
    if "time" in per_item:
        times = parse_times(*per_item["time"])
    stated = manifest.meaning.get("y", {}).get("lead", "")
    amount, _, unit = stated.partition(" ")
    step = None
    if unit == "h":
        step = np.timedelta64(round(float(amount) * 3600), "s")
    elif unit == "items" and times is not None and len(times) > 1:
        step = int(amount) * np.diff(np.sort(times)).min()
    return Clock(times, step)


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

"""Times of a forecast: initial times, the length of a step, and valid times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcsamp.data.manifest import Manifest
from hpcsamp.data.times import parse_times


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

    @property
    def known(self) -> bool:
        """Whether the times of all lead times are known."""
        return self.times is not None and self.step is not None

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

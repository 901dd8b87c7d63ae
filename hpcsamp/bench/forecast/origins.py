"""Windows of a series set: past, future and covariates, and the series that they are cut from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.tasks.coordinates import read_coordinates


@dataclass(frozen=True)
class Origins:
    """Windows of one split as the set stores them.

    Attributes
    ----------
    past, future
        ``(n, P)`` and ``(n, F)`` values; NaN where missing.
    more
        ``(n, C, F)`` covariates of the future.
    origin
        ``(n,)`` time of the last past value in seconds since 1970-01-01 UTC.
    series
        ``(n,)`` index of the series.
    std
        ``(n,)`` standard deviation by which the series was divided; 1 for a single series.
    step
        Seconds of a step.
    """

    past: np.ndarray
    future: np.ndarray
    more: np.ndarray
    origin: np.ndarray
    series: np.ndarray
    std: np.ndarray
    step: int

    def __len__(self) -> int:
        return len(self.past)

    @property
    def leads(self) -> int:
        """Number of values of a forecast."""
        return int(self.future.shape[1])

    def take(self, rows: np.ndarray) -> Origins:
        """Return some of the windows."""
        return replace(
            self,
            past=self.past[rows],
            future=self.future[rows],
            more=self.more[rows],
            origin=self.origin[rows],
            series=self.series[rows],
            std=self.std[rows],
        )


def recipe_of(dataset: Dataset) -> dict[str, Any]:
    """Return how ``hpcsamp ingest series`` made a set.

    Raises
    ------
    UsageError
        If it was made by another command.
    """
    found = dataset.manifest.source.get("series")
    if not isinstance(found, dict):
        raise UsageError(
            f"{dataset.path} was not made by hpcsamp ingest series: only windows of a time series "
            f"with their times can be compared with forecasts of statistical models"
        )
    return found


def read_origins(path: Path, split: str) -> Origins:
    """Read all windows of a split of a series set.

    Raises
    ------
    DataError
        If the set cannot be read, or has no such split.
    UsageError
        If it is not a series set.
    """
    with Dataset.open(path, split) as dataset:
        recipe = recipe_of(dataset)
        x, y = dataset.read(range(dataset.count))
        coords = read_coordinates(dataset).per_item
    past, more = recipe["past"], np.empty((len(x), 0, recipe["future"]))
    if x.ndim == 3:
        known = x[:, 1, :past] > 0
        x, more = np.where(known, x[:, 0, :past], np.nan), x[:, 2:, past:].copy()
    origin = np.rint(60 * coords["origin"][0]).astype(np.int64)
    series = coords["series"][0].astype(np.int64)
    std = np.asarray(recipe["scales"], float)[series, 1]
    return Origins(
        np.asarray(x, float), np.asarray(y, float), more, origin, series, std, int(recipe["step"])
    )


def one_series(parts: list[Origins], series: int) -> tuple[np.ndarray, int]:
    """Put the windows of a series on a time axis.

    Returns
    -------
    values, first
        ``(times,)`` values, NaN where no window has one, and the first time in seconds.
    """
    at, known = [], []
    for of in parts:
        own = of.take(np.flatnonzero(of.series == series))
        leads = np.arange(1 - own.past.shape[1], 1 + own.leads)
        at.append((own.origin[:, None] + own.step * leads).ravel())
        known.append(np.concatenate([own.past, own.future], axis=1).ravel())
    times, values, step = np.concatenate(at), np.concatenate(known), parts[0].step
    first = int(times.min())
    found = np.full(int(times.max() - first) // step + 1, np.nan)
    seen = np.isfinite(values)
    found[(times[seen] - first) // step] = values[seen]
    return found, first
